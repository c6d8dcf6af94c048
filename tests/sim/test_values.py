"""Values on a simulated clock: what waits for what, what is sent when, and what a restart remembers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.sim.clock import EPOCH_S
from tests.sim.session import LATENCY_S
from tests.sim.world import Simulation

HEAD = "mqtt: {host: broker}\n"
SLOW = HEAD + """\
values:
  level: {command: [read-level], timeout: 5s}
  other: {command: [read-other], timeout: 2s}
  plain: {file: /plain}
publish:
  - {topic: slow, every: 10s, payload: {n: "{sequence}", at: "{timestamp}", level: "{level}"}}
  - {topic: quick, every: 10s, payload: {n: "{sequence}", at: "{timestamp}", plain: "{plain}"}}
  - {topic: shared, every: 10s, payload: {n: "{sequence}", level: "{level}", other: "is {other}"}}
  - {topic: shared, every: 10s, payload: {n: "{sequence}", plain: "{plain}"}}
  - {topic: shared, every: 10s, payload: {n: "{sequence}", host: "{hostname}"}}
"""


def begun(configuration: str, **measured: bytes | str) -> Simulation:
    simulation = Simulation(configuration)
    simulation.measured.update(measured)
    simulation.start()
    return simulation


def bodies(simulation: Simulation, topic: str) -> list[dict[str, Any]]:
    return [delivered.json() for delivered in simulation.broker.on(topic)]


def times(simulation: Simulation, topic: str) -> list[float]:
    return [delivered.at for delivered in simulation.broker.on(topic)]


def told(simulation: Simulation, name: str, value: Any) -> str:
    assert simulation.daemon is not None
    answer = simulation.daemon.tell(name, value, simulation.schedule.now)
    simulation.daemon.turn() if simulation.daemon.world.inbox.size() else None
    return answer


def test_a_message_waits_for_its_commands_and_nothing_else_does() -> None:
    simulation = Simulation(SLOW)
    simulation.takes_s["level"] = 3.0
    simulation.measured.update(level=b"42\n", other=b"x", plain=b"1")
    simulation.start()
    simulation.run(9.0)
    assert bodies(simulation, "quick") == [{"n": 1, "at": EPOCH_S, "plain": 1}]
    assert times(simulation, "quick")[0] < 1.0
    assert bodies(simulation, "slow") == [{"n": 1, "at": EPOCH_S, "level": 42}]
    assert 3.0 <= times(simulation, "slow")[0] < 3.1


def test_the_messages_of_a_topic_keep_their_order_while_one_waits() -> None:
    simulation = Simulation(SLOW)
    simulation.takes_s["level"] = 3.0
    simulation.measured.update(level=b"42\n", other=b"x", plain=b"1")
    simulation.start()
    simulation.run(15.0)
    assert bodies(simulation, "shared") == [
        {"n": 1, "level": 42, "other": "is x"}, {"n": 2, "plain": 1}, {"n": 3, "host": "pi"},
        {"n": 4, "level": 42, "other": "is x"}, {"n": 5, "plain": 1}, {"n": 6, "host": "pi"}]


def test_one_command_runs_once_for_all_that_are_due_together_and_never_twice_at_a_time() -> None:
    simulation = Simulation(HEAD + """\
values: {level: {command: [read], timeout: 5s}}
publish:
  - {topic: a, every: 1s, retain: false, payload: {at: "{timestamp}", level: "{level}"}}
  - {topic: b, every: 10s, payload: {level: "{level}"}}
