"""The small files, which are whole or not there."""

from __future__ import annotations

import contextlib
import io
import json
import threading
from pathlib import Path

import pytest

from iotd.host import log
from iotd.host.files import MAX_FILE_BYTES, Files, read_line

FILES = Files()


@pytest.mark.parametrize("content, line", [
    (b"abc\n", "abc"), (b"  a b \n\n", "a b"), (b"", ""), (b"\xff\n", "\N{REPLACEMENT CHARACTER}"),
])
def test_a_line_is_read_without_the_blanks_around_it(tmp_path: Path, content: bytes, line: str) -> None:
    (tmp_path / "file").write_bytes(content)
    assert read_line(tmp_path / "file") == line


def test_what_cannot_be_read_is_empty(tmp_path: Path) -> None:
    assert read_line(tmp_path / "none") == read_line(tmp_path) == ""
    assert FILES.read_json(tmp_path / "none") is FILES.read_json(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 200_000, b"9" * 5000, b"{}x",
                                     b'"' + b"x" * MAX_FILE_BYTES + b'"'])
def test_what_is_no_json_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert FILES.read_json(tmp_path / "file") is None


@pytest.mark.parametrize("value", [{"a": [1, None, "工場"]}, [], "x", 7, "\ud800"])
def test_what_is_written_as_json_is_read_again(tmp_path: Path, value: object) -> None:
    FILES.write_json(tmp_path / "file", value)
    assert FILES.read_json(tmp_path / "file") == value
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_that_is_good_to_have_and_cannot_be_written_is_said_once_until_it_can(tmp_path: Path) -> None:
    stream = io.StringIO()

    def logged() -> list[dict[str, str]]:
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    log.start("info", "json", False, stream)
    files, path = Files(), tmp_path / "folder" / "file"
    assert all(files.keep(path, [number], durable=True) for number in range(2))
    [said] = logged()
    assert (said["event"], said["path"]) == ("file.unwritable", str(path)) and "No such file" in said["reason"]
    path.parent.mkdir()
    assert not files.keep(path, {"a": "\ud800"}, durable=False) and files.read_json(path) == {"a": "\ud800"}
    path.unlink()
    path.parent.rmdir()
    assert files.keep(path, [], durable=True) and len(logged()) == 2, "it could in between"
    log.start("info", "json", False)


def test_what_could_not_be_written_is_written_once_it_can_be_the_newest_of_it(tmp_path: Path) -> None:
    files, path, other = Files(), tmp_path / "folder" / "file", tmp_path / "folder" / "other"
    for number in range(2):
        files.keep(path, number, durable=True)
    files.keep(other, "gone", durable=False)
    files.write_again(0.0)
    path.parent.mkdir()
    files.write_again(59.9)
    assert not path.exists()
    files.remove(other)
    files.write_again(60.0)
    assert files.read_json(path) == 1 and not other.exists()
    path.write_text("5")
    files.write_again(120.0)
    assert files.read_json(path) == 5, "once"


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_of_the_working_directory_needs_no_directory_in_its_name(tmp_path: Path, durable: bool) -> None:
    with contextlib.chdir(tmp_path):
        FILES.write_text(Path("file"), "text", durable)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "text")]


@pytest.mark.parametrize("durable", [False, True])
def test_a_reader_finds_the_old_text_or_the_new_and_never_half_of_one(tmp_path: Path, durable: bool) -> None:
    path, done = tmp_path / "file", threading.Event()
    texts = ["a" * 300_000, "b" * 200_000]
    FILES.write_text(path, texts[0], durable)

    def write() -> None:
        for turn in range(40):
            FILES.write_text(path, texts[turn % 2], durable)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add(path.read_text())
    writer.join()
    assert seen <= set(texts) and path.read_text() == texts[1]


@pytest.mark.parametrize("durable", [False, True])
def test_a_text_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "file"
    FILES.write_text(path, "old", durable)
    (tmp_path / ".file.new").mkdir()
    with pytest.raises(OSError):
        FILES.write_text(path, "new", durable)
    assert path.read_text() == "old"
    with pytest.raises(OSError):
        FILES.write_text(path / "below", "new", durable)


def test_a_request_for_the_helper_stands_under_the_name_of_its_verb(tmp_path: Path) -> None:
    path = tmp_path / "recover" / "reboot"
    FILES.write_request(path, {"interface": "wlan0", "reason": "工場 is out of reach"})
    FILES.write_request(path, {"interface": "wlan0", "reason": "工場 is out of reach"})
    assert json.loads(path.read_text("utf-8")) == {"interface": "wlan0", "reason": "工場 is out of reach"}
    assert path.parent.stat().st_mode & 0o7777 == 0o750
