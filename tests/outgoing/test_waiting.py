"""Messages that wait for the line: their times once the clock is set, and payloads that go together as one message."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from iotd.outgoing.part import Outgoing, build
from iotd.outgoing.section import Batch, Bounds, Publish
from iotd.outgoing.spool import SETTLE_S
from iotd.vocabulary import Json
from tests.kernel import FakeKernel, settings
from tests.outgoing.opening import fill

WRONG, RIGHT = 1_000_000_000.0, 1_900_000_000.0  # the wall clock when the monotonic one is at 0


class Device:
    """The part on its kernel, one run of it after another on the same files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.publish: tuple[Publish, ...] = ()
        self.spool = Bounds()
        self.offset_s, self.is_set = WRONG, False
        self.thing = "pi"
        self.parts: list[Outgoing] = []  # of all runs, those that were killed too

    def begin(self, *publish: Publish, boot: str = "boot", now: float = 0.0) -> Device:
        """Begin a run."""
        self.publish = publish or self.publish
        self.kernel = FakeKernel(self.path, {"spool": self.spool}, boot, now)
        self.kernel.world = self.kernel.world._replace(
            wall=lambda: self.kernel.now + self.offset_s, wall_is_set=lambda: self.is_set)
        self.kernel.written = self.kernel.written._replace(thing=self.thing)
        self.part: Outgoing = build(self.kernel, None)
        self.parts.append(self.part)
        self.apply(now)
        return self

    def apply(self, now: float) -> None:
        """Let the entries take effect."""
        found = settings({"publish": self.publish, "spool": self.spool})
        self.part.apply(found._replace(thing=self.thing), now)

    def turns(self, *times: float) -> None:
        """Let the part do what is due, as the main loop does."""
        for now in times:
            self.kernel.now = now
            self.kernel.found = {"timestamp": int(now + self.offset_s), "isotime": "", "hostname": "h"}
            self.part.keep(now)
            self.part.next_due()

    def sent(self) -> list[Json]:
        """Let the line rise; return the payloads that go out and have not before."""
        self.kernel.rise()
        before = len(self.kernel.handed)
        self.turns(self.kernel.now)
        return [json.loads(message.payload) for _, message in self.kernel.handed[before:]]


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    device = Device(tmp_path)
    yield device
    for part in device.parts:
        part.close(device.kernel.now)


@pytest.fixture
def told(said: io.StringIO) -> Callable[[str], list[dict[str, Any]]]:
    """Return what was logged of an event."""
    return lambda event: [entry for entry in map(json.loads, said.getvalue().splitlines()) if entry["event"] == event]


def timed(every_s: float = 10.0, **more: Any) -> Publish:
    return Publish("a", every_s, {"t": "{timestamp}", "n": "{sequence}"}, retain=False, **more)


def test_a_message_of_before_the_clock_was_set_is_right_when_it_goes_out_after_it(device: Device) -> None:
    device.begin(timed()).turns(0.0, 10.0, 20.0)
    device.offset_s, device.is_set = RIGHT, True
    device.turns(30.0)
    assert device.sent() == [{"t": RIGHT + 10 * n, "n": n + 1} for n in range(4)]


def test_it_is_right_over_a_crash_and_a_stop_in_the_same_boot(device: Device) -> None:
    device.begin(timed()).turns(0.0)
    device.begin(now=5.0).turns(5.0)  # the first was killed
    device.part.close(6.0)
    device.offset_s = RIGHT
    device.begin(now=7.0).turns(7.0)
    assert [said["t"] - RIGHT for said in device.sent()] == [0.0, 5.0, 7.0]


@pytest.mark.parametrize("is_set, times", [(True, [RIGHT, RIGHT + 10]), (False, [None, None])])
def test_after_another_boot_it_is_known_where_the_clock_was_set_before_the_end(
        device: Device, is_set: bool, times: list[float | None]) -> None:
    device.offset_s, device.is_set = RIGHT if is_set else WRONG, is_set
    device.begin(timed()).turns(0.0, 10.0, 10.0 + SETTLE_S, 10.0 + SETTLE_S)
    device.part.close(16.0)
    device.offset_s, device.is_set = RIGHT + 1e6, True
    device.begin(boot="next").kernel.rise()
    device.turns(0.0)
    assert [json.loads(message.payload)["t"] for _, message in device.kernel.handed] == [*times, RIGHT + 1e6]


def test_a_strict_message_knows_its_time_after_a_power_cut(device: Device) -> None:
    device.spool = Bounds(strict=True)
    device.offset_s, device.is_set = RIGHT, True
    device.begin(timed()).turns(0.0)
    device.offset_s = RIGHT + 1e6
    device.begin(boot="next").kernel.rise()
    device.turns(0.0)
    assert [json.loads(message.payload)["t"] for _, message in device.kernel.handed] == [RIGHT, RIGHT + 1e6]


def test_what_goes_out_at_once_asks_nobody_whether_the_clock_is_set(device: Device) -> None:
    device.begin(timed())
    device.kernel.world = device.kernel.world._replace(wall_is_set=lambda: pytest.fail("asked"))
    device.kernel.rise()
    device.turns(0.0, 10.0)
    assert [json.loads(message.payload)["t"] for _, message in device.kernel.handed] == [WRONG, WRONG + 10]


