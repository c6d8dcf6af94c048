"""Every message until its PUBACK, on real SQLite files: crashes, damage, full disks, bounds, clocks."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from iotd.host import log
from iotd.outgoing.journal import Row
from iotd.outgoing.section import Bounds
from iotd.outgoing.spool import AGES_S, RETRY_S, SETTLE_S, Spool
from iotd.outgoing.stores import GAP
from iotd.outgoing.store import Store
from iotd.vocabulary import Message
from tests.outgoing.opening import fill, open_spool

ROOT = Path(__file__).parent.parent.parent
DAY_S = 86400.0
YEAR_S = 365 * DAY_S
RELAXED, STRICT = Bounds(), Bounds(strict=True)


class Place:
    """The two directories, the spools that were opened on them, and what they logged."""

    def __init__(self, path: Path) -> None:
        self.runtime, self.state = path / "runtime", path / "state"
        self.runtime.mkdir()
        self.state.mkdir()
        self.log = io.StringIO()
        log.start("info", "json", False, self.log)
        self._open: list[Spool] = []

    def spool(self, bounds: Bounds = RELAXED, boot: str = "boot", now: float = 0.0, thing: str = "pi") -> Spool:
        self._open.append(open_spool(self.runtime, self.state, bounds, boot, now, thing))
        return self._open[-1]

    def entries(self, event: str) -> list[dict[str, Any]]:
        """Return what was logged under this event."""
        lines = map(json.loads, self.log.getvalue().splitlines())
        return [line for line in lines if line["event"] == event]

    def on_disk(self) -> list[int]:
        """Return the ids in the store, read past the spool; an empty file is one that was not needed yet."""
        if not (self.state / "spool.db").stat().st_size:
            return []
        with contextlib.closing(sqlite3.connect(self.state / "spool.db")) as database:
            return [number for number, in database.execute("SELECT id FROM message ORDER BY id")]

    def in_journal(self) -> list[int]:
        """Return the ids in the journal, read past the spool."""
        found: dict[int, None] = {}
        for line in map(json.loads, (self.runtime / "spool.journal").read_text("ascii").splitlines()):
            if isinstance(line, dict):
                for number in line["gone"]:
                    del found[number]
            else:
                found[line[0]] = None
        return list(found)

    def reboot(self) -> None:
        """The runtime directory is memory: a reboot empties it."""
        shutil.rmtree(self.runtime)
        self.runtime.mkdir()

    def close(self) -> None:
        for spool in self._open:
            spool.close(0.0, None)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()


def put(spool: Spool, *topics: str, now: float = 0.0, latest: bool = False, size: int = 10) -> list[int]:
    """Put a message on each topic; return their ids."""
    numbers = []
    for topic in topics:
        numbers.append(spool.next_id())
        spool.put(numbers[-1], Message(topic, b"x" * size, 1, True), latest, now)
    return numbers


def ids(spool: Spool, after: int = 0, resting: tuple[str, ...] = ()) -> list[int]:
    return [row.id for row in spool.fetch(after, 100000, resting)]


@pytest.mark.parametrize("bounds", [RELAXED, STRICT])
def test_what_is_put_is_fetched_whole_and_in_order_until_it_is_forgotten(place: Place, bounds: Bounds) -> None:
    spool = place.spool(bounds)
    spool.put(spool.next_id(), Message("t/é", b"\x00\xff", 0, False), False, 0.0)
    spool.put(spool.next_id(), Message("t/b", b"", 1, True), False, 0.0)
    rows = spool.fetch(0, 10)
    assert [(row.id, row.topic, row.payload, row.qos, row.retain) for row in rows] == [
        (1, "t/é", b"\x00\xff", 0, False), (2, "t/b", b"", 1, True)]
    assert (spool.count, spool.last_id, spool.newest) == (2, 2, {"t/b": 2})
    spool.forget([1])
    assert ids(spool) == [2]
    spool.forget([2, 77])
    assert (ids(spool), spool.count, spool.size) == ([], 0, 0)


def test_fetching_goes_on_after_an_id_up_to_a_number_and_past_resting_topics(place: Place) -> None:
    spool = place.spool()
    put(spool, "a", "b", "a", "b", "c")
    spool.settle(10.0, None)
    put(spool, "a", "b", now=10.0)
    assert [row.id for row in spool.fetch(2, 3)] == [3, 4, 5]
    assert ids(spool, 1, ("a",)) == [2, 4, 5, 7]
    assert ids(spool, 0, ("a", "b", "c")) == []


def test_the_last_message_is_fetched_only_while_it_waits(place: Place) -> None:
    spool = place.spool()
    [forgotten] = put(spool, "a")
    assert ids(spool) == [forgotten]
    spool.forget([forgotten])
    assert ids(spool) == []
    [aside] = put(spool, "a")
    assert ids(spool, after=forgotten) == [aside] and ids(spool, after=forgotten, resting=("a",)) == []
    spool.set_aside(aside)
    assert ids(spool, after=forgotten) == []


def test_a_healthy_line_leaves_no_trace_on_the_disk(place: Place) -> None:
    spool = place.spool()
    before = {path.name: path.read_bytes() for path in place.state.iterdir()}
    for turn in range(200):
        numbers = put(spool, "a", "b", now=float(turn), latest=turn % 2 == 0)
        spool.settle(float(turn), 1e9)
        spool.forget(numbers)
    assert {path.name: path.read_bytes() for path in place.state.iterdir()} == before


HEALTHY = """
import sys
from pathlib import Path
from iotd.outgoing.section import Bounds
from iotd.vocabulary import Message
from tests.outgoing.opening import open_spool
spool = open_spool(Path(sys.argv[1]), Path(sys.argv[2]), Bounds(), "boot", 0.0)
for now in range(9):
    spool.put(spool.next_id(), Message("a", b"x", 1, True), True, float(now))
    spool.forget([row.id for row in spool.fetch(0, 100)])
    spool.settle(float(now), None)
