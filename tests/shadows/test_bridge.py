"""The file bridge, with real files."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from iotd.shadows import bridge
from iotd.shadows.bridge import SETTLED_S, Bridge
from iotd.shadows.folder import Folder
from iotd.vocabulary import Json

NOTHING: frozenset[str] = frozenset()
DAY_S = 86400.0


def opened(runtime: Path, left: Mapping[str, Json] = {}) -> Bridge:
    files = Bridge(Folder(runtime), left)
    files.open()
    return files


def put(runtime: Path, name: str, value: Json) -> Path:
    """Write a file as the manual tells programs to: beside, and renamed."""
    path = runtime / "reported.d" / name
    beside = path.with_suffix(".new")
    beside.write_text(value if isinstance(value, str) else json.dumps(value))
    beside.replace(path)
    return path


def test_files_are_laid_over_each_other_in_the_order_of_their_names(tmp_path: Path) -> None:
    files = opened(tmp_path)
    put(tmp_path, "10-pump.json", {"pump": {"rpm": 900, "on": True}, "site": "north"})
    put(tmp_path, "20-pump.json", {"pump": {"rpm": 901}, "note": None})
    put(tmp_path, "notes.txt", {"x": 1})
    put(tmp_path, ".hidden.json", {"x": 1})
    assert files.reported(NOTHING, DAY_S) == ({"pump": {"rpm": 901, "on": True}, "site": "north"}, {})


def test_what_is_taken_away_is_taken_out_of_the_shadow(tmp_path: Path) -> None:
    files = opened(tmp_path)
    put(tmp_path, "a.json", {"pump": {"rpm": 1, "on": True}, "site": "north"})
    path = put(tmp_path, "b.json", {"door": {"open": False}})
    files.reported(NOTHING, DAY_S)
    put(tmp_path, "a.json", {"pump": {"rpm": 2}, "site": {"name": "north"}})
    path.unlink()
    gone = {"pump": {"rpm": 2, "on": None}, "site": {"name": "north"}, "door": None}
    assert files.reported(NOTHING, DAY_S)[0] == gone
    assert files.reported(NOTHING, DAY_S)[0] == gone
    put(tmp_path, "b.json", {"door": {"open": True}})
    assert files.reported(NOTHING, DAY_S)[0]["door"] == {"open": True}


def test_a_restart_knows_what_to_take_out(tmp_path: Path) -> None:
    files = opened(tmp_path)
    path = put(tmp_path, "a.json", {"pump": {"rpm": 1}, "site": "north"})
    files.reported(NOTHING, DAY_S)
    path.unlink()
    assert opened(tmp_path, files.keys).reported(NOTHING, DAY_S)[0] == {"pump": None, "site": None}


def test_what_the_service_has_taken_out_is_not_said_again_and_not_remembered(tmp_path: Path) -> None:
    files = opened(tmp_path)
    put(tmp_path, "a.json", {"pump": {"rpm": 1, "on": True}, "site": "north"})
    path = put(tmp_path, "b.json", {"door": 1, "lamp": 1})
    files.reported(NOTHING, DAY_S)
    path.unlink()
    put(tmp_path, "a.json", {"pump": {"rpm": 2}, "site": "north"})
    files.taken({"pump": {"on": None}, "door": None, "lamp": 1})
    report = {"pump": {"rpm": 2, "on": None}, "site": "north", "door": None, "lamp": None}
    assert files.reported(NOTHING, DAY_S)[0] == report
    files.taken({"pump": {"rpm": 2, "on": None}, "door": None, "lamp": 1})
    assert files.keys == {"pump": {"rpm": None}, "site": None, "lamp": None}
    assert files.reported(NOTHING, DAY_S)[0] == {"pump": {"rpm": 2}, "site": "north", "lamp": None}


def test_what_is_gone_is_said_once_though_there_is_more_of_it_than_is_remembered(tmp_path: Path) -> None:
    left: dict[str, Json] = {f"{'k' * 100}{number}": None for number in range(60)}
    files = opened(tmp_path, left)
    put(tmp_path, "a.json", {"pump": "x" * 3000})
    assert files.reported(NOTHING, DAY_S)[0] == {**left, "pump": "x" * 3000}
    assert files.keys == {"pump": None}


def test_after_a_boot_programs_have_the_time_to_report_before_anything_is_taken_out(tmp_path: Path) -> None:
    files = opened(tmp_path, {"pump": {"rpm": None, "on": None}, "door": None})
    assert files.reported(NOTHING, 20.0)[0] == {}
    put(tmp_path, "a.json", {"pump": {"rpm": 1}})
    assert files.reported(NOTHING, SETTLED_S - 1)[0] == {"pump": {"rpm": 1}}
    assert files.keys == {"pump": {"rpm": None, "on": None}, "door": None}
    for uptime_s in (SETTLED_S, DAY_S):
        assert files.reported(NOTHING, uptime_s)[0] == {"pump": {"rpm": 1, "on": None}, "door": None}


@pytest.mark.parametrize("text, why", [
    ("", "no JSON"), ("{", "no JSON"), ("[1]", "a JSON list"), ("null", "a JSON NoneType"), ('{"a": NaN}', "no JSON"),
    ('{"a": 1e400}', "no JSON"), ('{"a":' + "[" * 1500 + "]" * 1500 + "}", "deeper"), ('{"a": "\\ud800"}', "no JSON"),
    ('{"a":' + "[" * 900 + "]" * 900 + "}", "deeper"), ('{"a":{"b":{"c":{"d":{}}}}}', "deeper"),
    (json.dumps({"a": "x" * 5000}), "larger"),
], ids=lambda text: str(text)[:20])
def test_a_bad_file_is_named_once_and_skipped(tmp_path: Path, text: str, why: str) -> None:
    files = opened(tmp_path)
    put(tmp_path, "bad.json", text)
    put(tmp_path, "good.json", {"ok": True})
    merged, problems = files.reported(NOTHING, DAY_S)
    assert merged == {"ok": True} and list(problems) == ["bad.json"] and why in problems["bad.json"]
    assert files.reported(NOTHING, DAY_S) == ({"ok": True}, {})
    put(tmp_path, "bad.json", {"mended": 1})
    assert files.reported(NOTHING, DAY_S) == ({"ok": True, "mended": 1}, {})
    put(tmp_path, "bad.json", text)
    assert list(files.reported(NOTHING, DAY_S)[1]) == ["bad.json"]


def test_a_link_a_pipe_a_directory_and_bytes_that_are_no_text_are_skipped(tmp_path: Path) -> None:
    files = opened(tmp_path)
    secret = tmp_path / "secret"
    secret.write_text('{"key": 1}')
    (tmp_path / "reported.d" / "link.json").symlink_to(secret)
    os.mkfifo(tmp_path / "reported.d" / "pipe.json")
    (tmp_path / "reported.d" / "directory.json").mkdir()
    (tmp_path / "reported.d" / "bytes.json").write_bytes(b'{"a": "\xff"}')
    (tmp_path / "reported.d" / "name-\udcff.json").write_text("[]")
    merged, problems = files.reported(NOTHING, DAY_S)
    assert merged == {}
    assert set(problems) == {"link.json", "pipe.json", "directory.json", "bytes.json", "name-\\xff.json"}
    assert "link" in problems["link.json"] and "no regular file" in problems["pipe.json"]


def test_a_directory_that_has_gone_is_named_once(tmp_path: Path) -> None:
    files = opened(tmp_path)
    (tmp_path / "reported.d").rmdir()
    assert "cannot be read" in files.reported(NOTHING, DAY_S)[1][""]
    assert files.reported(NOTHING, DAY_S) == ({}, {})


def test_what_iotd_reports_itself_cannot_be_replaced(tmp_path: Path) -> None:
    files = opened(tmp_path)
    put(tmp_path, "a.json", {"state": "fine", "pump": 1})
    merged, problems = files.reported(frozenset({"state", "iotd"}), DAY_S)
    assert merged == {"pump": 1} and "state is reported by iotd itself" in problems["a.json"]


def test_all_files_together_are_bounded_and_the_first_ones_win(tmp_path: Path) -> None:
    files = opened(tmp_path)
    for name in "abc":
        put(tmp_path, f"{name}.json", {name: "x" * 1900})
    merged, problems = files.reported(NOTHING, DAY_S)
    assert (sorted(merged), list(problems)) == (["a", "b"], ["c.json"])


def test_their_number_is_bounded(tmp_path: Path) -> None:
    files = opened(tmp_path)
    for number in range(40):
        put(tmp_path, f"{number:02}.json", {f"k{number:02}": number})
    merged, problems = files.reported(NOTHING, DAY_S)
    assert sorted(merged) == [f"k{number:02}" for number in range(bridge.MAX_FILES)]
    assert list(problems) == ["32.json"]


def test_a_program_that_invents_keys_without_end_costs_bounded_memory(tmp_path: Path) -> None:
    files = opened(tmp_path)
    for number in range(2000):
        put(tmp_path, "a.json", {f"key {number:08}": 1})
        merged, _ = files.reported(NOTHING, DAY_S)
        assert len(json.dumps(merged)) <= 3 * bridge.MAX_BYTES and len(json.dumps(files.keys)) <= 2 * bridge.MAX_BYTES


def test_a_file_that_has_not_changed_is_not_read_again(tmp_path: Path) -> None:
    files = opened(tmp_path)
    path = put(tmp_path, "a.json", {"a": 1})
    at = path.stat().st_mtime_ns
    files.reported(NOTHING, DAY_S)
    path.write_text('{"a": 2}')
    os.utime(path, ns=(at, at))
    assert files.reported(NOTHING, DAY_S)[0] == {"a": 1}
    os.utime(path, ns=(at, at + 1))
    assert files.reported(NOTHING, DAY_S)[0] == {"a": 2}


def test_what_is_desired_can_be_read_by_all_and_changes_in_one_step(tmp_path: Path) -> None:
    files = opened(tmp_path)
    path = tmp_path / "desired.json"
    files.desired({"msg": "こんにちは"})
    first = path.stat()
    assert json.loads(path.read_text("utf-8")) == {"msg": "こんにちは"}
    assert stat.S_IMODE(first.st_mode) == 0o644
    with path.open("rb") as reader:
        files.desired({"msg": "\ud800"})
        assert json.loads(reader.read()) == {"msg": "こんにちは"}
    written = path.stat()
    files.desired({"msg": "\ud800"})
    assert path.stat() == written and path.stat().st_ino != first.st_ino
    assert [entry.name for entry in tmp_path.iterdir()].count("desired.json") == len(list(tmp_path.glob("*desired*")))


@pytest.mark.parametrize("first, second", [(0, False), (1, True), (1, 1.0), ([0], [False]), ({"a": 1}, {"a": True})])
def test_a_value_of_another_type_is_written_anew(tmp_path: Path, first: Json, second: Json) -> None:
    files = opened(tmp_path)
    for value in (first, second, first):
        files.desired({"x": value})
        assert (tmp_path / "desired.json").read_text() == json.dumps({"x": value})


def test_only_its_owner_may_write_a_new_directory_and_an_old_one_keeps_its_mode(tmp_path: Path) -> None:
    before = os.umask(0o027)  # as the unit has it
    files = opened(tmp_path)
    os.umask(before)
    directory = tmp_path / "reported.d"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o755
    directory.chmod(0o2775)
    files.open()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o2775


def test_what_cannot_be_read_for_a_moment_is_read_as_soon_as_it_can_though_it_has_not_changed(tmp_path: Path) -> None:
    class Busy(Folder):
        """A folder of a process that has no descriptor left, once."""

        tries = 0

        def read(self, name: str, max_bytes: int) -> bytes:
            self.tries += 1
            if self.tries == 1:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return super().read(name, max_bytes)

    files = Bridge(Busy(tmp_path), {})
    files.open()
    put(tmp_path, "a.json", {"pump": 1})
    assert files.reported(NOTHING, DAY_S) == ({}, {"a.json": "cannot be read: Too many open files"})
    assert files.reported(NOTHING, DAY_S) == ({"pump": 1}, {})
    assert files.reported(NOTHING, DAY_S) == ({"pump": 1}, {})


def test_a_restart_knows_what_to_take_out_although_that_is_more_than_files_may_report(tmp_path: Path) -> None:
    files = opened(tmp_path)
    put(tmp_path, "a.json", {f"old_{number:03}": "x" * 20 for number in range(90)})
    files.reported(NOTHING, DAY_S)
    path = put(tmp_path, "a.json", {f"new_{number:03}": "x" * 20 for number in range(90)})
    files.reported(NOTHING, DAY_S)
    path.unlink()
    found = opened(tmp_path, files.keys).reported(NOTHING, DAY_S)[0]
    assert found == {f"{age}_{number:03}": None for age in ("old", "new") for number in range(90)}