shadows: [{name: s, every: 10s, reported: {level: "{level}"}}]
""")
    simulation.takes_s["level"] = 2.5
    simulation.measured["level"] = b"1"
    simulation.start()
    simulation.run(10.0)
    ended = [round(at, 1) for _, at in simulation.readings]
    assert ended == [2.5, 5.5, 8.5]  # the one at 3 s serves what is due until it ends
    assert [body["at"] - EPOCH_S for body in bodies(simulation, "a")] == [0, 1, 2, 3, 4, 5, 6, 7, 8]


def test_what_is_late_is_null_at_its_time_out_and_said_once() -> None:
    simulation = Simulation(SLOW)
    simulation.takes_s["level"] = 60.0  # waits inside the kernel, and cannot be killed
    simulation.measured.update(level="did not end within 5 s", other=b"x", plain=b"1")
    simulation.start()
    simulation.run(40.0)
    assert bodies(simulation, "slow")[0] == {"n": 1, "at": EPOCH_S, "level": None}
    assert [round(at) for at in times(simulation, "slow")] == [5, 10, 20, 30]
    [missing] = simulation.entries("value.missing")
    assert (missing["value"], missing["reason"], missing["level"]) == ("level", "did not end within 5 s", "warning")
    assert simulation.readings.count(("level", 60.0)) == 0
    assert bodies(simulation, "shared")[0] == {"n": 1, "level": None, "other": "is x"}


def test_a_message_goes_out_at_its_time_out_though_nothing_else_happens() -> None:
    simulation = Simulation(HEAD + """\
values: {level: {command: [read], timeout: 5s}}
publish: [{topic: a, every: 1h, payload: {level: "{level}"}}]
""")
    simulation.takes_s["level"] = 60.0
    simulation.measured["level"] = b"1"
    simulation.start()
    simulation.run(3700.0)
    assert [round(at, 1) for at in times(simulation, "a")] == [5.0, 3605.0]


def test_a_value_that_is_back_says_so_once() -> None:
    simulation = begun(SLOW, level=b"1", other=b"x", plain="/plain cannot be read: No such file or directory")
    simulation.run(25.0)
    simulation.measured["plain"] = b"true"
    simulation.run(20.0)
    assert [body["plain"] for body in bodies(simulation, "quick")] == [None, None, None, True, True]
    assert [entry["value"] for entry in simulation.entries("value.missing")] == ["plain"]
    assert [entry["value"] for entry in simulation.entries("value.restored")] == ["plain"]


SCHEDULED = HEAD + """\
values:
  level: {command: [read], every: 10s, timeout: 5s}
  pump: {file: /pump, every: 20s}
publish: [{topic: a, every: 3s, payload: {level: "{level}", flow: "{pump.flow}", first: "{pump.valves.0}"}}]
"""


def test_with_a_schedule_of_its_own_only_the_first_message_waits() -> None:
    simulation = Simulation(SCHEDULED)
    simulation.takes_s["level"] = 2.0
    simulation.measured.update(level=b"20.50", pump=b'{"flow": 3, "valves": [true]}')
    simulation.start()
    simulation.run(11.0)
    assert bodies(simulation, "a")[0] == {"level": 20.5, "flow": 3, "first": True}
    assert [round(at, 1) for at in times(simulation, "a")] == [2.0, 3.0, 6.0, 9.0]
    assert [name for name, _ in simulation.readings] == ["pump", "level"]
    simulation.measured.update(pump=b"[1]")
    simulation.run(15.0)
    assert bodies(simulation, "a")[-1] == {"level": 20.5, "flow": None, "first": None}
    assert simulation.entries("value.missing") == []


def test_a_first_reading_that_never_comes_is_waited_for_no_longer_than_its_time_out() -> None:
    simulation = Simulation(SCHEDULED)
    simulation.takes_s["level"] = 60.0
    simulation.measured.update(level=b"1", pump=b"{}")
    simulation.start()
    simulation.run(8.0)
    assert [(round(at), body["level"]) for at, body in zip(times(simulation, "a"), bodies(simulation, "a"))] == [
        (5, None), (5, None), (6, None)]


def test_a_report_waits_for_its_commands_and_the_conversation_goes_on_meanwhile() -> None:
    simulation = Simulation(HEAD + """\
values: {level: {command: [read], timeout: 5s}}
shadows:
  - {name: slow, every: 1m, reported: {level: "{level}", at: "{timestamp}"}, desired: {first: "{level}"}}
  - {name: quick, every: 1m, reported: {up: 1}}