print("sqlite3" in sys.modules)
spool.put(spool.next_id(), Message("a", b"x", 1, True), True, 10.0)
spool.close(10.0, None)
print("sqlite3" in sys.modules)
"""


def test_sqlite_is_loaded_only_once_something_has_to_wait_on_the_disk(place: Place) -> None:
    done = subprocess.run([sys.executable, "-c", HEALTHY, place.runtime, place.state], cwd=ROOT, text=True,
                          capture_output=True, check=True, timeout=60)
    assert done.stdout.split() == ["False", "True"] and place.on_disk() == [10]


def test_a_store_that_was_emptied_leaves_a_file_of_no_bytes(place: Place) -> None:
    spool = place.spool()
    numbers = put(spool, "a", "b")
    spool.settle(10.0, None)
    spool.set_aside(numbers[0])
    spool.forget(numbers[1:])
    spool.close(20.0, None)
    assert place.on_disk() == numbers[:1], "what is set aside is something"
    spool = place.spool()
    spool.take_back("a")
    spool.forget(numbers)
    spool.close(30.0, None)
    assert (place.state / "spool.db").stat().st_size == 0 and not (place.state / "spool.db-wal").exists()
    assert ids(place.spool()) == []


def test_what_waits_for_five_seconds_moves_to_the_disk(place: Place) -> None:
    spool = place.spool()
    put(spool, "a", now=10.0)
    put(spool, "a", now=13.0)
    spool.settle(10.0 + SETTLE_S - 0.1, None)
    assert place.on_disk() == []
    spool.settle(10.0 + SETTLE_S, None)
    assert (place.on_disk(), place.in_journal()) == ([1], [2])
    assert (ids(spool), spool.count) == ([1, 2], 2)


def test_a_lost_line_moves_everything_to_the_disk_which_a_reboot_does_not_empty(place: Place) -> None:
    spool = place.spool()
    put(spool, *["a"] * 1234, now=10.0)
    spool.settle(10.0, None, everything=True)
    assert place.in_journal() == []
    place.reboot()
    assert ids(place.spool(boot="next")) == list(range(1, 1235))


def test_strict_is_on_the_disk_when_put_returns(place: Place) -> None:
    put(place.spool(STRICT), "a")
    assert (place.on_disk(), place.in_journal()) == ([1], [])


def test_what_is_added_to_the_disk_is_synced_and_what_is_deleted_is_not(place: Place) -> None:
    """No power cut is at hand: that SQLite keeps what `synchronous` promises is taken from its documentation."""
    store = Store(str(place.state / "spool.db"))
    said: list[str] = []
    store._db.set_trace_callback(said.append)
    rows = [Row(number, "a", b"x", 1, True, False, 10, "boot", 0.0, None, False) for number in (1, 2)]
    store.add_all(rows[:1])
    store.add_all(rows[1:])
    store.delete_ids([1, 2])
    store.close()
    told = [word for line in said for word in ("FULL", "NORMAL", "INSERT", "DELETE") if word in line]
    assert told == ["FULL", "INSERT", "NORMAL", "FULL", "INSERT", "NORMAL", "DELETE"]


def test_a_stop_keeps_everything_and_ids_go_on_after_it(place: Place) -> None:
    spool = place.spool()
    put(spool, "a", "b")
    spool.close(1.0, None)
    place.reboot()
    spool = place.spool(boot="next")
    assert ids(spool) == [1, 2]
    assert (spool.last_id, spool.next_id(), spool.newest) == (2, 3, {"a": 1, "b": 2})


def test_the_newest_of_a_topic_is_known_after_a_restart_wherever_it_lies(place: Place) -> None:
    spool = place.spool()
    put(spool, "a")
    spool.bounds = STRICT
    put(spool, "a")
    assert (place.in_journal(), place.on_disk()) == ([1], [2])
    assert place.spool().newest == {"a": 2}


def test_a_crash_between_the_two_steps_of_a_move_delivers_once(place: Place) -> None:
    spool = place.spool()
    put(spool, "a", "a", "a")
    before = (place.runtime / "spool.journal").read_bytes()
    spool.close(1.0, None)
    (place.runtime / "spool.journal").write_bytes(before)
    assert place.in_journal() == place.on_disk() == [1, 2, 3]

    spool = place.spool()
    assert ids(spool) == [1, 2, 3]
    spool.forget([1, 2])
    spool.flush()
    assert ids(spool) == ids(place.spool()) == [3]
    spool.settle(2.0, None, everything=True)
    assert (ids(spool), spool.count) == ([3], 1)


WRITER = """
import sys
from pathlib import Path
from iotd.outgoing.section import Bounds
from iotd.vocabulary import Message
from tests.outgoing.opening import open_spool
spool = open_spool(Path(sys.argv[1]), Path(sys.argv[2]), Bounds(strict=sys.argv[3] == "strict"), "boot", 0.0)
while True:
    number = spool.next_id()
    now = number / 100
    spool.put(number, Message("a", b"x" * (number % 5000), 1, True), False, now)
    print(number, flush=True)
    if number % 50 == 0:
        spool.settle(now, None, everything=number % 100 == 0)
