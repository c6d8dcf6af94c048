"""Thousands of changes of a shadow, a line that comes and goes, and kills: all converges, each order is done once."""

from __future__ import annotations

import random
from signal import SIGHUP
from typing import Any, NamedTuple

import pytest

from iotd.shadows.bridge import SETTLED_S as SETTLED_AFTER_BOOT_S
from iotd.shadows.documents import desired_of, difference, same
from iotd.vocabulary import Json, Message, Signalled
from tests.aws.document import Refusal, exists
from tests.sim.life import live
from tests.sim.programs import REPORTED
from tests.sim.session import LATENCY_S
from tests.sim.shadow import Change
from tests.sim.swarm import Fault, Plan, Profile, Shadow, Topic
from tests.sim.world import Simulation

THING, SHADOW = "pi", "device_0"
COMMANDS = ("fan", "gate", "lamp")
CONFIGURATION = """\
mqtt: {host: broker, limits: aws}
publish:
  - {topic: "plant/{thing}/state", every: 1h, payload: {msg: hello}}
shadows:
  - name: device_0
    every: 5m
    reported: {state: "{health}", uptime: "{uptime}", net: ["{essid}"]}
    on_delta:
      fan: {run: [fan, "{value}"]}
      gate: {run: [gate, "{value}"]}
      lamp: {run: [lamp, "{value}"]}
      msg: {set: "publish[0].payload.msg"}
"""
SETTLED_S = 2 * 3600.0 + 300.0  # the longest pause between two tries of an order, and of a get
HEARD_S = 3.0  # from a change in the cloud until the device has heard it, with the whole of a nested value


class Ran(NamedTuple):
    """A command that was begun at `at`, on the line of `line_at`, and how it ends."""

    at: float
    key: str
    value: Json
    line_at: float
    reason: str