""")
    simulation.takes_s["level"] = 3.0
    simulation.measured["level"] = b"7"
    simulation.start()
    simulation.run(2.0)
    assert simulation.broker.shadows.state("pi", "quick")["reported"] == {"up": 1}
    assert simulation.broker.on("$aws/things/pi/shadow/name/slow/update") == []
    simulation.run(3.0)
    state = simulation.broker.shadows.state("pi", "slow")
    assert state["reported"] == {"level": 7, "at": EPOCH_S} and state["desired"] == {"first": 7}


def test_what_is_to_be_reported_meanwhile_is_in_the_report_that_waits() -> None:
    simulation = Simulation(HEAD + """\
values: {level: {command: [read], timeout: 5s}}
publish: [{topic: a, every: 1h, payload: {}}]
shadows:
  - {name: slow, every: 10m, reported: {level: "{level}", n: "{sequence}"}, desired: {first: "{level}"},
     on_delta: {every: {set: "publish[0].every"}}}
""")
    simulation.takes_s["level"] = 3.0
    simulation.measured["level"] = b"7"
    simulation.start()
    simulation.run(1.0)
    simulation.broker.shadows.desire("pi", "slow", {"every": "30m"})
    simulation.run(5.0)
    state = simulation.broker.shadows.state("pi", "slow")
    assert state["desired"] == {"every": "30m", "first": 7}
    assert (state["reported"]["level"], state["reported"]["n"], state["reported"]["every"]) == (7, 1, "30m")


def test_what_a_power_cut_has_brought_back_takes_no_newer_ones_place_while_the_next_one_waits_for_its_value() -> None:
    simulation = Simulation(SLOW)
    simulation.measured.update(level=b"1", other=b"x", plain=b"1")
    simulation.start()
    simulation.run(12.0)
    simulation.cut_line()
    simulation.run(20.0)  # the third is on the disk
    simulation.network_is_up = True
    simulation.run(30.0)  # it has come, and so have newer ones
    simulation.disk.chance = lambda: 0.99  # the deletion is lost
    simulation.takes_s["level"] = 3.0
    simulation.reboot(orderly=False)
    before = len(simulation.broker.on("slow"))
    simulation.run(60.0)
    again = [delivered.message for delivered in simulation.broker.on("slow")[before:]]
    assert [(json.loads(message.payload)["n"], message.retain) for message in again[:3]] == [
        (3, False), (4, False), (1, True)]


def test_what_waits_when_iotd_is_asked_to_stop_is_kept_without_the_value() -> None:
    simulation = Simulation(SLOW)
    simulation.takes_s["level"] = 4.0
    simulation.measured.update(level=b"1", other=b"x", plain=b"1")
    simulation.start()
    simulation.run(12.0)
    simulation.stop()
    simulation.start()
    simulation.run(2.0)
    assert [body["level"] for body in bodies(simulation, "slow")][:2] == [1, None]


TOLD = HEAD + """\
values:
  door: {socket: true, as: text}
  level: {socket: true, max_age: 1m, as: number}
publish: [{topic: a, every: 30s, payload: {door: "{door}", level: "{level}"}}]
"""


def test_what_a_program_tells_outlives_a_restart_and_a_kill_and_no_reboot() -> None:
    simulation = begun(TOLD)
    simulation.run(1.0)
    assert bodies(simulation, "a") == [{"door": None, "level": None}]
    assert told(simulation, "door", "open\n") == "" and told(simulation, "level", 5) == ""
    assert told(simulation, "level", "high") == "level cannot be told that: not a number"
    assert told(simulation, "window", 1).startswith("there is no such value")
    simulation.run(30.0)
    assert bodies(simulation, "a")[-1] == {"door": "open", "level": 5}
    simulation.kill()
    simulation.run(5.0)
    simulation.start()
    simulation.run(1.0)
    assert bodies(simulation, "a")[-1] == {"door": "open", "level": 5}
    assert simulation.entries("value.missing") == []
    simulation.run(40.0)  # its age counts on over the restart
    assert [entry["reason"] for entry in simulation.entries("value.missing")] == ["older than 60 s"]
    simulation.stop()
    simulation.boots += 1
    simulation.disk.reboot()
    simulation.start()
    simulation.run(1.0)
    assert bodies(simulation, "a")[-1] == {"door": None, "level": None}


def test_status_has_every_value_with_its_age_and_why_there_is_none() -> None:
    simulation = begun(TOLD.replace("values:", "values:\n  gone: {file: /gone, every: 10s}"))
    simulation.run(1.0)
    told(simulation, "level", 5)
    simulation.run(30.0)
    status = json.loads(simulation.disk.content["/runtime/status.json"])
    assert status["values"]["gone"]["missing"] == "there is no such file" and status["values"]["gone"]["value"] is None
    assert status["values"]["door"] == {"value": None, "age_s": None, "missing": "nothing told yet"}
    level = status["values"]["level"]
    assert level["value"] == 5 and level["missing"] is None and 0 <= level["age_s"] <= 30
    assert "value door: none, nothing told yet" in status["sentences"]
    assert status["healthy"]


CHANGING = HEAD + """\
values: {level: {socket: true}, door: {socket: true}}
publish:
  - {topic: a, every: 10m, on_change: {level: 0.5, door: any}, payload: {level: "{level}", door: "{door}"}}
