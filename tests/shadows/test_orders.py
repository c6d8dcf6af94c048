"""What a desired value becomes as an argument of a real command or as a setting, and what is known after a restart."""

from __future__ import annotations

import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from iotd.config.base import with_value
from iotd.config.settings import Presence, Settings
from iotd.host import log
from iotd.host.files import Files
from iotd.local.section import Local
from iotd.mqtt.settings import Mqtt
from iotd.outgoing.section import Bounds, Publish
from iotd.shadows.findings import Performed
from iotd.shadows.orders import Executor, faulty, perform
from iotd.shadows.section import Action, Run, Set, Shadow
from iotd.vocabulary import Json, Overridden

SAYS = Run(("sh", "-c", "printf '%s' \"$#:$1\"; exit 1", "sh", "{value}"))


@pytest.mark.parametrize("value, said", [
    ("$(reboot)", "1:$(reboot)"), ("`reboot`; reboot", "1:`reboot`; reboot"), ("two words", "1:two words"),
    ("", "1:"), ("a\tb", "1:a�b"), (3, "1:3"), (False, "1:false"), ({"a": [None]}, '1:{"a": [null]}'),
    ("first\nsecond", "second"),
])
def test_a_value_reaches_the_command_as_one_inert_argument(value: Json, said: str) -> None:
    assert perform("s", "fan", SAYS, value) == Performed("s", "fan", f"exit status 1: {said}")


@pytest.mark.parametrize("action, value, reason", [
    (Run(("true", "{value}")), "x", ""),
    (Run(("true", "{value}")), "a\0b", "it has a NUL character, which no argument of a command can have"),
    (Run(("/nowhere", "{value}")), 1, "/nowhere cannot be run: No such file or directory"),
    (Run(("sleep", "{value}"), timeout_s=0.2), 60, "did not end within 0.2 s"),
])
def test_how_it_ended_is_told(action: Run, value: Json, reason: str) -> None:
    assert perform(None, "fan", action, value) == Performed(None, "fan", reason)


def test_what_looks_like_an_option_is_refused_before_anything_runs() -> None:
    assert "option" in perform(None, "fan", Run(("ls", "{value}")), "--help").reason


FAN, EVERY, MESSAGE = Run(("fan", "{value}")), Set("publish[0].every"), Set("publish[0].payload.msg")
ACTIONS: dict[str, Action] = {"fan": FAN, "every": EVERY, "msg": MESSAGE}
HELLO = Publish("a", 30.0, {"msg": "hello"})


@pytest.fixture
def entries() -> io.StringIO:
    """What is logged."""
    stream = io.StringIO()
    log.start("debug", "json", under_journald=False, stream=stream)
    return stream


def settings(**actions: Action) -> Settings:
    return Settings("t", Mqtt("b", aws_limits=True), Presence("p"), sections={
        "publish": (HELLO,), "spool": Bounds(), "local": Local(),
        "shadows": (Shadow("s", on_delta=actions), Shadow("other"))})


class Device:
    """Orders whose commands are begun and never end by themselves; `started` and `posted` tell what was asked for."""

    def __init__(self, directory: Path, actions: dict[str, Action] = ACTIONS, threads: bool = True) -> None:
        self.started: list[Any] = []
        self.posted: list[Any] = []
        self.executor = Executor(
            directory / "desired.json", Files(), partial(self._start, threads), self.posted.append)
        self.settings = self.executor.follow(settings(**actions), 0.0)

    def _start(self, threads: bool, key: Any, work: Any, failed: Any) -> bool:
        self.started.append(key[2])
        return threads


def test_a_command_is_written_down_before_it_is_begun_and_reported_when_it_has_ended(tmp_path: Path) -> None:
    device = Device(tmp_path)
    assert not device.executor.heard("s", {"fan": 1}, 1, 1.0)
    assert device.started == ["fan"]
    assert json.loads((tmp_path / "desired.json").read_text())["s"]["fan"]["stage"] == "acting"
    assert device.executor.performed(Performed("s", "fan", ""), 2.0)
    assert device.executor.reported("s") == {"every": None, "msg": None, "fan": 1}
    assert Device(tmp_path).executor.reported("s") == {"every": None, "msg": None, "fan": 1}


def test_an_order_that_cannot_be_written_down_is_not_begun(tmp_path: Path) -> None:
    (tmp_path / ".desired.json.new").mkdir()
    device = Device(tmp_path)
    assert device.executor.heard("s", {"fan": 1, "every": "5s"}, 1, 1.0)
    assert device.started == device.posted == []
    assert [failed["key"] for failed in device.executor.failures("s")] == ["every", "fan"]
    assert all("cannot be written down" in failed["reason"] for failed in device.executor.failures("s"))


def test_that_orders_cannot_be_written_down_is_said_once_until_they_can(tmp_path: Path, entries: io.StringIO) -> None:
    device = Device(tmp_path)
    for version, broken in enumerate((True, True, False, True), 1):
        if broken:
            (tmp_path / ".desired.json.new").mkdir(exist_ok=True)
        else:
            (tmp_path / ".desired.json.new").rmdir()
        device.executor.heard("s", {"fan": version}, version, float(version))
        if not broken:
            device.executor.performed(Performed("s", "fan", ""), float(version))
    assert entries.getvalue().count("desired.unwritable") == 2


