"""A bug in a part: told with its traceback, and it ends nothing but what that part was at."""

import io
import json

import pytest

from iotd.daemon.fence import FAILURES, REST_S, TOLD_S, Fence
from iotd.daemon.part import Part
from iotd.home_assistant.discovery import state_topic
from iotd.local.door import Asked
from iotd.local.orders import Answer
from iotd.local.requests import parse
from iotd.vocabulary import Signalled
from tests.sim.jobs import SECTION
from tests.sim.world import SIGHUP, Simulation

CONFIGURATION = """\
mqtt: {host: broker}
publish: [{topic: state, every: 10s, payload: {n: "{sequence}"}}]
wifi: {essid: [fleet-ap]}
"""


class Faulty(Part):
    """A part that fails so many times, and does well then."""

    def __init__(self, failures: int) -> None:
        self._failures = failures
        self.kept = 0

    def keep(self, now: float) -> None:
        self.kept += 1
        if self.kept <= self._failures:
            raise KeyError("a bug")

    def next_due(self) -> float:
        return 1000.0


def faults(said: io.StringIO) -> list[dict[str, str]]:
    return [entry for entry in map(json.loads, said.getvalue().splitlines()) if entry["event"] == "part.fault"]


def parts_at_fault(device: Simulation) -> set[str]:
    assert device.entries("daemon.fault") == []
    return {fault["part"] for fault in device.entries("part.fault")}


def test_a_part_that_fails_rests_is_told_once_and_is_called_again(said: io.StringIO) -> None:
    fence, part = Fence(lambda: 0.0), Faulty(FAILURES - 1)
    assert fence.keep(part, 5.0) == 5.0 + REST_S
    assert fence.rests(part, 5.0 + REST_S - 1) and not fence.rests(part, 5.0 + REST_S)
    [problem] = fence.problems([part], 6.0)
    assert problem.startswith("a bug in iotd: Faulty has failed")
    assert fence.keep(part, 100.0) == 100.0 + REST_S
    assert fence.keep(part, 200.0) == 1000.0 and fence.problems([part], 100.0 + TOLD_S) == []
    [fault] = faults(said)
    assert fault["part"] == "Faulty" and "KeyError: 'a bug'" in fault["traceback"]


def test_one_that_fails_again_and_again_ends_the_daemon_for_systemd_to_start_it_anew(said: io.StringIO) -> None:
    fence, part = Fence(lambda: 0.0), Faulty(FAILURES)
    for number in range(FAILURES - 1):
        fence.keep(part, number * 100.0)
    with pytest.raises(KeyError):
        fence.keep(part, 1000.0)


def test_a_bug_in_the_judgement_of_the_wifi_stops_no_message(said: io.StringIO) -> None:
    device = Simulation(CONFIGURATION)
    device.start()
    device.run(60.0)
    device.ssid = b"x" * 7
    device.other_route_fault = ZeroDivisionError
    before = len(device.broker.on("state"))
    device.run(600.0)
    assert len(device.broker.on("state")) - before >= 59
    [fault] = device.entries("part.fault")
    assert "ZeroDivisionError: a bug" in fault["traceback"] and device.entries("daemon.fault") == []


def test_a_bug_in_what_is_told_of_an_acknowledgement_ends_neither_the_daemon_nor_another_part() -> None:
    device = Simulation(CONFIGURATION + "home_assistant: {discovery: homeassistant}\n")
    device.disk.bugs.add("/state/home_assistant.json")
    device.start()
    device.run(300.0)
    assert parts_at_fault(device) == {"HomeAssistantPart"} and device.runs == 1
    assert len(device.broker.on("state")) >= 29 and len(device.broker.on(state_topic("homeassistant", "pi"))) >= 4


def test_a_bug_in_what_waits_for_a_value_keeps_nobody_else_from_it() -> None:
    device = Simulation("""\
mqtt: {host: broker}
values: {level: {command: [read-level]}}
publish: [{topic: state, every: 1h, payload: {level: "{level}"}}]
shadows: [{reported: {level: "{level}"}}]
""")
    device.measured["level"], device.takes_s["level"] = b"42", 3.0
    device.start()
    device.run(2.0)
    device.disk.bugs.add("/runtime/spool.journal")
    device.run(2.0)
    assert parts_at_fault(device) == {"Outgoing"}
    [report] = device.broker.on("$aws/things/pi/shadow/update")
    assert report.json()["state"]["reported"] == {"level": 42}


