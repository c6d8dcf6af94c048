"""A broker that denies, refuses, forgets or keeps silent, and what a device does about it."""

from __future__ import annotations

import json
import signal

import pytest

from iotd.daemon import presence
from iotd.host.identity import Identity
from iotd.shadows.messages import ANSWERS
from iotd.vocabulary import Message, Signalled
from tests.sim.world import Simulation

HOUR_S, DAY_S = 3600.0, 86400.0
STATE, PRESENCE, NOTICE = "plant/pi/state", "MQTTServer/pi/will", "plant/all/notice"
SHADOW = "$aws/things/pi/shadow/name/a"
FILTERS = {f"{SHADOW}/{answer}" for answer in ANSWERS}
REQUESTS = {f"{SHADOW}/get", f"{SHADOW}/update"}
CONFIGURATION = """\
mqtt: {host: broker, limits: aws}
publish:
  - {topic: "plant/{thing}/state", every: 10s, payload: {n: "{sequence}"}}
  - {topic: "plant/{thing}/daily", every: 1d, payload: {n: "{sequence}", hostname: "{hostname}"}}
subscribe: [{topic: "plant/all/notice"}]
shadows:
  - {name: a, every: 30s, reported: {state: "{health}"}}
  - {name: b, every: 30s, reported: {state: "{health}"}}
"""


def begun(configuration: str = CONFIGURATION, seed: int = 0) -> Simulation:
    """Return a device that has lived for ten minutes and is well."""
    simulation = Simulation(configuration, seed=seed)
    simulation.start()
    simulation.run(600.0)
    return simulation


def words(simulation: Simulation) -> list[str]:
    return [delivered.json()["status"] for delivered in simulation.broker.on(PRESENCE)]


def end_line(simulation: Simulation, cause: str = "closed") -> None:
    assert simulation.connected is not None
    simulation.connected.lose(cause)


def subscribed(simulation: Simulation) -> set[str]:
    """Return every filter that this run has asked for."""
    assert simulation.connected is not None
    return {name for names in simulation.connected.subscribed for name in names}


def test_a_device_that_is_stopped_just_after_connected_says_so_as_soon_as_the_broker_takes_it() -> None:
    simulation = Simulation("mqtt: {host: broker}\n")
    simulation.start()
    simulation.run(0.1)
    assert simulation.daemon is not None and words(simulation) == ["Connected"]
    simulation.daemon.post(Signalled(signal.SIGTERM))
    simulation.run(presence.PAUSE_S + 0.1)
    assert words(simulation) == ["Connected", "Stopped"] and simulation.daemon is None
    connected, stopped = simulation.broker.on(PRESENCE)
    assert presence.PAUSE_S <= stopped.at - connected.at < presence.PAUSE_S + 0.05


# Denied by closing the line.

@pytest.mark.parametrize("denied", [FILTERS, REQUESTS, FILTERS | REQUESTS, {f"{SHADOW}/update/documents"}])
@pytest.mark.parametrize("seed", range(3))
def test_a_denied_shadow_is_one_action_found_within_a_minute_while_messages_arrive(
        denied: set[str], seed: int) -> None:
    simulation = Simulation(CONFIGURATION, seed=seed)
    simulation.broker.denied = denied
    simulation.start()
    simulation.run(HOUR_S - 10.0)
    assert words(simulation).count("Communication lost") <= 4
    assert [entry["action"] for entry in simulation.entries("session.denied")] == ["shadow a"]
    assert len(simulation.log.getvalue().splitlines()) < 25
    arrived = [delivered.at for delivered in simulation.broker.on(STATE)]
    assert arrived[0] < 10.0 and max(after - before for before, after in zip(arrived, arrived[1:])) < 25.0
    assert simulation.broker.shadows.state("pi", "b")["reported"]["state"]
    assert simulation.daemon is not None and not simulation.entries("session.contested")