"""


def levels(simulation: Simulation) -> list[Any]:
    return [body["level"] for body in bodies(simulation, "a")]


def test_a_change_is_sent_at_once_and_only_one_that_is_large_enough() -> None:
    simulation = begun(CHANGING)
    simulation.run(10.0)
    assert levels(simulation) == [None]
    for value in (20.0, 20.4, 19.6, 20.5, 20.9, 21.0, None, None, "off", True, 1):
        told(simulation, "level", value)
        simulation.run(5.0)
    assert levels(simulation) == [None, 20.0, 20.5, 21.0, None, "off", True, 1]
    assert times(simulation, "a")[1] - 10.0 < 3 * LATENCY_S


def test_every_counts_from_the_last_message() -> None:
    simulation = begun(CHANGING)
    simulation.run(300.0)
    told(simulation, "door", "open")
    simulation.run(599.0)
    assert len(bodies(simulation, "a")) == 2
    simulation.run(2.0)
    assert [round(at) for at in times(simulation, "a")] == [0, 300, 900]


def test_a_burst_is_sent_no_more_often_than_allowed_and_ends_with_the_newest_state() -> None:
    simulation = begun(CHANGING)
    simulation.run(10.0)
    for number in range(35):
        told(simulation, "level", number)
        simulation.run(0.1)
    simulation.run(10.0)
    sent = times(simulation, "a")[1:]
    assert all(later - earlier >= 0.999 for earlier, later in zip(sent, sent[1:])) and len(sent) == 5
    assert levels(simulation)[-1] == 34


def test_a_reload_keeps_what_was_last_sent() -> None:
    simulation = begun(CHANGING)
    told(simulation, "level", 20)
    simulation.run(10.0)
    assert simulation.daemon is not None
    simulation.daemon._reload(simulation.schedule.now)
    told(simulation, "level", 20.4)
    simulation.run(10.0)
    told(simulation, "level", 20.6)
    simulation.run(10.0)
    assert [level for level in levels(simulation) if level is not None] == [20, 20.6]


@pytest.mark.parametrize("offline, sent", [("queue", [None, 1, 2, 3]), ("latest", [None, 3]), ("drop", [4])])
def test_what_changes_without_a_line_is_kept_as_any_message(offline: str, sent: list[Any]) -> None:
    simulation = begun(CHANGING.replace("every: 10m,", f"every: 10m, offline: {offline},"))
    simulation.run(10.0)
    simulation.cut_line()
    for number in (1, 2, 3):
        told(simulation, "level", number)
        simulation.run(5.0)
    simulation.network_is_up = True
    simulation.run(200.0)
    if offline == "drop":
        told(simulation, "level", 4)
        simulation.run(5.0)
    assert levels(simulation) == sent


def test_a_scheduled_value_of_a_file_is_followed_too() -> None:
    simulation = begun(CHANGING.replace("level: {socket: true}", "level: {file: /level, every: 1s}"), level=b"1")
    simulation.run(10.0)
    simulation.measured["level"] = b"2"
    simulation.run(10.0)
    simulation.measured["level"] = "gone"
    simulation.run(10.0)
    assert levels(simulation) == [1, 2, None]


def test_a_check_on_a_value_turns_the_health_and_no_value_does_not() -> None:
    simulation = begun(HEAD + """\