def test_a_bug_in_asking_for_a_reboot_costs_that_reboot_and_the_line_comes_back() -> None:
    device = Simulation("mqtt: {host: broker, limits: aws}\n" + SECTION)
    device.disk.bugs.add("/runtime/jobs/reboot")
    device.start()
    device.jobs.create("job-1", {"operation": "reboot"})
    device.run(300.0)
    assert parts_at_fault(device) == {"JobsPart"} and device.runs == 1 and device.boots == 0
    assert len(device.entries("session.connected")) == 2


@pytest.mark.parametrize("asked", ["status", "problems", "sentences", "doing", "about"])
def test_a_bug_in_what_a_part_tells_of_itself_costs_its_lines_of_the_status(asked: str) -> None:
    device = Simulation(CONFIGURATION + "shadows: [{every: 10s, reported: {a: 1}, on_delta: {x: {run: [/bin/x]}}}]\n")
    device.start()
    assert device.daemon is not None
    [outgoing] = [part for part in device.daemon._parts if type(part).__name__ == "Outgoing"]
    setattr(outgoing, asked, lambda: 1 // 0)
    device.run(120.0)
    assert parts_at_fault(device) == {"Outgoing"} and device.runs == 1
    assert len(device.broker.on("state")) >= 12
    status = device.daemon.status()
    assert status["connected"] and any("Outgoing has failed" in problem for problem in status["problems"])


@pytest.mark.parametrize("asked", ["read", "overrides", "apply", "placeholders", "handlers", "filters", "actions",
                                   "pending", "in_flight", "waiting", "stuck"])
def test_a_bug_in_whatever_a_part_is_asked_ends_neither_the_daemon_nor_another_part(asked: str) -> None:
    device = Simulation(CONFIGURATION + "subscribe: [{topic: in}]\n")
    device.start()
    device.run(30.0)
    assert device.daemon is not None and device.session is not None
    [wifi] = [part for part in device.daemon._parts if type(part).__name__ == "WifiRecovery"]
    setattr(wifi, asked, lambda *arguments: 1 // 0)
    device.daemon.post(Signalled(SIGHUP))
    device.session.lose("reset")
    device.run(120.0)
    assert parts_at_fault(device) == {"WifiRecovery"} and device.runs == 1
    assert len(device.broker.on("state")) >= 12 and "in" in device.broker.clients["pi"].filters
    assert device.daemon.status()["connected"]


def test_a_bug_in_the_end_of_a_part_that_a_reload_takes_out_ends_nothing_else() -> None:
    device = Simulation(CONFIGURATION)
    device.start()
    device.run(30.0)
    assert device.daemon is not None
    [wifi] = [part for part in device.daemon._parts if type(part).__name__ == "WifiRecovery"]
    setattr(wifi, "close", lambda now: 1 // 0)
    device.configuration = CONFIGURATION.partition("wifi:")[0]
    device.daemon.post(Signalled(SIGHUP))
    device.run(60.0)
    assert parts_at_fault(device) == {"WifiRecovery"} and device.runs == 1
    assert len(device.broker.on("state")) >= 8


@pytest.mark.parametrize("asked", ["publish", "tell", "asked", "shared", "crowded_until"])
def test_a_bug_in_what_programs_ask_for_is_told_of_the_part_that_has_it(asked: str) -> None:
    device = Simulation(CONFIGURATION + "local: {publish: [t/#]}\n")
    device.start()
    device.run(30.0)
    assert device.daemon is not None
    [outgoing] = [part for part in device.daemon._parts if type(part).__name__ == "Outgoing"]
    setattr(outgoing, asked, lambda *arguments: 1 // 0)
    answers: list[Answer] = []
    device.programs.order = lambda order: answers.append(order)  # type: ignore[method-assign, assignment]
    for line in (b'{"publish": "t/a", "text": ""}', b'{"set": "level", "value": 1}', b'{"ask": "x"}',
                 b'{"listen": "in"}'):
        device.daemon.post(Asked(1, (parse(line),), True))
    device.run(5.0)
    assert parts_at_fault(device) == {"Outgoing"} and device.runs == 1
    assert len(answers) == 4 and not device.entries("program.fault")
