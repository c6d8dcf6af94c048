"""What programs ask for, done with a kernel that notes it, and a door that notes the answers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import pytest

from iotd.host import log
from iotd.local.desk import FILTERS
from iotd.local.door import Asked, Door, Left
from iotd.local.orders import Answer, Heard, Release
from iotd.local.part import build
from iotd.local.requests import Ask, Clear, Listen, Refused, Request, Status, Tell
from iotd.local.section import Local
from iotd.vocabulary import Message, Offer, Received, Taken
from tests.kernel import FakeKernel, settings


class NotedDoor:
    """What the part has told the door."""

    problem = ""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.lines: list[tuple[tuple[int, ...], Any]] = []
        self.released = 0
        self.is_alive = True

    def order(self, order: Any) -> None:
        if isinstance(order, Answer):
            self.answers.append(order)
        elif isinstance(order, Heard):
            self.lines.append((order.connections, json.loads(order.line)))
        else:
            assert order == Release()
            self.released += 1

    def alive(self, now: float) -> bool:
        return self.is_alive

    def close(self, limit_s: float) -> None:
        self.is_alive = False


class Office:
    """The part, its kernel and its door."""

    def __init__(self, path: Path) -> None:
        self.kernel = FakeKernel(path, {"local": Local(("plant/#",))})
        self.door = NotedDoor()
        self.part = build(self.kernel, lambda post, runtime: cast(Door, self.door))
        self.part.apply(self.kernel.written, 0.0)

    def ask(self, *requests: Request, connection: int = 1, now: float = 0.0, trusted: bool = False) -> list[Any]:
        """Return the answers."""
        self.part.handlers()[Asked](Asked(connection, requests, trusted), now)
        answer = self.door.answers[-1]
        assert answer.connection == connection and answer.lines.endswith(b"\n")
        return [json.loads(line) for line in answer.lines.splitlines()]

    def hear(self, topic: str, payload: bytes = b"1") -> None:
        self.part.heard(Received(1, topic, payload, 1, False), 0.0)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


def offer(topic: str, payload: bytes = b"1", offline: str = "queue") -> Offer:
    return Offer(Message(topic, payload), offline)


def test_messages_that_follow_each_other_are_offered_at_once_and_answered_in_order(office: Office) -> None:
    assert office.ask(offer("plant/a"), offer("other"), offer("plant/b"), Refused("no JSON"), Tell("known", 1),
                      offer("plant/c")) == [
        {"kept": 1}, {"refused": "the configuration does not open 'other' to programs; local.publish opens plant/#"},
        {"kept": 2}, {"refused": "no JSON"}, {"set": "known"}, {"kept": 3}]
    assert [entry.message.topic for entry in office.kernel.offered] == ["plant/a", "plant/b", "plant/c"]


@pytest.mark.parametrize(("taken", "answer"), [
    (Taken(7), {"kept": 7}), (Taken(), {"sent": True}),
    (Taken(dropped="the line is down"), {"dropped": "the line is down"}),
    (Taken(refused="the spool cannot be written"), {"refused": "the spool cannot be written"})])
def test_what_became_of_a_message_is_told(office: Office, taken: Taken, answer: Any) -> None:
    office.kernel.publish = lambda offers, now: [taken]  # type: ignore[assignment, method-assign]
    assert office.ask(offer("plant/a", offline="drop")) == [answer]


def test_a_payload_that_the_broker_would_not_take_is_refused(office: Office) -> None:
    office.part.apply(settings({"local": Local(("plant/#",))}, aws_limits=True), 0.0)
    [refused, kept] = office.ask(offer("plant/a", b"x" * 131_073), offer("plant/a", b"x" * 131_072))
    assert "at most 131072" in refused["refused"] and kept == {"kept": 1}


def test_a_value_is_told_or_refused(office: Office) -> None:
    assert office.ask(Tell("known", {"a": 1}), Tell("strange", 2)) == [
        {"set": "known"}, {"refused": "there is no such value"}]
    assert office.kernel.told == [("known", {"a": 1}), ("strange", 2)]


def test_the_status_is_that_of_the_file(office: Office) -> None:
    assert office.ask(Status()) == [{"connected": False}]


def test_a_message_is_heard_once_by_each_that_listens_to_it(office: Office) -> None:
    office.kernel.open_filters = ("in/#",)
    assert office.ask(Listen("in/#"), Listen("in/a"), connection=1) == [{"listening": "in/#"}, {"listening": "in/a"}]
    assert office.door.answers[-1].listens
    office.ask(Listen("in/b"), connection=2)
    assert "refused" in office.ask(Listen("out"), connection=3)[0] and not office.door.answers[-1].listens
    office.hear("in/a", b'{"x": 1}')
    office.hear("in/b", b"\xff")
    office.hear("out")
    office.hear("t/will")
    said = {"qos": 1, "retain": False}
    assert office.door.lines == [((1,), {"topic": "in/a", **said, "payload": {"x": 1}}),
                                 ((1, 2), {"topic": "in/b", **said, "payload_base64": "/w=="})]


@pytest.mark.parametrize("payload", [b"[" * 5000 + b"]" * 5000, b"1e400", b"NaN", b'"\\ud800"'])
def test_whatever_comes_in_is_a_line_of_json(office: Office, payload: bytes) -> None:
    office.kernel.open_filters = ("in",)
    office.ask(Listen("in"))
    office.hear("in", payload)
    [(_, line)] = office.door.lines
    assert line["topic"] == "in" and "payload" in line


def test_one_that_has_left_hears_no_more_nor_what_is_no_longer_subscribed(office: Office) -> None:
    office.kernel.open_filters = ("in", "on")
    office.ask(Listen("in"), Listen("on"))
    office.kernel.open_filters = ("on",)
    office.hear("in")
    office.part.handlers()[Left](Left(1), 0.0)
    office.hear("on")
    assert office.door.lines == []


def test_a_connection_listens_to_so_many_filters(office: Office) -> None:
    office.kernel.open_filters = ("in/#",)
    answers = office.ask(*(Listen(f"in/{number}") for number in range(FILTERS + 1)))
    assert "already" in answers[-1]["refused"] and all("listening" in answer for answer in answers[:-1])
    assert office.ask(Listen("in/0")) == [{"listening": "in/0"}]


def test_one_that_publishes_waits_for_room_and_nobody_else_does(office: Office) -> None:
    office.kernel.full_until = math.inf
    assert office.ask(offer("plant/a")) == [{"kept": 1}] and office.door.answers[-1].hold
    office.ask(Tell("known", 1), connection=2)
    assert not office.door.answers[-1].hold
    office.part.keep(100.0)
    assert office.door.released == 0 and office.part.next_due() == math.inf
    office.kernel.full_until = 0.0
    office.part.keep(101.0)
    office.part.keep(102.0)
    assert office.door.released == 1


def test_one_that_runs_ahead_of_the_line_waits_a_little(office: Office) -> None:
    office.kernel.full_until = 10.05
    office.ask(offer("plant/a"), now=10.0)
    assert office.door.answers[-1].hold and office.part.next_due() == 10.05
    office.part.keep(10.04)
    assert office.door.released == 0
    office.part.keep(10.05)
    assert office.door.released == 1 and office.part.next_due() == math.inf


def test_a_bug_is_told_and_ends_nothing(office: Office, capsys: pytest.CaptureFixture[str]) -> None:
    def tell(name: str, value: Any, now: float) -> str:
        raise ZeroDivisionError

    log.start("info", "json", False)
    office.kernel.tell = tell  # type: ignore[assignment, method-assign]
    answers = office.ask(Tell("a", 1), Status())
    assert len(answers) == 2 and all("bug" in answer["refused"] for answer in answers)
    entry = json.loads(capsys.readouterr().out)
    assert entry["event"] == "program.fault" and "ZeroDivisionError" in entry["traceback"]
    del office.kernel.tell
    assert office.ask(Status()) == [{"connected": False}]


def test_a_door_that_is_stuck_or_could_not_be_opened_is_told(office: Office) -> None:
    assert office.part.stuck(0.0) == "" and office.part.problems() == []
    office.door.is_alive = False
    office.door.problem = "no program can connect: /run/iotd/iotd.sock: Permission denied"
    assert office.part.stuck(0.0) == "programs" and office.part.problems() == [office.door.problem]


def test_root_and_the_daemons_user_alone_ask_for_what_changes_iotd(office: Office) -> None:
    [refused] = office.ask(Ask("known"))
    assert "only root" in refused["refused"] and office.kernel.asked == []
    assert office.ask(Ask("known"), Ask("other"), trusted=True) == [{"asked": "known"},
                                                                    {"refused": "nothing here does that"}]


def test_what_is_retained_is_cleared_for_root_alone_and_answered_once_the_broker_has(office: Office) -> None:
    def ask(*requests: Request, trusted: bool) -> None:
        office.part.handlers()[Asked](Asked(1, requests, trusted), 0.0)

    ask(Clear("plant/a"), trusted=False)
    assert json.loads(office.door.answers.pop().lines) == {
        "refused": "clear_retained is for root and the user of iotd alone"}
    ask(Clear("plant/+"), trusted=True)
    assert "plant/+" in json.loads(office.door.answers.pop().lines)["refused"]
    assert office.kernel.to_clear == []
    ask(Tell("known", 1), Clear(None), trusted=True)
    [(topic, then)] = office.kernel.to_clear
    assert topic is None and office.door.answers == []
    then(["plant/a"], "the line is down")
    assert [json.loads(line) for line in office.door.answers.pop().lines.splitlines()] == [
        {"set": "known"}, {"refused": "the line is down", "cleared": ["plant/a"]}]
    ask(Clear("plant/a"), trusted=True)
    office.kernel.to_clear[1][1](["plant/a"], "")
    assert json.loads(office.door.answers.pop().lines) == {"cleared": ["plant/a"]}
