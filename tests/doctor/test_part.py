"""What the daemon says by itself of a line that is down: the layer, once, in the log, the status and Connected."""

from __future__ import annotations

import json
from typing import Any

import pytest

from iotd.doctor import rows
from iotd.doctor.facts import Clock, Facts
from iotd.doctor.known import known
from tests.sim.world import Simulation

CONFIGURATION = 'mqtt: {host: broker}\npublish: [{topic: a, every: 60s, payload: {}}]\n'
WIFI = 'wifi: {essid: [fleet-ap], recover: []}\n'


def lived(configuration: str, cut_for_s: float, ssid: bytes | None = b"fleet-ap") -> Simulation:
    """Return a device whose line was cut for so long, and is up again."""
    simulation = Simulation(configuration)
    simulation.start()
    simulation.run(100.0)
    simulation.cut_line()
    simulation.ssid = ssid
    simulation.run(cut_for_s)
    return simulation


def status(simulation: Simulation) -> dict[str, Any]:
    assert simulation.daemon is not None
    return simulation.daemon.status()


def mend(simulation: Simulation) -> dict[str, Any]:
    """Let the line come up again; return what Connected tells of the outage."""
    simulation.network_is_up, simulation.ssid = True, b"fleet-ap"
    simulation.run(300.0)
    over = simulation.entries("outage.over")[-1]
    said = [delivered.json() for delivered in simulation.broker.on("MQTTServer/pi/will")]
    told = next(body["outage"] for body in reversed(said) if "outage" in body)
    assert told["layer"] == over["layer"]
    return dict(told)


def test_a_line_that_is_down_for_long_is_judged_once() -> None:
    simulation = lived(CONFIGURATION, 299.0)
    assert simulation.entries("doctor.verdict") == [] and status(simulation)["verdict"] is None
    simulation.run(1000.0)
    [verdict] = simulation.entries("doctor.verdict")
    assert (verdict["level"], verdict["layer"]) == ("warning", "tcp") and verdict["finding"] and verdict["fix"]
    assert status(simulation)["verdict"]["layer"] == "tcp"
    assert mend(simulation)["layer"] == "tcp" and status(simulation)["verdict"] is None


def test_a_verdict_that_is_no_longer_true_is_another_and_told_so() -> None:
    simulation = lived(CONFIGURATION + WIFI, 400.0, ssid=None)
    simulation.ssid = b"fleet-ap"
    simulation.run(700.0)
    assert [entry["layer"] for entry in simulation.entries("doctor.verdict")] == ["association", "tcp"]
    assert status(simulation)["verdict"]["layer"] == "tcp"


def test_an_outage_that_the_wifi_explains_is_laid_to_it_however_short() -> None:
    simulation = lived(CONFIGURATION + WIFI, 60.0, ssid=b"guest")
    assert status(simulation)["down"]["layer"] == "association"
    assert mend(simulation)["layer"] == "association" and simulation.entries("doctor.verdict") == []


def test_a_verdict_names_the_lowest_layer() -> None:
    simulation = lived(CONFIGURATION + WIFI, 400.0, ssid=None)
    [verdict] = simulation.entries("doctor.verdict")
    assert verdict["layer"] == "association" and mend(simulation)["layer"] == "association"


def test_a_short_outage_has_the_layer_of_the_step_that_failed() -> None:
    assert mend(lived(CONFIGURATION, 30.0))["layer"] == "tcp"


def test_each_outage_is_judged_for_itself() -> None:
    simulation = lived(CONFIGURATION + WIFI, 400.0, ssid=None)
    mend(simulation)
    assert simulation.connected is not None
    simulation.connected.lose("closed")
    simulation.run(120.0)
    assert [entry["layer"] for entry in simulation.entries("outage.over")] == ["association", "mqtt"]


def test_the_status_says_why_there_is_no_line_and_when_the_next_is_tried() -> None:
    simulation = lived(CONFIGURATION, 200.0)
    down = status(simulation)["down"]
    assert down["cause"] == "tcp" and down["reason"] and down["for_s"] == pytest.approx(200.0, abs=1.0)
    assert down["since"] == pytest.approx(1_790_000_100, abs=2) and not status(simulation)["connected"]
    mend(simulation)
    assert status(simulation)["down"] is None and status(simulation)["contested"] is False


def test_a_second_client_with_the_same_id_is_a_problem_until_the_line_has_proven_stable() -> None:
    simulation = Simulation(CONFIGURATION)
    simulation.start()
    simulation.run(100.0)
    for _ in range(6):  # the first ends a line that was stable
        assert simulation.connected is not None
        simulation.connected.lose("closed")
        simulation.run(1.0)
        while not status(simulation)["connected"]:
            simulation.run(1.0)
        simulation.run(3.0)
    told = status(simulation)
    assert told["contested"] and any("same client id" in problem for problem in told["problems"])
    assert known(told)["mqtt"].contested
    simulation.run(60.0)
    assert not status(simulation)["contested"] and status(simulation)["healthy"]


