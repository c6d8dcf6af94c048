"""A day of one device: an outage, a restart, a kill, a lost Wi-Fi, in no time and without a thread."""

import io
import itertools
import json
import threading

from iotd.vocabulary import ThreadFailed
from tests.sim.world import Simulation

HOUR_S, DAY_S = 3600.0, 86400.0
TOPIC, PRESENCE = "plant/pi/state", "MQTTServer/pi/will"
CONFIGURATION = """\
mqtt: {host: broker, limits: aws}
publish:
  - {topic: "plant/{thing}/state", every: 60s, payload: {n: "{sequence}", run: "{run}", at: "{timestamp}"}}
subscribe: [{topic: "plant/all/notice"}]
shadows:
  - name: device_0
    every: 10m
    reported: {state: "{health}", essid: "{essid}"}
    on_delta: {every: {set: "publish[0].every"}}
wifi: {essid: [fleet-ap], recover: [reconnect, reboot]}
"""


def numbers(simulation: Simulation) -> list[tuple[str, int]]:
    """Return run and number of every message that came to the broker, in order."""
    bodies = [delivered.json() for delivered in simulation.broker.on(TOPIC)]
    return [(body["run"], body["n"]) for body in bodies]


def statuses(simulation: Simulation) -> list[str]:
    return [delivered.json()["status"] for delivered in simulation.broker.on(PRESENCE)]


def lived_day() -> Simulation:
    """Live a day: six hours well, two without a network, a clean restart, a kill, and on to its end."""
    simulation = Simulation(CONFIGURATION)
    simulation.start()
    simulation.run(6 * HOUR_S)
    simulation.cut_line()
    simulation.run(2 * HOUR_S)
    simulation.network_is_up = True
    simulation.run(HOUR_S)
    simulation.stop()
    simulation.run(30.0)
    simulation.start()
    simulation.run(HOUR_S)
    simulation.kill()
    simulation.run(5.0)
    simulation.start()
    simulation.run(DAY_S - simulation.schedule.now)
    return simulation


def test_a_day_with_an_outage_and_two_restarts_loses_nothing_and_keeps_the_order() -> None:
    simulation = lived_day()
    found = numbers(simulation)
    first_of_run = {run: number for run, number in reversed(found)}
    assert len(first_of_run) == 3 and set(first_of_run.values()) == {1}
    assert found == sorted(found, key=lambda entry: list(dict.fromkeys(run for run, _ in found)).index(entry[0]))
    once = list(dict.fromkeys(found))
    assert len(once) >= 24 * 60 - 2
    for run in first_of_run:
        seen = [number for name, number in once if name == run]
        assert seen == list(range(1, len(seen) + 1))
    assert json.loads(simulation.broker.retained[TOPIC].payload)["n"] == found[-1][1]


def test_presence_tells_the_day_as_it_was() -> None:
    simulation = lived_day()
    # The kept session gives each will back to the device whose it was, which answers it: Connected comes twice then.
    assert [word for word, _ in itertools.groupby(statuses(simulation))] == [
        "Connected", "Communication lost", "Connected", "Stopped", "Connected", "Communication lost", "Connected"]
    [over] = simulation.entries("outage.over")
    assert 2 * HOUR_S <= over["for_s"] < 2 * HOUR_S + 180 and over["dropped"] == 0


def test_the_last_word_comes_no_sooner_after_the_one_before_than_the_broker_takes_it() -> None:
    simulation = Simulation(CONFIGURATION)
    simulation.start()
    simulation.run(0.3)
    simulation.stop()
    connected, stopped = simulation.broker.on(PRESENCE)[-2:]
    assert (connected.json()["status"], stopped.json()["status"]) == ("Connected", "Stopped")
    assert stopped.at - connected.at >= 1.0


def test_after_a_fault_of_ours_the_will_is_said() -> None:
    simulation = Simulation(CONFIGURATION)
    simulation.start()
    simulation.run(HOUR_S)
    assert simulation.daemon is not None
    simulation.daemon.post(ThreadFailed("mqtt", "a traceback"))
    simulation.run(1.0)
    assert statuses(simulation)[-1] == "Communication lost"


def test_a_shadow_reports_the_whole_day_and_an_order_takes_effect_over_a_restart() -> None:
    simulation = Simulation(CONFIGURATION)
    simulation.start()
    simulation.run(HOUR_S)
    simulation.broker.shadows.desire("pi", "device_0", {"every": "30s"})
    simulation.run(60.0)
    state = simulation.broker.shadows.state("pi", "device_0")
    assert state["reported"]["every"] == "30s" and state["reported"]["essid"] == "fleet-ap"
    simulation.kill()
    simulation.start()
    before = len(numbers(simulation))
    simulation.run(10 * 60.0)
    assert 19 <= len(numbers(simulation)) - before <= 21


def test_a_lost_wifi_is_asked_for_and_a_reboot_only_without_a_line() -> None:
    simulation = Simulation(CONFIGURATION)
    simulation.start()
    simulation.run(HOUR_S)
    simulation.air.ssid = None
    simulation.run(HOUR_S)
    assert [entry["action"] for entry in simulation.entries("recovery.step")][0] == "reconnect"
    assert {entry["action"] for entry in simulation.entries("recovery.step")} == {"reconnect"}
    assert simulation.entries("recovery.withheld")[-1]["reason"] == "MQTT is connected"
    simulation.cut_line()
    simulation.run(HOUR_S)
    assert "reboot" in {entry["action"] for entry in simulation.entries("recovery.step")}
    assert 1 <= simulation.boots <= 3


def test_a_device_that_is_well_says_nothing_for_a_day() -> None:
    log = io.StringIO()
    simulation = Simulation(CONFIGURATION, log=log)
    simulation.start()
    simulation.run(HOUR_S)
    said = log.getvalue()
    simulation.run(DAY_S)
    assert log.getvalue() == said


def test_no_thread_lives_a_simulated_day() -> None:
    before = threading.active_count()
    lived_day()
    assert threading.active_count() == before