def test_a_command_without_a_thread_to_run_on_has_failed_and_is_tried_again(tmp_path: Path) -> None:
    device = Device(tmp_path, threads=False)
    assert device.executor.heard("s", {"fan": 1}, 1, 1.0)
    assert "thread" in device.executor.failures("s")[0]["reason"]
    due_at = device.executor.next_due()
    assert device.executor.keep(due_at - 0.1) == []
    assert device.executor.keep(due_at) == ["s"] and device.started == ["fan", "fan"]


def test_a_setting_is_asked_to_take_effect_and_outlives_a_restart(tmp_path: Path) -> None:
    device = Device(tmp_path)
    assert device.executor.heard("s", {"every": "5s"}, 1, 1.0)
    assert device.posted == [Overridden()]
    for executor in (device.executor, Device(tmp_path).executor):
        assert executor.overridden().sections["publish"][0].every_s == 5.0
        assert executor.origins() == {"publish[0].every": {"value": "5s", "from": "shadow"},
                                      "publish[0].payload.msg": {"value": "hello", "from": "file"}}
    assert Device(tmp_path).settings.sections["publish"][0].every_s == 5.0


@pytest.mark.parametrize("key, value, reason", [
    ("every", "500ms", "expected a duration"), ("msg", 1, "expected a text"), ("msg", "x" * 8000, ""),
])
def test_a_value_that_a_setting_cannot_have_changes_nothing(tmp_path: Path, key: str, value: Json, reason: str) -> None:
    device = Device(tmp_path)
    assert device.executor.heard("s", {key: value}, 1, 1.0)
    assert [failed["reason"][:len(reason)] for failed in device.executor.failures("s")] == ([reason] if reason else [])
    assert (device.posted == []) == bool(reason)


TWICE = with_value(settings(**ACTIONS), "publish", (HELLO, Publish("a", 2.0, {"msg": "x"})))


def test_the_rules_between_the_values_of_the_file_hold_for_the_clouds_as_well(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.executor.follow(TWICE, 1.0)
    assert device.executor.heard("s", {"every": "1s"}, 1, 2.0)
    [failed] = device.executor.failures("s")
    assert "retained" in failed["reason"] and device.posted == []


def test_what_the_file_opens_no_more_is_taken_back_and_out_of_the_shadow(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.executor.heard("s", {"every": "5s", "msg": "hi"}, 1, 1.0)
    after = device.executor.follow(settings(msg=MESSAGE), 2.0)
    first = after.sections["publish"][0]
    assert (first.every_s, first.payload) == (30.0, {"msg": "hi"})
    assert device.executor.reported("s") == {"every": None, "msg": "hi"}
    assert Device(tmp_path, {}).executor.reported("s") == {"every": None, "msg": None}


def test_a_value_that_the_file_has_no_use_for_any_more_is_dropped_and_tried_when_desired_anew(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.executor.heard("s", {"every": "1s", "msg": "hi"}, 1, 1.0)
    after = device.executor.follow(TWICE, 2.0)
    first = after.sections["publish"][0]
    assert (first.every_s, first.payload) == (30.0, {"msg": "hi"})
    assert device.executor.reported("s") == {"fan": None, "every": None, "msg": "hi"}
    assert device.executor.heard("s", {"every": "1s"}, 1, 3.0)
    assert [failed["key"] for failed in device.executor.failures("s")] == ["every"]


def test_a_shadow_without_orders_hears_nothing(tmp_path: Path) -> None:
    device = Device(tmp_path)
    assert not device.executor.heard("other", {"fan": 1}, 1, 1.0) and device.started == []
    assert device.executor.reported("other") == {} and device.executor.failures("other") == []
    assert not device.executor.performed(Performed("gone", "fan", ""), 2.0)


def test_a_command_that_runs_over_a_reload_comes_to_its_end(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.executor.heard("s", {"fan": 1}, 1, 1.0)
    device.executor.follow(settings(**ACTIONS), 2.0)
    assert device.executor.failures("s") == []
    assert device.executor.performed(Performed("s", "fan", ""), 3.0)
    assert device.executor.reported("s")["fan"] == 1


def test_a_bug_in_a_command_is_this_orders_failure_and_is_told_once(tmp_path: Path, entries: io.StringIO) -> None:
    device = Device(tmp_path)
    device.executor.heard("s", {"fan": 1}, 1, 1.0)
    for now in (2.0, 40.0):
        ended = faulty("s", "fan", "Traceback (most recent call last):\nTypeError: odd\n")
        assert device.executor.performed(ended, now)
        [failed] = device.executor.failures("s")
        assert failed == {"key": "fan", "reason": "a bug in iotd: TypeError: odd"}
        device.executor.keep(device.executor.next_due())
    assert [line["event"] for line in map(json.loads, entries.getvalue().splitlines())].count("desired.fault") == 1


def test_a_bug_in_judging_a_setting_is_this_orders_failure(tmp_path: Path, entries: io.StringIO) -> None:
    """An item that the file cannot have stands for the bug."""
    executor = Executor(tmp_path / "desired.json", Files(), lambda key, work, failed: True, lambda event: None)
    broken = settings(every=EVERY)
    executor.follow(with_value(broken, "publish", (None,)), 0.0)
    assert executor.heard("s", {"every": "10s"}, 1, 1.0)
    [failed] = executor.failures("s")
    assert failed["reason"].startswith("a bug in iotd: AttributeError")
    [fault] = [line for line in map(json.loads, entries.getvalue().splitlines()) if line["event"] == "desired.fault"]
    assert fault["key"] == "publish[0].every" and "Traceback" in fault["traceback"]