values: {level: {file: /level}}
shadows:
  - {name: s, every: 10m, reported: {state: "{health}"}, healthy: well, unhealthy: ill,
     checks: [{value: level, min: 5, max: 80, for: 30s, every: 10s}]}
""", level=b"50")
    simulation.run(60.0)

    def state() -> Any:
        return simulation.broker.shadows.state("pi", "s")["reported"]["state"]

    simulation.measured["level"] = b"90"
    simulation.run(25.0)
    assert state() == "well"
    simulation.run(20.0)
    assert state() == "ill"
    [failed] = simulation.entries("check.failed")
    assert (failed["check"], failed["value"], failed["reason"]) == (
        "value level", 90, "90, expected at most 80, for 30 s")
    simulation.measured["level"] = "gone"
    simulation.run(20.0)
    assert [entry["reason"] for entry in simulation.entries("check.unknown")] == ["there is no value"]
    simulation.measured["level"] = b"80"
    simulation.run(20.0)
    assert state() == "well"


def test_a_reload_lets_nobody_wait_for_what_is_read_no_more() -> None:
    simulation = Simulation(SLOW)
    simulation.takes_s["level"] = 4.0
    simulation.measured.update(level=b"1", other=b"x", plain=b"1")
    simulation.start()
    simulation.run(1.0)
    simulation.configuration = SLOW.replace("[read-level]", "[read-level, again]")
    assert simulation.daemon is not None
    simulation.daemon._reload(simulation.schedule.now)
    simulation.run(8.0)
    assert [body["level"] for body in bodies(simulation, "slow")] == [None]
    simulation.run(10.0)
    assert [body["level"] for body in bodies(simulation, "slow")] == [None, 1]
    simulation.configuration = HEAD
    simulation.daemon._reload(simulation.schedule.now)
    simulation.run(60.0)
    assert simulation.entries("daemon.fault") == []


def test_a_device_whose_values_are_well_says_nothing() -> None:
    simulation = begun(SLOW, level=b"1", other=b"x", plain=b"1")
    simulation.run(10.0)
    said = len(simulation.log.getvalue())
    simulation.run(3600.0)
    assert len(simulation.log.getvalue()) == said


def test_a_topic_whose_messages_are_too_large_is_named_once_and_once_more_when_they_fit_again() -> None:
    payload = 'payload: {n: "{sequence}", text: "{long}{long}{long}"}'
    simulation = begun(HEAD.replace("broker}", "broker, limits: aws}") + f"""
values: {{long: {{file: /long, as: text}}}}
publish:
  - {{topic: long, every: 10s, {payload}}}
  - {{topic: packed, every: 10s, retain: false, encoding: gzip, {payload}}}
""", long=b"x" * 60_000)
    simulation.run(95.0)
    [named] = simulation.entries("publish.too_large")
    assert (named["topic"], named["max_bytes"]) == ("long", 131_072) and named["bytes"] > 180_000
    assert not bodies(simulation, "long")
    assert len(simulation.broker.on("packed")) == 10
    simulation.measured["long"] = b"x"
    simulation.run(20.0)
    assert [body["n"] for body in bodies(simulation, "long")] == [11, 12]
    assert [entry["not_sent"] for entry in simulation.entries("publish.fits")] == [10]


def test_a_batch_stands_retained_although_the_next_payload_waits_for_its_value() -> None:
    """What waits for its value at 40 s and at 80 s goes out only with the next batch."""
    simulation = Simulation(HEAD + """
values: {level: {command: [read-level]}}
publish: [{topic: level, every: 10s, batch: {count: 20, within: 39s}, payload: {n: "{sequence}", level: "{level}"}}]
""")
    simulation.measured["level"], simulation.takes_s["level"] = b"42", 2.0
    simulation.start()
    simulation.run(130.0)
    batches = [delivered.message for delivered in simulation.broker.on("level")]
    assert len(batches) == 3 and all(message.retain for message in batches)
    assert simulation.broker.retained["level"] == batches[-1]
