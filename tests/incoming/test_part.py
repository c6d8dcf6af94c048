"""Messages that have a command run: real commands, on threads of their own, and what must not reach them."""

from __future__ import annotations

import hashlib
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from iotd.host import log
from iotd.incoming.part import Incoming, build
from iotd.incoming.runs import MAX_WAITING, REPORT_S
from iotd.incoming.section import Subscription
from iotd.vocabulary import Received
from tests.kernel import WaitingKernel, settings

GO_ON = """read line; echo "$1 $line" >> {log}; until test -e {go}; do sleep 0.01; done"""


class Device:
    """The part with these subscriptions, and what it logs."""

    def __init__(self, path: Path, *subscriptions: Subscription) -> None:
        self.stream = io.StringIO()
        log.start("debug", "json", under_journald=False, stream=self.stream)
        self.path = path
        self.kernel = WaitingKernel(path)
        self.part: Incoming = build(self.kernel, None)
        self.apply(*subscriptions)

    def apply(self, *subscriptions: Subscription) -> None:
        """Take a configuration."""
        self.part.apply(settings({"subscribe": subscriptions}), 0.0)

    def hear(self, topic: str, payload: bytes, retain: bool = False, now: float = 0.0) -> None:
        """Have a message come in."""
        self.part.heard(Received(1, topic, payload, 1, retain), now)

    def settle(self, count: int = 1) -> None:
        """Wait for so many commands to end."""
        for _ in range(count):
            event = self.kernel.events.get(timeout=20)
            self.part.handlers()[type(event)](event, 0.0)

    def entries(self, event: str) -> list[dict[str, Any]]:
        """Return what was logged under this event."""
        return [entry for entry in map(json.loads, self.stream.getvalue().splitlines()) if entry["event"] == event]

    def written(self) -> list[str]:
        """Return the lines that commands wrote into the file `log`."""
        path = self.path / "log"
        return path.read_text().splitlines() if path.exists() else []