"""


@pytest.mark.parametrize("durability, puts", [("relaxed", 37), ("relaxed", 1001), ("relaxed", 400), ("strict", 123)])
def test_a_kill_in_the_middle_of_writing_loses_nothing_that_was_put(place: Place, durability: str, puts: int) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(place.runtime), str(place.state), durability],
                              cwd=ROOT, stdout=subprocess.PIPE)
    assert writer.stdout is not None
    with writer.stdout as lines:
        written = [int(next(lines)) for _ in range(puts)]
        writer.send_signal(signal.SIGKILL)
        written += [int(line) for line in lines if line.endswith(b"\n")]
    assert writer.wait() == -signal.SIGKILL
    spool = place.spool()
    found = ids(spool)
    assert found[:len(written)] == written and len(found) <= len(written) + 1
    assert all(row.payload == b"x" * (row.id % 5000) for row in spool.fetch(0, 100000))


def test_a_restart_after_a_kill_finds_each_message_in_the_journal_as_it_was(place: Place) -> None:
    spool = place.spool()
    for payload in (b"\x00\xff", "接続ヨシッ👉".encode(), b"", b'{"a": "\\n"}\n', b"\xed\xa0\x80"):
        spool.put(spool.next_id(), Message("t/é", payload, 1, False), False, 1.5)
    put(spool, "b")
    spool.set_aside(2)
    spool.forget([1])
    spool.flush()
    again = place.spool()
    assert again.fetch(0, 100) == spool.fetch(0, 100) and len(ids(again)) == 4
    assert (again.count, again.size, again.last_id) == (spool.count, spool.size, 6)
    again.take_back("t/é")
    assert ids(again) == ids(place.spool()) == [2, 3, 4, 5, 6]


def test_half_a_line_at_the_end_of_the_journal_is_a_message_that_was_never_put(place: Place) -> None:
    put(place.spool(), *["a"] * 4)
    journal = place.runtime / "spool.journal"
    os.truncate(journal, journal.stat().st_size - 3)
    spool = place.spool()
    assert ids(spool) == [1, 2, 3] and place.entries("spool.damaged") == []
    new = put(spool, "b")
    assert place.in_journal() == ids(place.spool()) == [1, 2, 3, *new]


def test_damaged_lines_of_the_journal_are_moved_aside_and_the_rest_is_kept(place: Place) -> None:
    put(place.spool(), *["a"] * 9)
    journal = place.runtime / "spool.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[1:6] = [b"\xa5\xa5\n", b"[1, 2]\n", b"[" * 100_000 + b"\n",
                  b'{"lost": [1]}\n', lines[5].replace(b'"a"', b"7")]
    journal.write_bytes(b"".join(lines))
    spool = place.spool()
    assert ids(spool) == [1, 7, 8, 9]
    [said] = place.entries("spool.damaged")
    assert said["saved"] == 4 and Path(said["aside"]).read_bytes() == b"".join(lines)
    spool.settle(0.0, None)
    assert place.in_journal() == [1, 7, 8, 9]


@pytest.mark.parametrize("place_of, value", [
    (3, 7), (3, '"1"'), (4, 2), (5, "null"), (6, '"9"'), (7, 5), (8, "NaN"), (8, "null"), (9, '"x"'), (9, "Infinity"),
    (10, '"no"'), (1, "null"), (0, '"1"')])
def test_a_line_with_a_value_of_another_kind_is_damaged(place: Place, place_of: int, value: object) -> None:
    put(place.spool(), "a", "a")
    journal = place.runtime / "spool.journal"
    first, second = journal.read_bytes().splitlines(keepends=True)
    values = [json.dumps(old) for old in json.loads(first)]
    values[place_of] = str(value)
    journal.write_bytes(f"[{', '.join(values)}]\n".encode() + second)
    assert ids(place.spool()) == [2] and len(place.entries("spool.damaged")) == 1


def test_a_line_is_what_json_would_write(place: Place) -> None:
    spool = place.spool(boot="b\"\\ト")
    for number, payload in enumerate((b'{"a": "\\"}\n', "ヨシッ👉\x7f".encode(), b"\xff\x00", b"")):
        spool.put(spool.next_id(), Message('t/"é"\\', payload, number % 2, number > 1), number == 3, 1234.5 / 7)
    for line in (place.runtime / "spool.journal").read_text().splitlines():
        assert line == json.dumps(json.loads(line))


def test_a_message_tells_the_journal_of_what_was_forgotten_before_it(place: Place) -> None:
    spool = place.spool()
    put(spool, "a", "a", "a")
    spool.forget([1, 3])
    assert place.in_journal() == [1, 2, 3]
    put(spool, "a")
    assert place.in_journal() == ids(place.spool()) == [2, 4]


def test_the_journal_does_not_grow_though_it_is_never_empty(place: Place) -> None:
    spool = place.spool()
    for _ in range(5000):
        made = put(spool, "a", size=500)
        spool.forget([number for number in ids(spool) if number <= made[0] - 3])
        spool.flush()
    assert (place.runtime / "spool.journal").stat().st_size < 100_000
    assert place.in_journal() == ids(spool) == ids(place.spool()) and len(ids(spool)) == 3


def test_what_is_more_than_memory_should_hold_moves_to_the_disk_at_once(place: Place) -> None:
    spool = place.spool()
    made = put(spool, *["a"] * 20, size=1 << 20)
    assert ids(spool) == made and spool.dropped == {}
    assert len(place.in_journal()) <= 8 and place.on_disk() == made[:len(place.on_disk())]


def damage(path: Path, kind: str) -> None:
    size = path.stat().st_size
    if kind == "half":
        os.truncate(path, size // 2)
    elif kind == "stub":
        os.truncate(path, 50)
    elif kind == "empty":
        os.truncate(path, 0)
    elif kind == "garbage":
        path.write_bytes(random.Random(1).randbytes(size))
    elif kind == "holes":
        with path.open("r+b") as file:
            file.seek(size // 2)
            file.write(b"\xa5" * (size // 4))


@pytest.mark.parametrize("kind", ["half", "stub", "empty", "garbage", "holes"])
def test_a_damaged_file_is_moved_aside_and_said_aloud_and_the_spool_goes_on(place: Place, kind: str) -> None:
    spool = place.spool()
    put(spool, *["a"] * 300, size=200)
    spool.close(1.0, None)
    damage(place.state / "spool.db", kind)
    spool = place.spool()
    before = ids(spool)
    new = put(spool, "b", "c")
    spool.settle(100.0, None)
    assert ids(spool) == before + new
    assert set(new) <= set(place.on_disk())
    if kind != "empty":
        assert len(place.entries("spool.damaged")) == 1
        assert (place.state / "spool.db.damaged").exists()
        assert place.entries("spool.damaged")[0]["saved"] == len(before)
    if kind == "holes":
        assert 1 in before and 300 in before and len(before) < 300


def test_what_is_saved_from_damage_found_late_is_there_at_the_first_fetch(place: Place) -> None:
    """Else the one who fetches believes that nothing waits."""
    spool = place.spool()
    put(spool, *["a"] * 300, size=200)
    spool.settle(10.0, None)
    with contextlib.closing(sqlite3.connect(place.state / "spool.db")) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damage(place.state / "spool.db", "holes")
    found = ids(spool)
    assert 1 in found and 300 in found and found == ids(spool)


def test_a_file_that_cannot_be_read_is_closed_all_the_same(place: Place) -> None:
    spool = place.spool(STRICT)
    put(spool, *["a"] * 300, size=500)
    spool.close(1.0, None)
    store = Store(str(place.state / "spool.db"))
    damage(place.state / "spool.db", "half")
    store._db.execute("PRAGMA shrink_memory")  # what it knows by heart would not be read
    with pytest.raises(sqlite3.DatabaseError):
        store.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        store.last()


def test_a_topic_that_is_no_text_any_more_is_damage(place: Place) -> None:
    spool = place.spool()
    put(spool, "a", "b", "c")
    spool.settle(10.0, None)
    with contextlib.closing(sqlite3.connect(place.state / "spool.db", isolation_level=None)) as database:
        database.execute("UPDATE message SET topic = CAST(x'ff' AS TEXT) WHERE id = 2")
    assert ids(spool) == [1, 3]
    assert place.entries("spool.damaged")[0]["saved"] == 2


@pytest.mark.parametrize("bounds", [RELAXED, STRICT])
def test_a_directory_in_the_place_of_the_file_costs_nothing_but_durability(place: Place, bounds: Bounds) -> None:
    blocked = place.state / "spool.db"
    blocked.mkdir()
    spool = place.spool(bounds)
    made = put(spool, "a", "b")
    spool.settle(10.0, None)
    assert (ids(spool), place.in_journal()) == (made, made)
    assert len(place.entries("spool.failed")) == len(spool.failures) == 1

    blocked.rmdir()
    spool.settle(11.0, None)
    assert place.in_journal() == made
    spool.settle(10.0 + RETRY_S, None)
    assert (place.on_disk(), place.in_journal()) == (made, [])
    assert spool.failures == [] and len(place.entries("spool.restored")) == 1


def test_a_disk_that_is_well_again_is_found_so_though_nothing_waits(place: Place) -> None:
    blocked = place.state / "spool.db"
    blocked.mkdir()
    spool = place.spool()
    blocked.rmdir()
    retry_at = spool.settle_at()
    assert retry_at < math.inf
    spool.settle(retry_at, None)
    assert spool.failures == [] and spool.settle_at() == math.inf


@pytest.mark.parametrize("last", [4, 3 * GAP], ids=["below", "above"])
def test_a_store_that_comes_back_loses_nothing_and_stands_before_what_was_made_meanwhile(
    place: Place, last: int
) -> None:
    """The disk was not there when this run began, so its ids may be the ones that this run has given."""
    before = place.spool()
    before._last = last - 4
    put(before, *["old"] * 4)
    before.settle(10.0, None)
    before.close(10.0, None)
    away = place.state.rename(place.state.with_name("away"))
    spool = place.spool(now=11.0)
    made = put(spool, *["new"] * 4, now=11.0)
    away.rename(place.state)
    assert spool.reopened == 0
    spool.settle(11.0 + RETRY_S, None)
    found = spool.fetch(0, 100)
    assert [row.topic for row in found] == ["old"] * 4 + ["new"] * 4
    assert [row.id for row in found[4:]] == made and spool.reopened == 1


def test_what_a_store_brings_back_is_fetched_though_only_one_message_was_made_meanwhile(place: Place) -> None:
    before = place.spool()
    put(before, "old")
    before.close(10.0, None)
    away = place.state.rename(place.state.with_name("away"))
    spool = place.spool(now=11.0)
    spool.settle(11.0, None)
    put(spool, "new", now=11.0)
    away.rename(place.state)
    spool.settle(11.0 + RETRY_S, None)
    assert [row.topic for row in spool.fetch(0, 100)] == ["old", "new"]


def test_what_a_store_brings_back_counts_as_put_before_what_is_made_after_it(place: Place) -> None:
    before = place.spool()
    put(before, "old")
    before.close(10.0, None)
    away = place.state.rename(place.state.with_name("away"))
    spool = place.spool(now=11.0)
    spool.settle(11.0, None)
    away.rename(place.state)
    spool.settle(11.0 + RETRY_S, None)
    assert spool.last_id == spool.fetch(0, 100)[-1].id > 0
    put(spool, "new", now=11.0 + RETRY_S)
    assert [row.topic for row in spool.fetch(0, 100)] == ["old", "new"]


def test_where_no_file_can_be_written_messages_are_kept_in_memory_up_to_a_bound(tmp_path: Path) -> None:
    """A path below a regular file cannot be written by root either."""
    place = Place(tmp_path)
    blocker = tmp_path / "file"
    blocker.write_text("")
    place.runtime, place.state = blocker / "runtime", blocker / "state"
    spool = place.spool()
    put(spool, "a", "a", size=100)
    put(spool, *["a"] * 9, size=1 << 20)
    spool.settle(10.0, None)
    assert ids(spool) == list(range(GAP + 5, GAP + 12)) and spool.dropped["a"] == 4
    assert len(place.entries("spool.failed")) == 2
    spool.close(20.0, None)
    assert sum(entry["count"] for entry in place.entries("spool.dropped")) == 11


def test_what_memory_holds_moves_to_the_disk_once_that_can_be_written(place: Place) -> None:
    shutil.rmtree(place.state)
    shutil.rmtree(place.runtime)
    spool = place.spool()
    made = put(spool, "a")
    place.state.mkdir()
    spool.settle(RETRY_S, None)
    assert place.on_disk() == made
    made += put(spool, "a")
    assert place.on_disk() == made, "a file, where there is one, before memory"


def test_what_memory_holds_goes_into_the_journal_once_that_can_be_written(place: Place) -> None:
    shutil.rmtree(place.state)
    shutil.rmtree(place.runtime)
    spool = place.spool()
    made = put(spool, "a", "b")
    place.runtime.mkdir()
    spool.settle(RETRY_S, None)
    assert place.in_journal() == ids(place.spool()) == made
    assert [entry["path"] for entry in place.entries("spool.restored")] == [str(place.runtime / "spool.journal")]


@pytest.mark.parametrize("bounds", [RELAXED, STRICT])
def test_a_full_disk_loses_nothing_and_is_used_again_with_room(place: Place, tiny: Path, bounds: Bounds) -> None:
    filler = tiny / "filler"
    place.state = tiny / "state"
    place.state.mkdir()
    spool = place.spool(bounds)
    fill(filler)
    numbers = put(spool, *["a"] * 200, size=300)
    spool.settle(10.0, None)
    assert ids(spool) == numbers
    assert len(place.entries("spool.failed")) >= 1 and spool.failures
    filler.unlink()
    spool.forget(numbers[:100])
    spool.settle(100.0, None)
    assert ids(spool) == place.on_disk() == numbers[100:] and place.in_journal() == []
    assert spool.failures == [] and len(place.entries("spool.restored")) == 1


def test_a_full_runtime_directory_loses_nothing_and_stops_nothing(place: Place, tiny: Path) -> None:
    place.runtime = tiny
    spool = place.spool()
    early = put(spool, *["a"] * 20, size=500)
    fill(tiny / "filler")
    late = put(spool, *["a"] * 400, size=500)
    spool.settle(10.0, None, everything=True)
    assert ids(spool) == early + late
    place.runtime.joinpath("filler").unlink()
    spool.settle(100.0, None, everything=True)
    assert (ids(spool), spool.count) == (early + late, 420)


def test_a_full_runtime_directory_is_told_once_until_there_is_room(place: Place, tiny: Path) -> None:
    place.runtime = tiny
    spool = place.spool()
    fill(tiny / "filler")
    for minute in range(10):
        numbers = put(spool, "a", size=5000)
        spool.settle(minute * 60.0, None)
        spool.forget(numbers)
        spool.settle(minute * 60.0 + 30.0, None)
    assert (len(place.entries("spool.failed")), place.entries("spool.restored")) == (1, [])
    (tiny / "filler").unlink()
    spool.settle(700.0, None)
    assert len(place.entries("spool.restored")) == 1 and spool.failures == []


def test_what_is_acknowledged_while_the_disk_is_full_is_not_sent_again(place: Place, tiny: Path) -> None:
    place.state = tiny
    spool = place.spool(STRICT)
    numbers = put(spool, *["a"] * 20, size=500)
    fill(tiny / "filler")
    for number in numbers:
        spool.forget([number])
    assert place.entries("spool.failed") and place.on_disk(), "the store gave way, nothing is tested"
    assert ids(spool) == []
    [late] = put(spool, "a")
    assert ids(spool) == [late]
    (tiny / "filler").unlink()
    spool.settle(RETRY_S, None)
    assert ids(spool) == place.on_disk() == [late] and place.in_journal() == []


def test_what_is_acknowledged_while_the_runtime_directory_is_full_is_said_there_once_it_can_be(
    place: Place, tiny: Path
) -> None:
    place.runtime = tiny
    spool = place.spool()
    numbers = put(spool, *["a"] * 400, size=50)
    fill(tiny / "filler")
    for number in numbers[:-1]:
        spool.forget([number])
        spool.flush()
    assert len(place.in_journal()) > 1, "the journal took it, nothing is tested"
    retry_at = spool.settle_at()
    assert ids(spool) == numbers[-1:] and retry_at < math.inf
    (tiny / "filler").unlink()
    (place.state / "spool.db").unlink()
    (place.state / "spool.db").mkdir()  # so that the message stays
    spool.settle(retry_at, None)
    assert place.in_journal() == numbers[-1:]
    spool.forget(numbers[-1:])
    spool.flush()
    assert place.in_journal() == [] and spool.failures == []


LIMITED = """
import resource, sys
from pathlib import Path
from iotd.host import log
from iotd.outgoing.journal import Row
from iotd.outgoing.section import Bounds
from iotd.vocabulary import Message
from tests.outgoing.opening import open_spool
log.start("error", "json", False, sys.stderr)
spool = open_spool(Path(sys.argv[1]), Path(sys.argv[2]), Bounds(), "boot", 0.0)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
for _ in range(1000):
    spool.put(spool.next_id(), Message("a", b"x" * 1000, 1, True), False, 0.0)