def test_times_that_are_to_be_kept_stay_as_they_were_made(device: Device) -> None:
    device.spool = Bounds(corrects=False)
    device.begin(timed()).turns(0.0)
    device.offset_s = RIGHT
    assert device.sent() == [{"t": WRONG, "n": 1}]


def test_a_clock_that_was_set_is_told_once_with_how_many_messages_it_puts_right(
        device: Device, told: Callable[[str], list[dict[str, Any]]]) -> None:
    device.begin(timed(), Publish("b", 10.0, {"n": "{sequence}"}, retain=False)).turns(0.0, 10.0, 20.0)
    device.offset_s, device.is_set = RIGHT, True
    device.sent()
    device.turns(30.0, 40.0)
    [entry] = told("clock.set")
    assert (entry["by_s"], entry["waiting"]) == (RIGHT - WRONG, 3)


def test_a_clock_that_was_right_is_not_told(device: Device, told: Callable[[str], list[dict[str, Any]]]) -> None:
    device.begin(timed()).turns(0.0, 10.0)
    device.sent()
    assert told("clock.set") == []


def collected(most: int = 3, within_s: float = 100.0, **more: Any) -> Publish:
    return timed(batch=Batch(most, within_s), **more)


def numbers(lists: list[Json]) -> list[list[int]]:
    return [[said["n"] for said in payloads] for payloads in lists]


def test_payloads_go_together_the_oldest_first_once_there_are_enough(device: Device) -> None:
    device.begin(collected()).turns(*range(0, 70, 10))
    assert numbers(device.sent()) == [[1, 2, 3], [4, 5, 6]] and device.part.waiting() == 2
    assert device.kernel.handed[0][1].topic == "a" and not device.kernel.handed[0][1].retain


def test_payloads_that_are_few_go_when_the_time_is_over(device: Device) -> None:
    device.begin(collected(most=100, within_s=25.0)).turns(0.0, 10.0, 20.0, 24.9)
    assert device.sent() == [] and device.part.next_due() == 25.0
    device.turns(25.0)
    assert numbers([json.loads(message.payload) for _, message in device.kernel.handed]) == [[1, 2, 3]]


def lists_after(device: Device, now: float, boot: str = "boot") -> list[Json]:
    """Begin another run; return the batches that go out of what was collected before."""
    device.begin(timed(1e6), boot=boot, now=now)
    return [payload for payload in device.sent() if isinstance(payload, list)]


def test_what_was_collected_outlives_a_kill_and_goes_once(device: Device) -> None:
    device.begin(collected(most=100)).turns(0.0, 10.0)
    assert lists_after(device, 30.0) == [[{"t": WRONG, "n": 1}, {"t": WRONG + 10, "n": 2}]]
    device.kernel.taken += [number for number, _ in device.kernel.handed]
    device.part.close(31.0)
    assert lists_after(device, 40.0) == []


@pytest.mark.parametrize("end", [Outgoing.close, Outgoing.settle])
def test_what_was_collected_outlives_a_stop_and_a_reboot(
        device: Device, end: Callable[[Outgoing, float], None]) -> None:
    device.begin(collected(most=100)).turns(0.0, 10.0)
    end(device.part, 11.0)
    for file in (device.path / "runtime").iterdir():
        file.unlink()
    assert numbers(lists_after(device, 0.0, boot="next")) == [[1, 2]]


def test_what_was_collected_for_another_thing_is_kept_for_that(device: Device) -> None:
    device.begin(collected(most=100)).turns(0.0)
    device.thing = "other"
    device.begin(timed(1e6), now=5.0)
    assert [type(payload) for payload in device.sent()] == [dict]
    assert device.part.status()["set_aside"] == {"pi": 1}


def test_an_entry_that_is_changed_sends_what_it_has_and_one_that_stays_goes_on(device: Device) -> None:
    other = Publish("b", 10.0, {"n": "{sequence}"}, retain=False, batch=Batch(100, 1e3))
    device.begin(collected(most=100), other).turns(0.0)
    device.publish = (collected(most=2), other)
    device.apply(5.0)
    assert numbers(device.sent()) == [[1]]
    device.turns(10.0)
    device.part.settle(11.0)
    device.turns(11.0)
    assert [json.loads(message.payload)[-1]["n"] for _, message in device.kernel.handed
            if message.topic == "b"] == [2]


def test_a_batch_that_would_be_too_large_goes_before_it_is(device: Device) -> None:
    entry = Publish("a", 10.0, {"n": "{sequence}", "fill": "x" * 400_000}, retain=False, batch=Batch(100, 1e6))
    device.begin(entry).turns(*range(0, 70, 10))
    assert numbers(device.sent()) == [[1, 2], [3, 4], [5, 6]]