class Storm:
    """One device, one seed, and a cloud that changes its mind. It checks each command as it is begun."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.simulation = Simulation(CONFIGURATION, seed)
        self.simulation.command = self.run
        self.shadows = self.simulation.broker.shadows
        self.shadows.courier = self.deliver
        self.shadows.refuse = self.refuse
        self.ran: list[Ran] = []
        self.trouble = 0.0
        self.kills = 0

    def run(self, key: str, value: Json) -> tuple[float, str]:
        """Begin a command; what it does must be desired now, or have been a moment ago on this very line."""
        now, line_at = self.simulation.schedule.now, self.simulation.connected_at
        since = max(line_at, now - HEARD_S - (12.0 if self.trouble else 0.0))
        held = self.desired_since(key, since)
        assert any(wish is not None and same(wish, value) for wish in held), (
            f"at {now} {key} {value} is begun, and since {since} desired are only {held}; the line is of {line_at}")
        reason = "it will not" if self.chance.random() < self.trouble / 2 else ""
        self.ran.append(Ran(now, key, value, line_at, reason))
        return self.chance.choice([0.01, 0.05, 0.3, 2.0]), reason

    def desired_since(self, key: str, since: float) -> list[Json]:
        """Return what was desired of a key from a time on, None for nothing; a deletion shows at the next report."""
        held: list[Json] = [None]
        for change in (change for change in self.shadows.history if not change.deleted):
            wish = desired_of(change.state).get(key)
            if change.at <= since:
                held = [wish]
            else:
                held.append(wish)
        return held

    def deliver(self, answers: list[Message]) -> list[Message]:
        """Accepted, delta and documents come in any order, and twice at times."""
        if self.chance.random() < 0.3:
            self.chance.shuffle(answers)
        return answers + (answers[-1:] if self.chance.random() < 0.05 else [])

    def refuse(self, verb: str) -> Refusal | None:
        return Refusal(self.chance.choice([409, 429, 500])) if self.chance.random() < self.trouble / 4 else None

    def value(self, depth: int = 2) -> Json:
        simple = [0, False, 1, True, 1.0, 1.5, -3, "", "0", "fast", "slow"]
        kind = self.chance.randrange(10)
        if kind < 5 or not depth:
            return self.chance.choice(simple)
        if kind < 6:
            return [self.chance.choice(simple) for _ in range(self.chance.randrange(3))]
        if kind < 7:
            return "x" * self.chance.choice([100, 2500])
        return {name: self.value(depth - 1) for name in self.chance.sample("abc", self.chance.randrange(1, 3))}

    def patch(self) -> dict[str, Json]:
        """Return some keys with values, members of objects, and nulls at any depth."""
        found: dict[str, Json] = {}
        for key in self.chance.sample([*COMMANDS, "msg", "free"], self.chance.choice([1, 1, 2, 3])):
            found[key] = None if self.chance.random() < 0.15 else self.value()
            if isinstance(found[key], dict) and self.chance.random() < 0.3:
                found[key][self.chance.choice("abc")] = None
        return found

    def step(self) -> None:
        """Let one thing happen, and some time pass."""
        simulation, draw = self.simulation, self.chance.random()
        if draw < 0.72:
            self.write({"desired": self.patch()})
        elif draw < 0.76:
            self.write(self.chance.choice([{"desired": None}, {"reported": None}, {"desired": {"free": [1, {"a": 2}]}},
                                           None]))
        elif draw < 0.78:
            if exists(self.shadows.documents.get((THING, SHADOW))):
                self.shadows.delete(THING, SHADOW)
        elif draw < 0.84:
            simulation.cut_line()
        elif draw < 0.90:
            simulation.network_is_up = True
        elif draw < 0.93:
            self.end(self.chance.choice([simulation.kill, simulation.kill, simulation.stop]))
        elif draw < 0.96:
            self.trouble = self.chance.choice([0.0, 0.0, 0.5])
        else:
            simulation.ssid = self.chance.choice([None, b"fleet-ap"])
        if simulation.daemon is None and self.chance.random() < 0.5:
            simulation.start()
        simulation.run(self.chance.choice([0.01, 0.03, 0.1, 0.5, 2.0, 15.0, 60.0]))

    def write(self, state: Json) -> None:
        self.shadows.write(THING, SHADOW, state)

    def end(self, how: Any) -> None:
        if self.simulation.daemon is not None:
            self.kills += 1
            how()

    def settle(self) -> None:
        """Let all be well, and long enough."""
        self.trouble = 0.0
        self.simulation.network_is_up, self.simulation.ssid = True, b"fleet-ap"
        if self.simulation.daemon is None:
            self.simulation.start()
        self.simulation.run(SETTLED_S)

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.shadows.state(THING, SHADOW)
        return found

    def undone(self) -> dict[str, str]:
        """Return what the shadow tells of orders that could not be done, by key."""
        return {failed["key"]: failed["reason"] for failed in self.state()["reported"]["iotd"]["orders"]["failed"]}


def assert_converged(storm: Storm) -> None:
    """What is desired is done and reported, or told as not done; what is told has a reason."""
    state, undone = storm.state(), storm.undone()
    left = difference(desired_of(state), state["reported"]).keys() - {"free"}
    assert left <= undone.keys(), (left, undone)
    for key, reason in undone.items():
        assert reason.startswith("it was done and cannot be reported") or (
            key in left and reason.startswith(("iotd ended while", "expected a text"))), (key, reason)
    for key, wish in desired_of(state).items():
        last = [ran.value for ran in storm.ran if ran.key == key and not ran.reason][-1:]
        if key in COMMANDS and key not in undone and last:
            assert difference({key: wish}, {key: last[0]}) == {}, (key, wish, last)


def assert_each_wish_was_done_once(storm: Storm) -> None:
    """Between two runs with the same value something else was desired, or the first has failed."""
    for key in COMMANDS:
        runs = [ran for ran in storm.ran if ran.key == key]
        for one, other in zip(runs, runs[1:]):
            if same(one.value, other.value) and not one.reason:
                held = storm.desired_since(key, one.at - HEARD_S)
                assert any(wish is None or not same(wish, one.value) for wish in held), (one, other)


@pytest.mark.parametrize("seed", range(8))
def test_a_random_cloud_always_converges_and_each_order_is_done_once_per_wish(seed: int) -> None:
    storm = Storm(seed)
    storm.simulation.start()
    for _ in range(8):
        for _ in range(60):
            storm.step()
        storm.settle()
        assert_converged(storm)
    assert_each_wish_was_done_once(storm)
    assert len(storm.ran) > 50 and storm.kills > 3
    assert storm.simulation.entries("daemon.fault") == []
    assert storm.simulation.entries("desired.loop") == []


def test_a_slider_ends_at_its_newest_value_as_soon_as_the_last_command_has_ended() -> None:
    simulation, ran = Simulation(CONFIGURATION), list[tuple[float, Json]]()

    def command(key: str, value: Json) -> tuple[float, str]:
        ran.append((simulation.schedule.now, value))
        return 0.7, ""

    simulation.command = command
    simulation.start()
    simulation.run(60.0)
    for number in range(40):
        simulation.broker.shadows.desire(THING, SHADOW, {"fan": number})
        simulation.run(0.25)
    moved_at = simulation.schedule.now - 0.25
    simulation.run(3.0)
    assert ran[-1][1] == 39 and ran[-1][0] <= moved_at + 0.7 + 4 * LATENCY_S
    assert simulation.broker.shadows.state(THING, SHADOW)["reported"]["fan"] == 39
    assert simulation.entries("desired.loop") == []


@pytest.mark.parametrize("takes_s", [0.01, 0.2])
def test_a_program_that_answers_each_report_by_another_wish_is_stopped_and_named_once(takes_s: float) -> None:
    simulation, ran = Simulation(CONFIGURATION), list[float]()
    shadows = simulation.broker.shadows
    answered: list[Json] = []

    def fight(answers: list[Message]) -> list[Message]:
        document = shadows.documents.get((THING, SHADOW))
        reported = document.state.get("reported", {}).get("fan") if document else None
        if reported is not None and reported not in answered[-1:]:
            answered.append(reported)
            simulation.schedule.after(0.1, lambda: shadows.desire(THING, SHADOW, {"fan": reported % 3 + 1}))
        return answers

    def command(key: str, value: Json) -> tuple[float, str]:
        ran.append(simulation.schedule.now)
        return takes_s, ""

    simulation.command, shadows.courier = command, fight
    simulation.start()
    simulation.run(60.0)
    shadows.desire(THING, SHADOW, {"fan": 1})
    simulation.run(6 * 3600.0)
    [named] = simulation.entries("desired.loop")
    assert named["key"] == "fan" and len(ran) < 30 and ran[-1] - ran[-2] > 3000.0


def test_a_shadow_that_was_deleted_and_made_anew_is_not_taken_for_its_former_self() -> None:
    """A delta of the old numbers, which are higher, is replayed by the kept session."""
    simulation, ran = Simulation(CONFIGURATION), list[Json]()
    simulation.command = lambda key, value: (ran.append(value), (0.01, ""))[1]  # type: ignore[func-returns-value]
    simulation.start()
    simulation.run(300.0)
    simulation.kill()
    shadows = simulation.broker.shadows
    shadows.desire(THING, SHADOW, {"gate": "open"})
    simulation.run(10.0)
    shadows.delete(THING, SHADOW)
    simulation.run(50 * 3600.0)
    shadows.desire(THING, SHADOW, {"lamp": "on"})
    simulation.start()
    simulation.run(300.0)
    assert ran == ["on"]
    assert shadows.history[-1] == Change(shadows.history[-1].at, SHADOW, shadows.state(THING, SHADOW))


def test_a_reload_that_makes_false_of_0_is_a_change() -> None:
    simulation = Simulation("mqtt: {host: broker}\nshadows: [{name: device_0, desired: {flag: 0}}]\n")
    simulation.start()
    simulation.run(60.0)
    simulation.broker.shadows.desire(THING, SHADOW, {"flag": None})
    simulation.configuration = simulation.configuration.replace("0}", "false}")
    assert simulation.daemon is not None
    simulation.daemon.post(Signalled(SIGHUP))
    simulation.run(60.0)
    assert simulation.broker.shadows.state(THING, SHADOW)["desired"]["flag"] is False


@pytest.mark.parametrize("mood", ["late", "lost"])
@pytest.mark.parametrize("seed", range(3))
def test_an_order_that_is_done_is_not_done_again_by_an_older_delta_that_comes_after_a_late_answer(
        mood: str, seed: int) -> None:
    profile = Profile(topics=(Topic("a0", 600),), shadows=(Shadow("device_0", 7200, commands=2),))
    faults = Fault(f"shadow answers {mood}", 2360.0, 1936.99), Fault("wishes against each other", 3390.0, 96.7, 0.28)
    assert live(Plan(seed, 0.041, (profile,), faults)).news == ()


def joined(every: str = "5m") -> Simulation:
    """Return a device that other programs join by files, and which runs."""
    simulation = Simulation(f"mqtt: {{host: broker}}\nshadows: [{{name: device_0, every: {every}, files: true}}]\n")
    simulation.start()
    return simulation


def reported_by_files(simulation: Simulation) -> Json:
    """Return what the shadow tells but for what iotd says itself."""
    reported = simulation.broker.shadows.state(THING, SHADOW).get("reported", {})
    return {key: value for key, value in reported.items() if key in ("door", "pump")}


def updates(simulation: Simulation) -> list[Any]:
    """Return what the device has said of its shadow."""
    return [delivered.json() for delivered in simulation.broker.on(f"$aws/things/{THING}/shadow/name/{SHADOW}/update")]


@pytest.mark.parametrize("orderly", [True, False])
def test_what_no_program_reports_after_a_boot_is_taken_out_once_they_have_had_the_time(orderly: bool) -> None:
    simulation = joined()
    content = simulation.disk.content
    content.update({f"{REPORTED}/door.json": b'{"door": "open"}', f"{REPORTED}/pump.json": b'{"pump": {"rpm": 1}}'})
    simulation.run(600.0)
    simulation.reboot(orderly)
    simulation.run(120.0)
    assert reported_by_files(simulation) == {"door": "open", "pump": {"rpm": 1}}
    simulation.disk.content[f"{REPORTED}/pump.json"] = b'{"pump": {"rpm": 2}}'
    simulation.run(SETTLED_AFTER_BOOT_S + 300.0)
    assert reported_by_files(simulation) == {"pump": {"rpm": 2}}


def test_a_program_that_invents_keys_does_not_wear_the_card_and_a_stop_forgets_none() -> None:
    simulation = joined(every="10s")
    for number in range(360):
        simulation.disk.content[f"{REPORTED}/a.json"] = b'{"key %d": 1}' % number
        simulation.run(10.0)
    assert simulation.disk.writes <= 20
    simulation.stop()
    assert "key 359" in simulation.disk.content["/state/reported.json"].decode()


def test_what_is_taken_out_is_said_in_one_report_that_is_taken() -> None:
    simulation = joined()
    simulation.disk.content[f"{REPORTED}/door.json"] = b'{"door": "open"}'
    simulation.run(400.0)
    del simulation.disk.content[f"{REPORTED}/door.json"]
    simulation.broker.shadows.refuse = lambda verb: Refusal(500, "no") if simulation.schedule.now < 1000 else None
    simulation.run(3600.0)
    said = [report["state"]["reported"].get("door", "") for report in updates(simulation)]
    assert said.count(None) == 3 and said[-1] == "" and reported_by_files(simulation) == {}


def test_a_reload_that_ends_the_files_forgets_none_of_them() -> None:
    simulation = joined(every="60s")
    with_files = simulation.configuration
    simulation.disk.content[f"{REPORTED}/pump.json"] = b'{"pump": 1}'
    simulation.run(90.0)
    simulation.disk.content[f"{REPORTED}/door.json"] = b'{"door": "open"}'
    simulation.run(90.0)
    for configuration in (with_files.replace("files: true", "files: false"), with_files):
        simulation.configuration = configuration
        assert simulation.daemon is not None
        simulation.daemon.post(Signalled(SIGHUP))
        simulation.run(90.0)
        simulation.disk.content.pop(f"{REPORTED}/door.json", None)
    simulation.run(SETTLED_AFTER_BOOT_S)
    assert reported_by_files(simulation) == {"pump": 1}


def test_an_order_that_was_done_while_the_disk_had_just_filled_up_is_not_begun_again_after_a_restart() -> None:
    simulation, begun = Simulation(CONFIGURATION), list[str]()

    def fill(key: str, value: Json) -> tuple[float, str]:
        begun.append(key)
        simulation.schedule.after(1.0, lambda: simulation.disk.failures.append("full"))
        simulation.schedule.after(60.0, simulation.disk.failures.clear)
        return 5.0, ""

    simulation.command = fill
    simulation.start()
    simulation.run(60.0)
    simulation.broker.shadows.desire(THING, SHADOW, {"lamp": "on"})
    simulation.run(200.0)
    simulation.kill()
    simulation.start()
    simulation.run(60.0)
    assert begun == ["lamp"] and simulation.broker.shadows.state(THING, SHADOW)["reported"]["lamp"] == "on"