spool.settle(10.0, None)
print(len(spool.fetch(0, 10_000)), len(spool.failures))
"""


def test_files_that_cannot_grow_lose_nothing(place: Place) -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED, place.runtime, place.state], cwd=ROOT, text=True,
                          capture_output=True, check=True, timeout=60)
    assert done.stdout.split()[0] == "1000" and int(done.stdout.split()[1]) >= 1


@pytest.mark.parametrize("bounds", [Bounds(max_bytes=10_000), Bounds(max_bytes=10_000, strict=True)])
def test_beyond_its_bytes_the_oldest_go_and_are_counted(place: Place, bounds: Bounds) -> None:
    spool = place.spool(bounds)
    for turn in range(30):
        put(spool, "a", "b", now=float(turn), size=200)
        assert spool.size <= 10_000
        if turn % 10 == 9:
            spool.settle(float(turn), None)
    found = ids(spool)
    assert found == list(range(61 - len(found), 61)) and 10_000 - 301 < spool.size
    assert spool.dropped["a"] + spool.dropped["b"] == 60 - len(found)
    spool.settle(1e4, None)
    assert sum(entry["count"] for entry in place.entries("spool.dropped")) == 60 - len(found)
    assert {(entry["topic"], entry["reason"]) for entry in place.entries("spool.dropped")} == {
        ("a", "max_bytes"), ("b", "max_bytes")}
    assert (place.spool(bounds).count, place.spool(bounds).size) == (spool.count, spool.size)


def test_one_message_larger_than_the_bound_is_dropped_and_nothing_breaks(place: Place) -> None:
    spool = place.spool(Bounds(max_bytes=1000))
    put(spool, "a")
    put(spool, "b", size=2000)
    assert (ids(spool), spool.size) == ([], 0)
    assert ids(spool) == [] and put(spool, "c") == ids(spool)


@pytest.mark.parametrize("bounds", [Bounds(max_age_s=DAY_S), Bounds(max_age_s=DAY_S, strict=True)])
def test_beyond_its_age_the_oldest_go_and_are_counted(place: Place, bounds: Bounds) -> None:
    spool = place.spool(bounds)
    put(spool, "a", now=0.0)
    put(spool, "a", now=1000.0)
    spool.settle(1000.0, None, everything=True)
    spool.settle(DAY_S, None)
    assert ids(spool) == [1, 2]
    spool.settle(DAY_S + AGES_S, None)
    assert ids(spool) == [2] and spool.dropped == {"a": 1}
    assert [(entry["count"], entry["reason"]) for entry in place.entries("spool.dropped")] == [(1, "max_age")]


@pytest.mark.parametrize("bounds", [Bounds(max_age_s=60), Bounds(max_age_s=60, strict=True)])
def test_the_spool_asks_to_be_settled_in_time_for_its_ages(place: Place, bounds: Bounds) -> None:
    spool = place.spool(bounds)
    put(spool, "a")
    now = 0.0
    for _ in range(200):
        due_at = spool.settle_at()
        if due_at == math.inf:
            break
        now = max(now, due_at)
        spool.settle(now, None)
    assert ids(spool) == [] and 60.0 <= now <= 62.0


@pytest.mark.parametrize("bounds", [RELAXED, STRICT])
@pytest.mark.parametrize("written_at, read_at, kept", [
    (1e9, 1e9 + 6 * DAY_S, True),
    (1e9, 1e9 + 8 * DAY_S, False),
    (1e9, 1e9 - 10 * YEAR_S, True),
    (None, 1e9, True),
    (1e9, None, True),
    (None, None, True),
])
def test_the_age_across_a_reboot_is_judged_by_a_wall_clock_that_was_right_both_times(
        place: Place, bounds: Bounds, written_at: float | None, read_at: float | None, kept: bool) -> None:
    spool = place.spool(bounds)
    put(spool, "a", now=0.0)
    spool.settle(0.0, written_at)
    spool.close(0.0, written_at)
    place.reboot()
    spool = place.spool(bounds, boot="next")
    spool.settle(10.0, read_at)
    assert ids(spool) == ([1] if kept else [])


def test_a_message_is_as_old_as_its_making_not_its_move(place: Place) -> None:
    spool = place.spool()
    put(spool, "a", now=0.0)
    spool.settle(3 * DAY_S, 1e9)
    place.reboot()
    spool = place.spool(boot="next")
    spool.settle(10.0, 1e9 + 5 * DAY_S)
    assert ids(spool) == []


def test_a_wall_clock_that_jumps_by_years_drops_nothing(place: Place) -> None:
    spool = place.spool()
    for turn, at in enumerate([None, 0.0, 1e9, 1e9 + 20 * YEAR_S, 1e9 - 20 * YEAR_S, 1e9]):
        put(spool, "a", now=turn * AGES_S)
        spool.settle(turn * AGES_S + 10.0, at)
        spool.settle(turn * AGES_S + 20.0, at, everything=True)
    assert ids(spool) == [1, 2, 3, 4, 5, 6] and spool.dropped == {}


def test_latest_keeps_only_the_newest_of_its_topic(place: Place) -> None:
    spool = place.spool()
    put(spool, "a", latest=True)
    put(spool, "a", "b")
    spool.settle(10.0, None)
    put(spool, "a", "b", latest=True, now=10.0)
    put(spool, "a", latest=True, now=10.0)
    assert ids(spool) == [2, 3, 5, 6], "what is queued stays beside it"
    assert spool.dropped == {}


def test_latest_never_leaves_a_moment_without_the_message(place: Place) -> None:
    """Its predecessor goes only when it is there: where it cannot be written, the predecessor is the newest."""
    spool = place.spool(STRICT)
    put(spool, "a", latest=True)
    with contextlib.closing(sqlite3.connect(place.state / "spool.db", isolation_level=None)) as database:
        order: list[str] = []
        database.execute("CREATE TABLE seen (what TEXT)")
        database.execute("CREATE TRIGGER i AFTER INSERT ON message BEGIN INSERT INTO seen VALUES ('new'); END")
        database.execute("CREATE TRIGGER d AFTER DELETE ON message BEGIN INSERT INTO seen VALUES ('old'); END")
        put(spool, "a", latest=True)
        order = [what for what, in database.execute("SELECT what FROM seen ORDER BY rowid")]
    assert order == ["new", "old"]


def test_what_is_set_aside_is_kept_and_never_fetched_again(place: Place) -> None:
    spool = place.spool()
    put(spool, "a", "b")
    spool.settle(10.0, None)
    put(spool, "a", now=10.0)
    spool.set_aside(1)
    spool.set_aside(3)
    assert (ids(spool), spool.count, spool.poison) == ([2], 1, {"a": 2})
    spool.close(20.0, None)
    spool = place.spool()
    assert (ids(spool), spool.count, spool.poison) == ([2], 1, {"a": 2})
    assert place.on_disk() == [1, 2, 3]
    spool.take_back("a")
    assert (ids(spool), spool.count, spool.poison) == ([1, 2, 3], 3, {})


def test_what_is_set_aside_and_too_old_is_counted_no_more(place: Place) -> None:
    spool = place.spool(Bounds(max_age_s=100.0))
    put(spool, "a", "b")
    spool.settle(10.0, None)
    put(spool, "a", now=20.0)
    for number in (1, 3):
        spool.set_aside(number)
    spool.settle(110.0, None)
    assert spool.poison == {"a": 1} and spool.dropped == {"a": 1, "b": 1}
    spool.settle(130.0, None)
    assert spool.poison == {}


def test_the_file_gives_its_room_back_when_the_backlog_is_gone(place: Place) -> None:
    spool = place.spool()
    put(spool, *["a"] * 5000, size=500)
    spool.settle(10.0, None)
    spool.forget(ids(spool))
    spool.close(20.0, None)
    assert (place.state / "spool.db").stat().st_size < 50_000


def test_drops_are_reported_at_once_and_then_counted_for_ten_minutes(place: Place) -> None:
    spool = place.spool(Bounds(max_bytes=1000))
    for now in range(0, 1200, 10):
        put(spool, "a", now=float(now), size=500)
        spool.settle(float(now), None)
    counts = [entry["count"] for entry in place.entries("spool.dropped")]
    assert counts[0] == 1 and len(counts) == 2 and sum(counts) <= spool.dropped["a"]


def test_nothing_to_do_asks_for_no_turn(place: Place) -> None:
    spool = place.spool()
    spool.settle(0.0, None)
    assert spool.settle_at() == math.inf
    numbers = put(spool, "a", now=3.0)
    assert spool.settle_at() == 3.0 + SETTLE_S
    spool.forget(numbers)
    assert spool.settle_at() == math.inf


def test_a_disk_that_is_well_again_is_said_to_be_so_while_messages_come(place: Place) -> None:
    blocked = place.state / "spool.db"
    blocked.mkdir()
    spool = place.spool()
    spool.settle(0.0, None, everything=True)
    numbers = put(spool, "a", now=0.0)
    spool.settle(SETTLE_S + 1.0, None)
    assert spool.failures
    spool.forget(numbers)
    blocked.rmdir()
    for at in range(60, 660, 60):  # one is always in flight when the disk is tried again
        in_flight = put(spool, "a", now=float(at))
        spool.settle(float(at), None)
        spool.forget(in_flight)
    assert spool.failures == []


@pytest.mark.parametrize("when", ["while it runs", "at the next start"])
def test_what_two_boots_without_a_disk_have_made_is_all_there_once_it_can_be_read(place: Place, when: str) -> None:
    """Both number from the same gap on; of two messages with one id the second was taken for the first."""
    blocked, hidden = place.state / "spool.db", place.state / "hidden"
    blocked.mkdir()
    first = place.spool(boot="one")
    put(first, "a", "b")
    blocked.rmdir()
    first.settle(RETRY_S + 1.0, None, everything=True)
    assert place.on_disk() == [GAP + 1, GAP + 2]
    place.close()
    (place.runtime / "spool.journal").unlink()  # the host was booted

    blocked.rename(hidden)
    blocked.mkdir()
    killed = place.spool(boot="two")
    assert put(killed, "c") == [GAP + 1]
    last = place.spool(boot="two") if when == "while it runs" else None
    blocked.rmdir()
    hidden.rename(blocked)
    last = last or place.spool(boot="two")
    last.settle(RETRY_S + 1.0, None, everything=True)
    assert [row.topic for row in last.fetch(0, 10)] == ["a", "b", "c"]


@contextlib.contextmanager
def locked(place: Path, how: str) -> Iterator[None]:
    """Hold the store as another program does, for writing or wholly."""
    with contextlib.closing(sqlite3.connect(place / "spool.db", isolation_level=None)) as other:
        if how == "wholly":
            other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE message SET topic = topic")
        yield
        other.execute("ROLLBACK")


@pytest.mark.parametrize("bounds", [RELAXED, STRICT])
@pytest.mark.parametrize("how", ["for writing", "wholly"])
def test_a_store_that_another_program_locks_holds_nothing_up_and_loses_nothing(
    place: Place, bounds: Bounds, how: str
) -> None:
    """Each message once waited five seconds for the lock, and those that were due meanwhile were never made."""
    first = place.spool(bounds)
    put(first, "a", "b")
    put(first, "c", latest=True)
    first.settle(10.0, None)
    first.close(10.0, None)
    spool = None if how == "wholly" else place.spool(bounds, now=11.0)
    with locked(place.state, how):
        spool = spool or place.spool(bounds, now=11.0)
        began = time.monotonic()
        new = put(spool, *["c"] * 50, latest=True, now=11.0)
        spool.settle(12.0, None)
        assert time.monotonic() - began < 2.0
        assert spool.count >= 1 and new[-1] in ids(spool)
        [failed] = place.entries("spool.failed")
        assert "locked" in failed["reason"] and spool.failures == [failed["reason"]]
    spool.settle(12.0 + RETRY_S, None)
    left = spool.fetch(0, 100)
    assert [row.topic for row in left] == ["a", "b", "c"] and spool.failures == []
    assert place.on_disk() == [row.id for row in left] and left[-1].id == new[-1]


def test_what_could_not_be_read_is_seen_once_it_can_be(place: Place) -> None:
    spool = place.spool()
    put(spool, "a")
    spool.settle(10.0, None)
    assert spool._stores.disk is not None
    reopened = spool.reopened
    spool._stores.disk._db.execute("ALTER TABLE message RENAME TO hidden")
    assert ids(spool) == [] and spool.failures
    spool._stores.disk._db.execute("ALTER TABLE hidden RENAME TO message")
    spool.settle(10.0 + RETRY_S, None)
    assert ids(spool) == [1] and spool.reopened == reopened + 1 and spool.failures == []


@pytest.mark.parametrize("bounds", [RELAXED, STRICT])
@pytest.mark.parametrize("closed", [True, False])
def test_a_backlog_belongs_to_the_thing_that_made_it(place: Place, bounds: Bounds, closed: bool) -> None:
    pi = place.spool(bounds)
    pis = put(pi, "a", "b")
    pi.settle(10.0, None)
    pis += put(pi, "a", latest=True, now=10.0)
    if closed:
        pi.close(11.0, None)
    other = place.spool(bounds, now=11.0, thing="other")
    assert (ids(other), other.count, other.newest, other.others) == ([], 0, {}, {"pi": 3})
    [said] = place.entries("spool.set_aside")
    assert (said["thing"], said["count"]) == ("pi", 3)
    others = put(other, "a", latest=True, now=11.0)
    other.take_back("a")
    assert others[0] > pis[-1] and (ids(other), other.count) == (others, 1)
    other.settle(20.0, None)
    assert ids(other) == others
    other.close(20.0, None)
    place.reboot()
    pi = place.spool(bounds, now=21.0)
    assert (ids(pi), pi.count, pi.others) == (pis, 3, {"other": 1})
    pi.belong_to("other")
    assert (ids(pi), pi.newest, pi.others) == (others, {"a": others[0]}, {"pi": 3})
    pi.forget(pis)  # what was on its way when the thing was renamed
    pi.belong_to("pi")
    assert (ids(pi), pi.others) == ([], {"other": 1})


def test_what_is_set_aside_for_another_thing_has_its_bounds_too(place: Place) -> None:
    put(place.spool(), "a", size=400)
    spool = place.spool(Bounds(max_bytes=1000, max_age_s=DAY_S), thing="other", now=1.0)
    put(spool, "b", size=500, now=1.0)
    assert spool.dropped == {"a": 1} and ids(spool) == [2]
    spool.settle(2 * DAY_S, None)
    assert spool.dropped == {"a": 1, "b": 1}


def test_others_are_named_until_they_are_too_old(place: Place) -> None:
    put(place.spool(), "a")
    spool = place.spool(Bounds(max_age_s=DAY_S), thing="other", now=1.0)
    assert spool.settle_at() < math.inf, "another thing's grow old as well"
    spool.settle(10.0, None)
    assert spool.others == {"pi": 1} and spool.settle_at() < math.inf
    spool.settle(2 * DAY_S, None)
    assert spool.others == {} and spool.dropped == {"a": 1}


VERSION_1 = """
PRAGMA journal_mode = WAL;
CREATE TABLE message (
  id INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload BLOB NOT NULL, qos INTEGER NOT NULL, retain INTEGER NOT NULL,
  latest INTEGER NOT NULL, size INTEGER NOT NULL, boot TEXT NOT NULL, made_s REAL NOT NULL, made_at REAL,
  aside INTEGER NOT NULL DEFAULT 0);