def script(path: Path, text: str, *arguments: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", text.format(log=path / "log", go=path / "go"), "script", *arguments)


def test_a_message_is_handed_to_its_command_as_an_argument_and_byte_by_byte(tmp_path: Path) -> None:
    text = "printf '%s|%s\\n' \"$1\" \"$2\" >> {log}; sha256sum >> {log}"
    device = Device(tmp_path, Subscription("a/#", command=script(tmp_path, text, "{topic}", "is {payload}")))
    payload = "$(reboot) `x` ; \"' \n{topic} 接続👉\\".encode()
    device.hear("a/b", payload)
    device.settle()
    lines = "\n".join(device.written())
    assert lines.startswith(f"a/b|is {payload.decode()}\n")
    assert hashlib.sha256(payload).hexdigest() in lines
    assert [entry["topic"] for entry in device.entries("message.done")] == ["a/b"]
    assert len(device.entries("message.received")) == 1


@pytest.mark.parametrize("payload, reason", [
    (b"\xff", "it is no UTF-8 text; read it from standard input instead of {payload}"),
    (b"a\0b", "it has a NUL character, which no argument of a command can have"),
    (b"-rf", "it begins with -, which the command may take for an option; put \"--\" before {payload} where"),
    (b"--help", "it begins with -"),
])
def test_a_payload_that_no_command_can_be_given_is_refused(tmp_path: Path, payload: bytes, reason: str) -> None:
    device = Device(tmp_path, Subscription("a", command=script(tmp_path, "echo ran >> {log}", "{payload}")))
    device.hear("a", payload)
    [entry] = device.entries("message.refused")
    assert entry["topic"] == "a" and entry["reason"].startswith(reason) and entry["level"] == "warning"
    device.hear("a", b"fine")
    device.settle()
    assert device.written() == ["ran"]


@pytest.mark.parametrize("arguments, payload, given", [
    (("--", "{payload}"), b"-rf", "-- -rf"), (("--speed={payload}",), b"-3", "--speed=-3"),
    (("{payload}",), b"", ""), (("a{{{payload}",), b"-x", "a{-x"),
])
def test_a_payload_that_cannot_be_taken_for_an_option_is_given(
    tmp_path: Path, arguments: tuple[str, ...], payload: bytes, given: str
) -> None:
    device = Device(tmp_path, Subscription("a", command=script(tmp_path, "echo \"$*\" >> {log}", *arguments)))
    device.hear("a", payload)
    device.settle()
    assert device.written() == [given]


def test_a_topic_that_looks_like_an_option_is_refused_too(tmp_path: Path) -> None:
    device = Device(tmp_path, Subscription("#", command=script(tmp_path, "echo ran >> {log}", "{topic}")))
    device.hear("-rf/x", b"")
    assert len(device.entries("message.refused")) == 1 and device.written() == []


def test_bytes_that_are_no_text_reach_standard_input(tmp_path: Path) -> None:
    device = Device(tmp_path, Subscription("a", command=script(tmp_path, "od -An -tx1 >> {log}")))
    device.hear("a", b"\0\xff\n")
    device.settle()
    assert device.written() == [" 00 ff 0a"]


def test_messages_are_handled_one_at_a_time_in_order_and_each_entry_for_itself(tmp_path: Path) -> None:
    slow = Subscription("slow", command=script(tmp_path, GO_ON, "slow"))
    quick = Subscription("quick", command=script(tmp_path, "read line; echo \"quick $line\" >> {log}"))
    device = Device(tmp_path, slow, quick)
    for number in range(3):
        device.hear("slow", f"{number}\n".encode())
    device.hear("quick", b"0\n")
    device.settle()  # the quick one: the slow one waits for its file
    deadline = time.monotonic() + 20
    while len(device.written()) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(device.written()) == ["quick 0", "slow 0"]
    (tmp_path / "go").touch()
    device.settle(3)
    assert device.written()[-2:] == ["slow 1", "slow 2"]
    device.part.close(0.0)


def test_beyond_a_hundred_the_oldest_go_and_are_counted(tmp_path: Path) -> None:
    device = Device(tmp_path, Subscription("a/+", command=script(tmp_path, GO_ON, "a"), log=False))
    for number in range(MAX_WAITING + 1):
        device.hear(f"a/{number}", f"{number}\n".encode())
    assert device.entries("message.dropped") == []
    for number in range(50):
        device.hear("a/x", f"new {number}\n".encode())
    [dropped] = device.entries("message.dropped")
    assert (dropped["topic"], dropped["count"], dropped["reason"]) == ("a/+", 1, "more than 100 wait")
    assert device.part.next_due() == REPORT_S
    device.part.keep(REPORT_S)
    assert [entry["count"] for entry in device.entries("message.dropped")] == [1, 49]
    (tmp_path / "go").touch()
    device.settle(MAX_WAITING + 1)
    assert device.written()[0] == "a 0" and device.written()[1] == "a 51" and len(device.written()) == MAX_WAITING + 1
    assert device.entries("message.received") == []


def test_what_waits_is_bounded_in_bytes_too(tmp_path: Path) -> None:
    device = Device(tmp_path, Subscription("a", command=script(tmp_path, "until test -e {go}; do sleep 0.01; done"),
                                           log=False))
    for _ in range(20):
        device.hear("a", b"x" * 1_000_000)
    device.part.keep(REPORT_S)
    assert sum(entry["count"] for entry in device.entries("message.dropped")) == 11
    (tmp_path / "go").touch()
    device.settle(9)
    device.part.close(0.0)


def test_a_retained_message_is_run_only_where_that_is_asked_for(tmp_path: Path) -> None:
    device = Device(tmp_path, Subscription("a", command=script(tmp_path, "echo a >> {log}")),
                    Subscription("b", command=script(tmp_path, "echo b >> {log}"), retained=True))
    device.hear("a", b"", retain=True)
    device.hear("b", b"", retain=True)
    device.settle()
    assert device.written() == ["b"] and len(device.entries("message.received")) == 2


def test_a_command_that_fails_says_why_with_the_end_of_its_errors(tmp_path: Path) -> None:
    text = "seq 5000 >&2; echo no horn >&2; exit 3"
    device = Device(tmp_path, Subscription("a", command=script(tmp_path, text)))
    device.hear("a", b"")
    device.settle()
    [failed] = device.entries("message.failed")
    assert failed["reason"] == "exit status 3: no horn" and failed["stderr"].endswith("5000\nno horn\n")
    assert len(failed["stderr"]) <= 1000 and (failed["topic"], failed["level"]) == ("a", "warning")


@pytest.mark.parametrize("text", ["sleep 60", "yes", "sleep 60 & sleep 60", "trap '' TERM; while :; do :; done"])
def test_a_command_that_hangs_is_over_at_its_time_out_and_the_next_message_has_its_turn(
    tmp_path: Path, text: str
) -> None:
    device = Device(tmp_path, Subscription("a", command=script(tmp_path, text), timeout_s=0.2))
    device.hear("a", b"")
    device.hear("a", b"")
    started = time.monotonic()
    device.settle(2)
    assert [entry["reason"] for entry in device.entries("message.failed")] == ["did not end within 0.2 s"] * 2
    assert time.monotonic() - started < 5


def test_a_command_that_is_not_there_or_a_payload_too_large_for_an_argument_says_so(tmp_path: Path) -> None:
    device = Device(tmp_path, Subscription("a", command=("/nowhere",)),
                    Subscription("b", command=("true", "{payload}")))
    device.hear("a", b"")
    device.hear("b", b"x" * 200_000)
    device.settle(2)
    assert sorted(entry["reason"] for entry in device.entries("message.failed")) == [
        "/nowhere cannot be run: No such file or directory", "true cannot be run: Argument list too long"]


def test_nothing_is_begun_while_the_last_word_is_said_and_what_runs_is_killed_at_the_end(tmp_path: Path) -> None:
    device = Device(tmp_path, Subscription("a", command=script(tmp_path, GO_ON, "a")))
    device.hear("a", b"1\n")
    device.hear("a", b"2\n")
    device.kernel.leaving = True
    device.hear("a", b"3\n")
    started = time.monotonic()
    device.part.close(0.0)
    device.settle()
    assert time.monotonic() - started < 5 and device.kernel.events.empty()


def test_a_reload_goes_on_with_what_waits_and_forgets_what_is_subscribed_no_more(tmp_path: Path) -> None:
    entry = Subscription("a", command=script(tmp_path, GO_ON, "old"))
    device = Device(tmp_path, entry, Subscription("b", command=script(tmp_path, GO_ON, "b")))
    for topic in ("a", "a", "b", "b"):
        device.hear(topic, b"x\n")
    device.apply(entry._replace(timeout_s=5.0))
    (tmp_path / "go").touch()
    device.settle(3)
    assert sorted(device.written()) == ["b x", "old x", "old x"] and device.kernel.events.empty()


def test_a_bug_in_a_command_ends_nothing_but_its_message_and_is_told_once(tmp_path: Path) -> None:
    timeout_s: Any = "soon"  # what the file cannot have stands for a bug
    device = Device(tmp_path, Subscription("a", command=("true",), timeout_s=timeout_s))
    device.hear("a", b"")
    device.hear("a", b"")
    device.settle(2)
    assert len(device.entries("message.fault")) == 1
    assert [entry["reason"][:14] for entry in device.entries("message.failed")] == ["a bug in iotd:"] * 2