def down(cause: str, layer: str, **more: Any) -> dict[str, Any]:
    return {"connected": False, "host": "b", "port": 8883, "down": {"cause": cause, "layer": layer, "reason": "why"},
            **more}


@pytest.mark.parametrize("told, layer", [
    (down("dns", "dns"), "dns"), (down("tcp", "tcp"), "tcp"), (down("tls", "tls"), "tls"),
    (down("certificate", "tls"), "tls"), (down("certificate", "certificates"), "certificates"),
    (down("clock", "clock"), "clock"), (down("refused", "mqtt"), "mqtt"), (down("connack", "mqtt"), "mqtt"),
    (down("closed", "mqtt"), "mqtt"), (down("silent", "tcp"), "mqtt"), (down("unheard-of", ""), "mqtt"),
    (down("dns", "dns", wifi={"outcome": "disconnected", "essid": None, "reason": "off"}), "association"),
    (down("dns", "dns", wifi={"outcome": "associated", "essid": "guest"}), "association"),
    (down("dns", "dns", wifi={"outcome": "associated", "essid": "fleet-ap"}), "dns"),
    (down("dns", "dns", wifi={"outcome": "absent", "reason": "there is no interface wlan0"}), "association"),
    (down("tls", "tls", wifi={"outcome": "absent", "reason": "there is no interface wlan0"}), "tls"),
    (down("", ""), None), ({"connected": True}, None), ({"connected": True, "contested": True}, "mqtt"),
    ({"connected": True, "problems": ["publish to a denied"]}, "policy"),
])
def test_what_a_status_says_is_judged_by_the_same_rows(told: dict[str, Any], layer: str | None) -> None:
    cause = rows.cause(rows.judge(Facts(
        **known(json.loads(json.dumps(told)), ("fleet-ap",)), clock=Clock(0.0, None, 0.0))))
    assert (cause and cause.layer) == layer


def test_a_connection_that_is_refused_is_no_policy_that_denies() -> None:
    told = down("tcp", "tcp", problems=["not connected: 192.0.2.9 port 8884: connection refused", "a/b refused"])
    assert known(told)["policy"].denied == ("a/b refused",)


@pytest.mark.parametrize("told", [
    {"down": 7, "problems": "x", "wifi": [], "dropped": 3, "waiting": "many", "poison": []},
    {"down": {"cause": [], "reason": {}}, "problems": [None, {}], "wifi": {"outcome": 5, "rssi_dbm": "x"},
     "dropped": {"a": "b"}, "waiting": -1, "configuration": {"problems": 5}},
    {"connected": "yes", "contested": 1, "waiting": 1e999, "down": None, "configuration": []},
])
def test_a_status_of_another_shape_is_seen_as_far_as_it_makes_sense(told: dict[str, Any]) -> None:
    rows.judge(Facts(**known(told)))


def test_messages_that_are_set_aside_are_told_by_their_topics_in_the_status_the_shadow_and_by_doctor() -> None:
    simulation = Simulation("mqtt: {host: broker}\npublish: [{topic: bad, every: 1h, payload: {n: '{sequence}'}}]\n"
                            "shadows: [{name: a, every: 30s, on_delta: {x: {run: [/bin/true, '{value}']}}}]\n")
    simulation.broker.denied = {"bad"}
    simulation.start()
    simulation.run(900.0)
    assert status(simulation)["poison"] == {"bad": 1}
    assert any(said.startswith("set aside: 1 messages of bad") for said in status(simulation)["sentences"])
    assert simulation.broker.shadows.state("pi", "a")["reported"]["iotd"]["set_aside"] == 1
    [finding] = [row for row in rows.judge(Facts(**known(status(simulation)))) if row.layer == "backlog"]
    assert finding.level == "warning" and "1 messages ended the line" in finding.finding
    simulation.kill()
    simulation.start()
    simulation.run(10.0)
    assert status(simulation)["poison"] == {"bad": 1}


def test_a_shadow_tells_of_the_last_outage_in_its_own_key() -> None:
    simulation = lived(CONFIGURATION + WIFI + "shadows: [{name: a, on_delta: {x: {run: [/bin/true, '{value}']}}}]\n",
                       60.0, ssid=None)
    mend(simulation)
    assert simulation.daemon is not None
    told = simulation.daemon.about()
    assert told["problems"] is None and told["outage"]["layer"] == "association"
    own = simulation.broker.shadows.state("pi", "a")["reported"]["iotd"]
    assert own["outage"] == told["outage"] and not own.get("problems")