CREATE INDEX latest_of_topic ON message (topic) WHERE latest;
PRAGMA user_version = 1;
INSERT INTO message VALUES (1, 'a', x'78', 1, 1, 0, 102, 'boot', 0.0, NULL, 0), (2, 'b', x'78', 1, 1, 0, 102, 'boot',
  0.0, NULL, 1), (3, 'c', x'78', 1, 1, 0, 102, 'boot', 0.0, NULL, 0);
"""


def test_files_of_before_messages_had_a_thing_are_of_the_thing_that_finds_them(place: Place) -> None:
    with contextlib.closing(sqlite3.connect(place.state / "spool.db")) as database:
        database.executescript(VERSION_1)
    (place.runtime / "spool.journal").write_text('[4, "d", "x", 1, true, false, 102, "boot", 1.5, null, false]\n')
    spool = place.spool()
    assert (ids(spool), spool.count, spool.others) == ([1, 3, 4], 3, {})
    assert spool.settle_at() <= 0.5
    spool.settle(0.5, None)
    assert place.in_journal() == [4], "it was moved, the journal is not tested"
    assert ids(place.spool(thing="other")) == []
    assert ids(place.spool()) == [1, 3, 4]


def test_a_damaged_file_of_before_is_saved_as_well(place: Place) -> None:
    with contextlib.closing(sqlite3.connect(place.state / "spool.db")) as database:
        database.executescript("PRAGMA auto_vacuum = INCREMENTAL;" + VERSION_1)
        database.executemany("INSERT INTO message VALUES (?, 'a', ?, 1, 1, 0, 300, 'boot', 0.0, NULL, 0)",
                             [(number, b"x" * 200) for number in range(10, 300)])
        database.commit()
    damage(place.state / "spool.db", "holes")
    spool = place.spool()
    saved = ids(spool)
    assert 1 in saved and 299 in saved and len(place.entries("spool.damaged")) == 1


@pytest.mark.parametrize("bounds", [RELAXED, STRICT])
def test_many_are_kept_with_one_write_where_the_bounds_say_and_outlive_a_kill(place: Place, bounds: Bounds) -> None:
    spool = place.spool(bounds)
    put(spool, "t/a")
    assert spool.keep_all([(Message("t/b", b"1"), False), (Message("t/a", b"2"), True), (Message("t/a", b"3"), True)],
                          0.0) == [2, 3, 4]
    spool.flush()
    assert (place.on_disk(), place.in_journal()) == (([1, 2, 4], []) if bounds.strict else ([], [1, 2, 4]))
    again = place.spool(bounds)
    assert [(row.topic, row.payload) for row in again.fetch(0, 10)][-2:] == [("t/b", b"1"), ("t/a", b"3")]


def test_what_no_file_takes_is_not_kept_and_what_the_disk_alone_takes_is(place: Place) -> None:
    (place.runtime / "spool.journal").mkdir()
    spool = place.spool()
    assert spool.keep_all([(Message("a", b"1"), False)], 0.0) and len(place.on_disk()) == 1
    (place.state / "spool.db").unlink()
    (place.state / "spool.db").mkdir()
    other = place.spool()
    assert other.keep_all([(Message("a", b"1"), False)], 0.0) == [-1] and other.failures and ids(other) == []


def test_strict_keeps_nothing_for_a_program_that_the_disk_does_not_take(place: Place) -> None:
    (place.state / "spool.db").mkdir()
    spool = place.spool(STRICT)
    assert spool.keep_all([(Message("a", b"1"), False)], 0.0) == [-1]
    assert put(spool, "a") and len(ids(spool)) == 1, "of iotd's own the best is made"