@pytest.mark.parametrize("was_welcome", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_a_denied_topic_is_found_beside_shadows_that_are_asked_for_on_every_line(was_welcome: bool, seed: int) -> None:
    simulation = Simulation(CONFIGURATION, seed=seed)
    simulation.broker.denied = set() if was_welcome else {STATE}
    simulation.start()
    simulation.run(600.0)
    simulation.broker.denied = {STATE}
    simulation.run(HOUR_S - 600.0)
    assert [entry["topic"] for entry in simulation.entries("publish.denied")] == [STATE]
    assert not simulation.entries("session.contested") and not simulation.entries("session.denied")
    assert len(simulation.entries("session.connected")) < 25


def test_what_rests_is_asked_for_again_on_the_first_line_after_an_hour() -> None:
    simulation = Simulation(CONFIGURATION)
    simulation.broker.denied = FILTERS
    simulation.start()
    simulation.run(HOUR_S - 60.0)
    assert len(simulation.entries("session.denied")) == 1 and ("pi", "a") not in simulation.broker.shadows.documents
    simulation.cut_line()
    simulation.run(300.0)
    simulation.broker.denied = set()
    simulation.network_is_up = True
    simulation.run(300.0)
    assert simulation.broker.shadows.state("pi", "a")["reported"]["state"]


@pytest.mark.parametrize("denied, action", [(REQUESTS, "shadow a"), ({"$aws/things/pi/jobs/$next/get"}, "jobs")])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_denied_in_the_midst_of_a_line_is_found_beside_another_wing_that_asks_on_every_line(
        denied: set[str], action: str, seed: int) -> None:
    """The session is kept, so that nothing is subscribed, and all that is left to blame is what each asks for."""
    simulation = begun(CONFIGURATION + "jobs: {handlers: {well: {run: [well]}}}\n", seed)
    simulation.broker.denied = denied
    if action == "jobs":
        simulation.broker.close("closed", "the broker closed the line")
    simulation.run(HOUR_S / 2)
    assert [entry["action"] for entry in simulation.entries("session.denied")] == [action]
    assert simulation.session is not None and simulation.session.up
    assert len(simulation.entries("session.connected")) < 10


@pytest.mark.parametrize("denied", [FILTERS, REQUESTS, {NOTICE}])
def test_what_rests_is_asked_for_again_on_a_line_that_stays(denied: set[str]) -> None:
    """A line of weeks kept a device without its shadow long after the policy was mended."""
    simulation = Simulation(CONFIGURATION)
    simulation.broker.denied = denied
    simulation.start()
    simulation.run(HOUR_S / 2)
    simulation.broker.denied = set()
    lines = len(simulation.entries("session.connected"))
    simulation.run(HOUR_S)
    assert simulation.daemon is not None and simulation.daemon.status()["healthy"]
    assert simulation.broker.shadows.state("pi", "a")["reported"]["state"]
    assert NOTICE in simulation.broker.clients["pi"].filters
    assert len(simulation.entries("session.connected")) == lines


def test_what_rests_is_asked_for_again_one_after_the_other_on_a_line_that_stays() -> None:
    """Were both still denied, a line that ends over the two of them would accuse neither."""
    simulation = Simulation(CONFIGURATION.replace("{topic: \"plant/all/notice\"}", "{topic: a}, {topic: b}"))
    simulation.broker.refused = {"a", "b"}
    simulation.start()
    simulation.run(HOUR_S / 2)
    simulation.broker.refused = set()
    assert simulation.connected is not None
    before = len(simulation.connected.subscribed)
    simulation.run(HOUR_S)
    assert simulation.connected.subscribed[before:] == [("a",), ("b",)]


def test_what_is_still_denied_costs_a_line_an_hour_and_the_rest_goes_on() -> None:
    simulation = Simulation(CONFIGURATION)
    simulation.broker.denied = FILTERS | {NOTICE}
    simulation.start()
    simulation.run(HOUR_S)
    lines = len(simulation.entries("session.connected"))
    simulation.run(4 * HOUR_S)
    actions = [entry["action"] for entry in simulation.entries("session.denied")]
    assert set(actions) == {"shadow a", f"subscription to {NOTICE}"} and len(actions) <= 2 * 5
    assert len(simulation.entries("session.connected")) - lines <= 2 * 4
    numbers = [delivered.json()["n"] for delivered in simulation.broker.on(STATE)]
    assert set(numbers) == set(range(1, max(numbers) + 1)) and simulation.entries("publish.denied") == []


def test_a_filter_that_was_refused_is_asked_for_again_on_a_line_that_stays() -> None:
    simulation = Simulation(CONFIGURATION)
    simulation.broker.refused = {NOTICE}
    simulation.start()
    simulation.run(HOUR_S / 2)
    simulation.broker.refused = set()
    simulation.run(HOUR_S)
    assert NOTICE in simulation.broker.clients["pi"].filters
    assert simulation.daemon is not None and simulation.daemon.status()["healthy"]
    assert len(simulation.entries("session.connected")) == 1


def test_a_policy_that_denies_one_of_many_lets_the_others_in_first() -> None:
    """On a clean session all is subscribed on every line."""
    simulation = begun(CONFIGURATION.replace("limits: aws", "limits: aws, clean_session: true"))
    simulation.broker.denied = {NOTICE}
    end_line(simulation)
    simulation.run(300.0)
    assert [entry["action"] for entry in simulation.entries("session.denied")] == [f"subscription to {NOTICE}"]
    assert simulation.connected is not None
    careful = [names for names in simulation.connected.subscribed if len(names) < 8]
    last = max(index for index, names in enumerate(careful) if names == (NOTICE,))
    assert set(careful[last - 1]) == {name.replace("/a/", "/b/") for name in FILTERS}


# Refused in the answer.

@pytest.mark.parametrize("strict", [True, False])
def test_what_was_refused_in_the_answer_is_not_asked_for_again_within_its_hour(strict: bool) -> None:
    """RabbitMQ 4 answers a refused SUBSCRIBE by 0x80, and closes the line as well."""
    simulation = Simulation(CONFIGURATION)
    simulation.broker.refused, simulation.broker.strict = {NOTICE}, strict
    simulation.start()
    simulation.run(600.0)
    for _ in range(8):
        end_line(simulation)
        simulation.run(300.0)
    assert simulation.connected is not None
    assert sum(NOTICE in names for names in simulation.connected.subscribed) == 1
    [refused] = simulation.entries("subscription.refused")
    assert refused["filter"] == NOTICE and not simulation.entries("session.contested")
    assert len(simulation.broker.on(STATE)) > 250
    simulation.run(600.0)
    end_line(simulation)
    simulation.run(60.0)
    assert sum(NOTICE in names for names in simulation.connected.subscribed) == 2


# A second client.

def short_line(simulation: Simulation, away: bool = False) -> None:
    """End the line, and let the next one live for three seconds; `away`: a dial in between fails."""
    end_line(simulation)
    up = len(simulation.entries("session.connected"))
    simulation.broker.is_up = not away
    assert simulation.connected is not None
    line = simulation.connected.line
    while simulation.connected.line == line:
        simulation.run(1.0)
    simulation.run(1.0)
    simulation.broker.is_up = True
    while len(simulation.entries("session.connected")) == up:
        simulation.run(1.0)
    simulation.run(3.0)


def test_restarts_of_the_broker_in_a_row_are_no_second_client() -> None:
    simulation = Simulation(CONFIGURATION)
    simulation.start()
    simulation.run(5.0)
    for _ in range(4):
        short_line(simulation)
    assert not simulation.entries("session.contested")
    simulation.run(60.0)
    for _ in range(12):
        short_line(simulation, away=True)
    assert not simulation.entries("session.contested")


def test_a_second_client_that_takes_every_line_is_named() -> None:
    simulation = begun()
    for _ in range(8):
        short_line(simulation)
    assert len(simulation.entries("session.contested")) == 1


def test_a_copied_card_is_named_as_soon_as_its_word_was_heard_with_what_is_known_of_both() -> None:
    simulation = begun()
    simulation.stop()
    simulation.identity = simulation.identity._replace(cpu_serial="1234")
    simulation.start()
    simulation.run(5.0)
    simulation.stop()
    simulation.identity = simulation.identity._replace(cpu_serial="5678")
    simulation.start()
    simulation.run(5.0)
    for number in range(3):
        copy = {"Hostname": "other", "status": "Connected", "session": f"copy {number}"}
        simulation.broker.publish(Message(PRESENCE, json.dumps(copy).encode(), 1, True))
        simulation.run(0.5)
        short_line(simulation)
    [entry] = simulation.entries("session.contested")
    assert (entry["rival_hostname"], entry["cpu_serial"], entry["moved_from"]) == ("other", "5678", "1234")


def test_a_card_that_has_moved_to_another_board_is_named_once_also_after_a_power_cut() -> None:
    simulation = begun()
    assert simulation.entries("identity.moved") == []
    for serial in ("1234", "1234", "5678", "5678"):
        simulation.stop()
        simulation.disk.cut()
        simulation.identity = simulation.identity._replace(cpu_serial=serial)
        simulation.start()
        simulation.run(5.0)
    [moved] = simulation.entries("identity.moved")
    assert (moved["thing"], moved["moved_from"], moved["cpu_serial"]) == ("pi", "1234", "5678")


def test_a_card_that_was_given_another_thing_has_not_moved() -> None:
    simulation = begun()
    for serial, thing in (("1234", "pi"), ("5678", "pi-2")):
        simulation.stop()
        simulation.identity = simulation.identity._replace(cpu_serial=serial)
        simulation.configuration += f"thing: {thing}\n"
        simulation.start()
        simulation.configuration = simulation.configuration.replace(f"thing: {thing}\n", "")
    assert simulation.entries("identity.moved") == []


# Never acknowledged.

def test_a_topic_that_is_never_acknowledged_is_named_and_rests_while_the_other_goes_on() -> None:
    simulation = begun()
    simulation.broker.mute = {"plant/pi/daily"}
    simulation.run(DAY_S + HOUR_S)
    named = [entry for event in ("publish.set_aside", "publish.denied") for entry in simulation.entries(event)]
    assert {entry["topic"] for entry in named} == {"plant/pi/daily"}
    assert simulation.entries("session.disconnected")[-1]["cause"] == "unacknowledged"
    assert len(simulation.entries("session.disconnected")) == 2
    numbers = [delivered.json()["n"] for delivered in simulation.broker.on(STATE)]
    assert set(numbers) == set(range(1, max(numbers) + 1)) and len(numbers) < max(numbers) + 4


@pytest.mark.parametrize("mute, action", [
    ({NOTICE}, f"subscription to {NOTICE}"), (FILTERS, "shadow a"), (REQUESTS, "shadow a")])
def test_a_subscription_or_shadow_that_is_never_acknowledged_is_named_and_rests(mute: set[str], action: str) -> None:
    simulation = Simulation(CONFIGURATION)
    simulation.broker.mute = mute
    simulation.start()
    simulation.run(HOUR_S)
    assert [entry["action"] for entry in simulation.entries("session.denied")] == [action]
    assert len(simulation.entries("session.connected")) <= 5
    assert simulation.broker.shadows.state("pi", "b")["reported"]["state"]
    arrived = [delivered.at for delivered in simulation.broker.on(STATE)]
    assert max(after - before for before, after in zip(arrived, arrived[1:])) < 40.0


# Sessions, and what the broker has forgotten.

def test_what_stood_retained_is_sent_again_where_the_broker_has_lost_its_store() -> None:
    simulation = begun()
    daily = simulation.broker.retained["plant/pi/daily"]
    simulation.cut_line()
    simulation.broker.forget()
    simulation.run(60.0)
    simulation.network_is_up = True
    simulation.run(300.0)
    assert simulation.broker.retained["plant/pi/daily"] == daily
    assert len(simulation.broker.on("plant/pi/daily")) == 2
    numbers = [delivered.json()["n"] for delivered in simulation.broker.on(STATE)]
    assert json.loads(simulation.broker.retained[STATE].payload)["n"] == max(numbers)
    assert numbers == sorted(numbers) and len(set(numbers)) == len(numbers), "what waits goes as ever, and once"


def test_what_stands_retained_is_not_sent_again_while_the_broker_keeps_the_session() -> None:
    simulation = begun()
    for _ in range(3):
        end_line(simulation)
        simulation.run(120.0)
    assert len(simulation.broker.on("plant/pi/daily")) == 1


def test_on_a_clean_session_everything_is_subscribed_whatever_the_broker_says() -> None:
    simulation = begun(CONFIGURATION.replace("limits: aws", "limits: aws, clean_session: true"))
    simulation.broker.says_present = True
    assert simulation.connected is not None
    simulation.connected.subscribed.clear()
    end_line(simulation)
    simulation.run(60.0)
    assert subscribed(simulation) >= {NOTICE, PRESENCE, *FILTERS}


# Presence.

@pytest.mark.parametrize("payload", [
    b"", b'{"Hostname": "pi", "status": "Stopped", "session": "old"}',
    b'{"Hostname": "former", "status": "Communication lost", "session": "old"}'])
def test_what_is_not_true_on_the_own_topic_is_answered_by_connected(payload: bytes) -> None:
    simulation = begun()
    simulation.broker.publish(Message(PRESENCE, payload, 1, True))
    simulation.run(2.0)
    standing = json.loads(simulation.broker.retained[PRESENCE].payload)
    assert standing["status"] == "Connected"
    simulation.run(60.0)
    assert len(simulation.broker.on(PRESENCE)) == 3, "once"


def test_a_host_that_was_renamed_has_its_new_name_everywhere_after_a_reload() -> None:
    simulation = begun()
    simulation.identity = Identity("pump", "0" * 32)
    simulation.run(60.0)
    assert len(simulation.broker.on(PRESENCE)) == 1, "before the reload the old name stays"
    assert simulation.daemon is not None
    simulation.daemon.post(Signalled(signal.SIGHUP))
    simulation.run(60.0)
    assert words(simulation)[-1] == "Stopped"
    here = json.loads(simulation.broker.retained["MQTTServer/pump/will"].payload)
    assert (here["Hostname"], here["status"]) == ("pump", "Connected")
    will = simulation.broker.clients["pump"].will
    assert will is not None and json.loads(will.payload)["Hostname"] == "pump"
    assert json.loads(simulation.broker.retained["plant/pump/daily"].payload)["hostname"] == "pump"


def test_a_renamed_host_with_a_thing_of_its_own_name_has_a_will_that_names_it() -> None:
    simulation = begun("thing: pi\n" + CONFIGURATION)
    simulation.identity = Identity("pump", "0" * 32)
    assert simulation.daemon is not None
    simulation.daemon.post(Signalled(signal.SIGHUP))
    simulation.run(60.0)
    will = simulation.broker.clients["pi"].will
    assert will is not None and json.loads(will.payload)["Hostname"] == "pump"
    said = [delivered.json() for delivered in simulation.broker.on(PRESENCE)]
    assert [(body["Hostname"], body["status"]) for body in said] == [
        ("pi", "Connected"), ("pi", "Stopped"), ("pump", "Connected")]


def test_what_the_broker_holds_is_asked_for_anew_where_a_full_runtime_directory_did_not_take_what_it_is() -> None:
    both, one = "subscribe: [{topic: a}, {topic: b}]\n", "subscribe: [{topic: a}]\n"
    simulation = Simulation("mqtt: {host: broker}\n" + both)
    simulation.start()
    simulation.run(60.0)
    simulation.disk.runtime_failures.append("full")
    simulation.configuration = "mqtt: {host: broker}\n" + one
    assert simulation.daemon is not None
    simulation.daemon.post(Signalled(signal.SIGHUP))
    simulation.run(60.0)
    assert "b" not in simulation.broker.clients["pi"].filters
    simulation.kill()
    simulation.configuration = "mqtt: {host: broker}\n" + both
    simulation.start()
    simulation.run(60.0)
    assert {"a", "b"} <= simulation.broker.clients["pi"].filters.keys()
