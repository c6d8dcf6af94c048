"""The values in their corners: no thread to be had, a directory that cannot be written, a thread that ends too late."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from iotd.host import log
from iotd.host.tasks import Tasks
from iotd.values.part import Adapters, Values, build
from iotd.values.reading import Reading
from iotd.values.section import Value
from iotd.vocabulary import Changed, Json
from tests.kernel import FakeKernel, settings

LEVEL = Value("level", "command", ("read",))
DOOR = Value("door", "socket")


class NoThreads:
    """A host that is out of threads, until the test says otherwise; `begun` are those that it could start."""

    def __init__(self, post: Callable[[Any], None]) -> None:
        self.are_there = False
        self.begun: list[Hashable] = []

    def start(self, key: Hashable, work: Callable[[int], Any], failed: Callable[[str], Any]) -> bool:
        """Start none, or never end it."""
        self.begun += [key] if self.are_there else []
        return self.are_there

    def close(self, limit_s: float) -> None:
        """Nothing runs."""


class Device:
    """The part with these values; what its files and commands say is `said`."""

    def __init__(self, path: Path, *values: Value) -> None:
        self.stream = io.StringIO()
        log.start("debug", "json", under_journald=False, stream=self.stream)
        self.kernel = FakeKernel(path)
        self.threads = NoThreads(self.kernel.post)
        self.kernel.world = self.kernel.world._replace(tasks=lambda post: cast(Tasks, self.threads))
        self.said: dict[str, Reading] = {}
        self.part: Values = build(self.kernel, Adapters(lambda value, stop: self.said[value.name]))
        self.part.apply(settings({"values": values}), 0.0)
        self.given: list[dict[str, Json]] = []

    def fetch(self, *names: str) -> bool:
        """Ask for these names."""
        def take(found: Mapping[str, Json]) -> None:
            self.given.append(dict(found))
        return self.part.fetch(names, take)

    def reasons(self, event: str = "value.missing") -> list[str]:
        """Return why values were said to be missing."""
        entries = map(json.loads, self.stream.getvalue().splitlines())
        return [entry["reason"] for entry in entries if entry["event"] == event]


def test_names_of_others_are_none_of_its_business(tmp_path: Path) -> None:
    device = Device(tmp_path, LEVEL)
    assert not device.fetch("hostname", "timestamp") and device.given == []
    assert device.part.tell("hostname", 1, 0.0) is None


def test_without_a_thread_a_command_is_missing_at_once(tmp_path: Path) -> None:
    device = Device(tmp_path, LEVEL)
    assert device.fetch("level", "hostname")
    assert device.given == [{"level": None}] and device.reasons() == ["iotd cannot start a thread for it"]


def test_what_hangs_is_waited_for_once_and_begun_anew_only_when_it_has_ended(tmp_path: Path) -> None:
    device = Device(tmp_path, LEVEL)
    device.threads.are_there = True
    device.fetch("level")
    assert device.given == [] and device.part.next_due() == 5.0
    device.kernel.now = 5.0
    device.part.keep(5.0)
    assert device.given == [{"level": None}] and device.reasons() == ["did not end within 5 s"]
    device.fetch("level")
    assert device.given == [{"level": None}] * 2 and len(device.threads.begun) == 1
    device.part.handlers()[Reading](Reading(LEVEL, None, "did not end within 5 s and cannot be killed"), 9.0)
    device.fetch("level")
    assert len(device.given) == 2 and len(device.threads.begun) == 2 and len(device.reasons()) == 1
    device.part.handlers()[Reading](Reading(LEVEL, 7), 10.0)
    assert device.given[-1] == {"level": 7}


@pytest.mark.parametrize("values", [(), (LEVEL._replace(timeout_s=4.0),)])
def test_what_hangs_and_was_taken_out_or_is_read_in_another_way_by_now_says_nothing(
    tmp_path: Path, values: tuple[Value, ...]
) -> None:
    device = Device(tmp_path, LEVEL)
    device.threads.are_there = True
    device.fetch("level")
    device.part.apply(settings({"values": values}), 2.0)
    device.part.keep(5.0)
    assert device.reasons() == []


def test_what_is_told_and_cannot_be_written_down_is_said_once_and_used_all_the_same(tmp_path: Path) -> None:
    device = Device(tmp_path, DOOR)
    (tmp_path / "runtime" / "value-door.json").mkdir()
    assert device.part.tell("door", "open", 0.0) == "" and device.part.tell("door", "shut", 0.0) == ""
    device.fetch("door")
    assert device.given == [{"door": "shut"}]
    assert len(device.reasons("value.unwritable")) == 1
    assert device.kernel.posted == [Changed(frozenset({"door"}))] * 2


def test_what_was_told_before_is_not_taken_up_where_what_is_told_now_cannot_be_written_down(tmp_path: Path) -> None:
    device = Device(tmp_path, DOOR)
    device.part.tell("door", "open", 0.0)
    (tmp_path / "runtime" / ".value-door.json.new").mkdir()
    device.part.tell("door", "shut", 0.0)
    again = Device(tmp_path, DOOR)
    again.fetch("door")
    assert again.given == [{"door": None}]


@pytest.mark.parametrize("kept", [
    "", "{", "[]", '{"boot_id": "other", "told": 1}', '{"boot_id": "boot"}', '{"boot_id": "boot", "told": NaN}',
])
def test_what_an_earlier_run_has_left_in_disorder_is_nothing_told(tmp_path: Path, kept: str) -> None:
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / "value-door.json").write_text(kept)
    device = Device(tmp_path, DOOR)
    device.fetch("door")
    assert device.given == [{"door": None}]


def test_what_is_read_can_not_be_told(tmp_path: Path) -> None:
    device = Device(tmp_path, LEVEL, Value("water", "file", "/water"))
    assert device.part.tell("water", 1, 0.0) == (
        "water is read from a file; only a value with socket: true can be told")
    assert device.part.tell("level", 1, 0.0) == (
        "level is read from a command; only a value with socket: true can be told")


def test_a_value_that_is_large_is_shown_by_its_beginning(tmp_path: Path) -> None:
    device = Device(tmp_path, DOOR)
    device.part.tell("door", "x" * 60_000, 0.0)
    [shown] = device.part.status()["values"].values()
    assert len(shown["value"]) < 1000 and shown["value"].endswith("…")
    assert len(device.part.sentences()[0]) < 200


def test_a_bug_in_a_reading_is_this_values_and_is_told_once(tmp_path: Path) -> None:
    device = Device(tmp_path, Value("water", "file", "/water"))  # what it says was forgotten: a bug
    device.fetch("water")
    device.fetch("water")
    assert device.given == [{"water": None}] * 2 and device.reasons() == ["a bug in iotd: KeyError: 'water'"]
    assert device.stream.getvalue().count("value.fault") == 1
