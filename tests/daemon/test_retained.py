"""What is retained is written down before it goes out, and what the configuration has left is named, and can go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from iotd.daemon.retained import FILE, MAX_BYTES, Entry, Ledger, read
from iotd.host import log
from iotd.vocabulary import Message, Signalled
from tests.kernel import FakeKernel
from tests.sim.disk import STATE
from tests.sim.world import SIGHUP, Simulation

A, B, WILL = "plant/pi/a", "plant/pi/b", "MQTTServer/pi/will"
BOTH = """\
mqtt: {host: broker}
publish:
  - {topic: "plant/{thing}/a", every: 1h, payload: {n: "{sequence}"}}
  - {topic: "plant/{thing}/b", every: 1h, payload: {n: "{sequence}"}}
  - {topic: "plant/{thing}/c", every: 1h, retain: false, payload: {n: "{sequence}"}}
"""
ONE = BOTH.replace("""  - {topic: "plant/{thing}/b", every: 1h, payload: {n: "{sequence}"}}\n""", "")


def retained(topic: str, payload: bytes = b"1") -> Message:
    return Message(topic, payload, 1, True)


class Ground:
    """A ledger on real files."""

    def __init__(self, path: Path) -> None:
        self.kernel = FakeKernel(path)
        self.kernel.wall = 1_790_000_000.5
        self.file = self.kernel.world.places.state / FILE
        self.ledger = Ledger(self.kernel.world)

    def again(self, used: dict[str, bool]) -> Ledger:
        self.ledger = Ledger(self.kernel.world)
        self.ledger.apply(used)
        return self.ledger

    @property
    def written(self) -> dict[str, Any]:
        topics: dict[str, Any] = json.loads(self.file.read_text())["topics"]
        return topics


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


def known(simulation: Simulation) -> set[str]:
    """Return what would be known after a power cut now."""
    return set(read(json.loads(simulation.disk.synced.get(str(STATE / FILE), b"null"))))


def test_a_topic_is_on_the_disk_before_its_first_retained_message_and_written_once() -> None:
    simulation = Simulation(BOTH)
    known_then: dict[str, bool] = {}
    simulation.start()
    session = simulation.session
    assert session is not None
    publish = session.publish

    def watch(line: int, token: int | None, message: Message) -> None:
        if message.retain:
            known_then.setdefault(message.topic, message.topic in known(simulation))
        publish(line, token, message)

    session.publish = watch  # type: ignore[assignment, method-assign]
    simulation.run(10.0)
    assert known_then == {WILL: True, A: True, B: True} and known(simulation) == {WILL, A, B}
    content = simulation.disk.content[str(STATE / FILE)]
    writes = simulation.disk.writes
    simulation.run(7200.0)
    simulation.cut_line()
    simulation.run(60.0)
    assert simulation.disk.content[str(STATE / FILE)] is content
    assert writes == 3  # the accepted configuration, presence, then the messages


def test_a_topic_that_is_not_published_any_more_is_named_once_over_restarts() -> None:
    simulation = Simulation(BOTH)
    simulation.start()
    simulation.run(10.0)
    simulation.configuration = ONE
    assert simulation.daemon is not None
    simulation.daemon.post(Signalled(SIGHUP))
    simulation.run(5.0)
    [orphaned] = simulation.entries("retained.orphaned")
    assert orphaned["topics"] == [B] and orphaned["count"] == 1 and orphaned["level"] == "warning"
    status = simulation.daemon.status()
    assert status["retained"] == {"topics": 3, "orphaned": [B]} and status["healthy"]
    assert any(B in sentence for sentence in status["sentences"])
    simulation.stop()
    simulation.start()
    simulation.run(10.0)
    assert len(simulation.entries("retained.orphaned")) == 1
    assert simulation.daemon.status()["retained"]["orphaned"] == [B]


@pytest.mark.parametrize("clean_session", [False, True])
@pytest.mark.parametrize("restarts", [False, True])
def test_another_broker_is_given_what_it_lacks_and_nothing_is_cleared_there(
    clean_session: bool, restarts: bool
) -> None:
    before = BOTH.replace("host: broker", f"host: broker, clean_session: {clean_session}") + "home_assistant: {}\n"
    simulation = Simulation(before)
    simulation.start()
    simulation.run(60.0)
    announced = set(simulation.broker.retained) - {A, B, WILL}
    assert announced
    simulation.configuration = before.replace("host: broker", "host: Other").replace("home_assistant: {}\n", "")
    assert simulation.daemon is not None
    if restarts:
        simulation.stop()
        simulation.start()
    else:
        simulation.daemon.post(Signalled(SIGHUP))
        simulation.run(0.5)
    simulation.broker.retained.clear()
    since = len(simulation.broker.seen)
    simulation.broker.says_present = True  # of a session from another time
    simulation.run(60.0)
    assert A in simulation.broker.retained and WILL in simulation.broker.retained
    assert all(one.message.payload for one in simulation.broker.seen[since:])
    [left] = simulation.entries("retained.left_behind")
    assert left["host"] == "broker" and left["count"] == 3 + len(announced)
    assert known(simulation) == set(simulation.broker.retained)
    simulation.stop()
    simulation.start()
    simulation.run(10.0)
    assert len(simulation.entries("retained.left_behind")) == 1


def test_a_ledger_that_names_no_broker_is_that_of_the_first_one(ground: Ground) -> None:
    ground.file.write_text('{"topics": {"a": {"since": 5}}}')
    ground.again({})
    assert not ground.ledger.reached("one") and ground.ledger.has("a")
    assert json.loads(ground.file.read_text())["broker"] == "one"
    assert ground.again({}).reached("two") and not ground.ledger.has("a") and ground.written == {}


@pytest.mark.parametrize("restarts", [False, True])
def test_what_a_program_has_handed_over_before_the_broker_changed_is_no_orphan_there(
    ground: Ground, restarts: bool
) -> None:
    ground.ledger.reached("one")
    ground.ledger.note([retained(A), retained(B)], program=True)
    ledger = ground.again({}) if restarts else ground.ledger
    assert ledger.reached("two") and ground.written == {}
    ledger.note([retained(A)])  # out of the spool
    ledger.note([retained("of/nobody")])
    assert ledger.orphans() == ["of/nobody"] and set(ground.written) == {A, "of/nobody"}


def test_an_orphan_that_is_published_again_is_none_and_would_be_named_again(
    ground: Ground, capsys: pytest.CaptureFixture[str]
) -> None:
    log.start("info", "json", False)
    ground.ledger.apply({A: False})
    ground.ledger.note([retained(A)])
    for used in (set[str](), {A}, set[str]()):
        ground.again(dict.fromkeys(used, False))
    assert capsys.readouterr().out.count("retained.orphaned") == 2
    assert ground.written == {A: {"since": 1_790_000_000, "named": True}}


def test_the_topics_of_programs_are_no_orphans(ground: Ground) -> None:
    ground.ledger.note([retained(A)], program=True)
    ground.ledger.note([retained(B), Message("not/kept", b"1")])
    ground.ledger.note([retained(B)], program=True)
    assert ground.again({}).orphans() == [] and set(ground.written) == {A, B}


def test_an_acknowledged_empty_message_clears_unless_a_newer_one_followed_it(ground: Ground) -> None:
    ground.ledger.note([retained(A), retained(B)])
    for number, message in enumerate([retained(A, b""), retained(B, b""), retained(B)], 1):
        ground.ledger.handed_over(number, message)
    ground.ledger.acknowledged([3])
    assert set(ground.written) == {A, B}
    ground.ledger.acknowledged([1, 2])
    assert set(ground.written) == {B}
    ground.ledger.note([retained(A, b"")])
    assert set(ground.written) == {B}


def test_nobody_is_asked_whether_the_clock_is_set(ground: Ground) -> None:
    ground.kernel.world = ground.kernel.world._replace(wall_is_set=lambda: pytest.fail("asked"))
    ground.ledger.note([retained(A)])
    assert set(ground.written) == {A}


@pytest.mark.parametrize("content", ["", "null", "[]", '{"topics": []}', '{"topics": {"a": 1}}', "\xff", "[" * 9999])
def test_a_file_that_makes_no_sense_is_begun_anew(ground: Ground, content: str) -> None:
    ground.file.write_text(content, "latin-1")
    assert ground.again({}).orphans() == []
    ground.ledger.note([retained(A)])
    assert set(ground.written) == {A}


def test_what_the_file_says_of_an_entry_is_taken_as_far_as_it_makes_sense() -> None:
    assert read({"topics": {"a": {"since": True, "program": 1}, "b": {"since": 5, "transient": True}}}) == {
        "a": Entry(None), "b": Entry(5, transient=True)}


def test_a_disk_that_cannot_be_written_holds_nothing_back_and_is_tried_again(
    ground: Ground, capsys: pytest.CaptureFixture[str]
) -> None:
    log.start("info", "json", False)
    ground.file.mkdir()  # which no rename replaces
    ground.ledger.note([retained(A)])
    ground.file.rmdir()
    ground.ledger.note([retained(A)])
    assert not ground.file.exists()
    ground.kernel.world.files.write_again(60.0)
    assert set(ground.written) == {A} and capsys.readouterr().out.count("retained.unwritable") == 1


def test_what_is_remembered_is_bounded_and_can_be_read_again(
    ground: Ground, capsys: pytest.CaptureFixture[str]
) -> None:
    log.start("info", "json", False)
    ground.ledger.note([retained(f"{number}/\x01" + "é" * 30_000) for number in range(40)])
    count = len(ground.written)
    assert 10 < count < 40 and MAX_BYTES / 2 < ground.file.stat().st_size < 1 << 20
    assert capsys.readouterr().out.count("retained.full") == 1
    assert ground.again({}).status()["topics"] == count


def cleared(simulation: Simulation, topic: str | None) -> list[tuple[list[str], str]]:
    answers: list[tuple[list[str], str]] = []
    assert simulation.daemon is not None
    simulation.daemon.clear_retained(topic, lambda topics, why: answers.append((topics, why)))
    simulation.run(5.0)
    return answers


def test_orphans_are_cleared_one_after_the_other_and_forgotten_when_that_is_acknowledged() -> None:
    simulation = Simulation(BOTH)
    simulation.start()
    simulation.run(10.0)
    simulation.configuration = "mqtt: {host: broker}"
    assert simulation.daemon is not None
    simulation.daemon.post(Signalled(SIGHUP))
    simulation.run(5.0)
    assert cleared(simulation, None) == [([A, B], "")]
    assert set(simulation.broker.retained) == {WILL} == known(simulation)
    assert cleared(simulation, None) == [([], "")] and cleared(simulation, "never/there") == [(["never/there"], "")]


def test_what_cannot_be_cleared_stays_and_the_reason_is_told() -> None:
    simulation = Simulation(BOTH)
    simulation.start()
    simulation.run(40.0)
    simulation.broker.denied = {A}
    [(topics, why)] = cleared(simulation, A)
    assert topics == [] and "the line went down over it" in why and A in known(simulation)
    simulation.run(60.0)
    [(topics, why)] = cleared(simulation, A)
    assert topics == [] and A in known(simulation)
    simulation.run(60.0)
    assert cleared(simulation, A) == [([], "the broker denies it; it rests for an hour")]
    assert [entry["action"] for entry in simulation.entries("session.denied")] == [f"publish to {A}"]
    simulation.cut_line()
    simulation.run(5.0)
    assert cleared(simulation, B) == [([], "the line is down")]