def test_a_directory_that_takes_nothing_is_told_once_and_the_batch_goes_all_the_same(
        device: Device, told: Callable[[str], list[dict[str, Any]]]) -> None:
    (device.path / "runtime").mkdir()
    (device.path / "runtime" / "batches.journal").mkdir()
    device.begin(collected()).turns(*range(0, 60, 10))
    assert numbers(device.sent()) == [[1, 2, 3], [4, 5, 6]]
    assert len(told("batch.unkept")) == 1


def paged(topic: str, every_s: float, **more: Any) -> Publish:
    """Return an entry of whose payloads each needs room of its own."""
    return Publish(topic, every_s, {"n": "{sequence}", "fill": "x" * 5000}, batch=Batch(3, 1e7), **more)


def test_a_full_directory_is_told_once_whatever_becomes_of_the_batches(
        device: Device, tiny: Path, told: Callable[[str], list[dict[str, Any]]]) -> None:
    (device.path / "runtime").symlink_to(tiny)
    device.begin(paged("a", 10.0)).turns(0.0)
    for times in (1, 2):
        fill(tiny / "filler")
        device.turns(*range(200 * times, 200 * times + 100, 10))
        assert len(told("batch.unkept")) == times
        (tiny / "filler").unlink()
        device.turns(*range(200 * times + 100, 200 * times + 200, 10))


def test_what_was_sent_is_not_sent_by_the_next_run_where_a_full_directory_does_not_forget_it(
        device: Device, tiny: Path) -> None:
    """It would take the place of what stands retained since."""
    (device.path / "runtime").symlink_to(tiny)
    device.begin(paged("a", 10.0), paged("b", 1e6, retain=False)).turns(0.0, 10.0)
    fill(tiny / "filler")
    device.turns(20.0)
    assert numbers(device.sent()) == [[1, 2, 3]]
    device.kernel.taken += [number for number, _ in device.kernel.handed]
    device.turns(21.0)
    assert numbers(lists_after(device, 30.0)) == [[1]] and device.kernel.handed[0][1].topic == "b"


def test_what_is_held_stays_so_where_a_full_directory_takes_no_more(device: Device, tiny: Path) -> None:
    (device.path / "runtime").symlink_to(tiny)
    device.begin(paged("a", 10.0)).turns(0.0)
    fill(tiny / "filler")
    device.turns(10.0)
    assert numbers(lists_after(device, 20.0)) == [[1]]


def test_what_memory_alone_held_is_in_the_file_once_there_is_room(device: Device, tiny: Path) -> None:
    (device.path / "runtime").symlink_to(tiny)
    device.begin(paged("a", 10.0), Publish("b", 5.0, {"n": "{sequence}"}, retain=False)).turns(0.0)
    fill(tiny / "filler")
    device.turns(10.0)
    (tiny / "filler").unlink()
    device.turns(15.0)
    assert numbers(lists_after(device, 20.0)) == [[1, 2]]


def with_what_could_not_be_read(device: Device, **more: Any) -> Device:
    """Return the device with a batch of another run's, whose file could be read only after the start."""
    device.begin(paged("a", 10.0, **more)).turns(0.0, 10.0)
    file, hidden = device.path / "runtime" / "batches.journal", device.path / "hidden"
    file.rename(hidden)
    file.mkdir()
    device.begin(now=20.0).turns(20.0)
    file.rmdir()
    hidden.rename(file)
    device.turns(30.0)
    return device


@pytest.mark.parametrize("offline, kept", [("queue", 1), ("latest", 1), ("drop", 0)])
def test_what_cannot_be_read_at_the_start_is_kept_as_its_entry_says(device: Device, offline: str, kept: int) -> None:
    with_what_could_not_be_read(device, offline=offline)
    assert device.part.waiting() == kept


def test_what_cannot_be_read_at_the_start_goes_late_and_takes_the_place_of_nothing(device: Device) -> None:
    with_what_could_not_be_read(device).sent()
    assert [(message.retain, numbers([json.loads(message.payload)])) for _, message in device.kernel.handed] == [
        (False, [[1, 2]])]
    assert numbers(lists_after(device, 40.0)) == [[1, 2], [1, 2]], "what was sent before, and what this run collected"


@pytest.mark.parametrize("line", [b"x", b"[]", b'["pi", "a", 1, false, "queue", false]', b'[[], [], 1, 2, {}, 3, "x"]',
                                  b"[" * 100_000, b'["pi", "a", "1", false, "queue", false, "{}"]'])
def test_a_damaged_file_of_batches_loses_no_more_than_its_lines(device: Device, line: bytes) -> None:
    (device.path / "runtime").mkdir()
    good = json.dumps(["pi", "a", 1, False, "queue", False, '{"n": 7}']).encode()
    (device.path / "runtime" / "batches.journal").write_bytes(line + b"\n" + good + b"\n")
    device.begin(timed(1e6))
    assert [payload for payload in device.sent() if isinstance(payload, list)] == [[{"n": 7}]]


def test_a_packed_message_is_gzip_and_its_times_are_right(device: Device) -> None:
    device.begin(timed(gzip=True)).turns(0.0)
    device.offset_s = RIGHT
    device.kernel.rise()
    device.turns(1.0)
    [(_, message)] = device.kernel.handed
    assert json.loads(gzip.decompress(message.payload)) == {"t": RIGHT, "n": 1}
