"""The host: small files that are whole or not there, and what systemd hears on a real socket."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from iotd import host

ROOT = Path(__file__).parent.parent


def test_who_this_host_is() -> None:
    identity = host.identity()
    assert identity.hostname == socket.gethostname().split(".")[0] and "." not in identity.hostname
    assert len(host.boot_id()) == 36
    assert host.uptime_s() >= time.monotonic() - 1.0


@pytest.mark.parametrize("content, line", [
    (b"abc\n", "abc"), (b"  a b \n\n", "a b"), (b"", ""), (b"\xff\n", "\N{REPLACEMENT CHARACTER}"),
])
def test_a_line_is_read_without_the_blanks_around_it(tmp_path: Path, content: bytes, line: str) -> None:
    (tmp_path / "file").write_bytes(content)
    assert host.read_line(tmp_path / "file") == line


def test_what_cannot_be_read_is_empty(tmp_path: Path) -> None:
    assert host.read_line(tmp_path / "none") == host.read_line(tmp_path) == ""
    assert host.read_json(tmp_path / "none") is host.read_json(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 200_000, b"9" * 5000, b"{}x",
                                     b'"' + b"x" * host.MAX_FILE_BYTES + b'"'])
def test_what_is_no_json_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert host.read_json(tmp_path / "file") is None


@pytest.mark.parametrize("value", [{"a": [1, None, "工場"]}, [], "x", 7, "\ud800"])
def test_what_is_written_as_json_is_read_again(tmp_path: Path, value: object) -> None:
    host.write_json(tmp_path / "file", value)
    assert host.read_json(tmp_path / "file") == value
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_of_the_working_directory_needs_no_directory_in_its_name(tmp_path: Path, durable: bool) -> None:
    with contextlib.chdir(tmp_path):
        host.write_text(Path("file"), "text", durable)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "text")]


@pytest.mark.parametrize("durable", [False, True])
def test_a_reader_finds_the_old_text_or_the_new_and_never_half_of_one(tmp_path: Path, durable: bool) -> None:
    path, done = tmp_path / "file", threading.Event()
    texts = ["a" * 300_000, "b" * 200_000]
    host.write_text(path, texts[0], durable)

    def write() -> None:
        for turn in range(40):
            host.write_text(path, texts[turn % 2], durable)
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
    host.write_text(path, "old", durable)
    (tmp_path / ".file.new").mkdir()
    with pytest.raises(OSError):
        host.write_text(path, "new", durable)
    assert path.read_text() == "old"
    with pytest.raises(OSError):
        host.write_text(path / "below", "new", durable)


def test_a_request_for_the_helper_stands_under_the_name_of_its_verb(tmp_path: Path) -> None:
    path = tmp_path / "recover" / "reboot"
    host.write_request(path, "wlan0", "工場 is out of reach")
    host.write_request(path, "wlan0", "工場 is out of reach")
    assert json.loads(path.read_text("utf-8")) == {"interface": "wlan0", "reason": "工場 is out of reach"}
    assert path.parent.stat().st_mode & 0o7777 == 0o750


SPEAKER = """
from iotd.host import Systemd
systemd = Systemd()
print(systemd.feed_every_s)
systemd.ready()
systemd.status("connected")
systemd.status("connected")
systemd.status("not connected")
systemd.feed()
systemd.stopping()
"""


def speak(environment: dict[str, str], script: str = SPEAKER) -> str:
    """Let a process of its own speak to systemd; return what it prints."""
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, env={"PATH": os.environ["PATH"], **environment},
                          capture_output=True, text=True, check=True, timeout=30).stdout


def test_systemd_hears_each_word_and_a_status_only_when_it_changes(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(10.0)
        speak({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        heard = [listener.recv(4096).decode() for _ in range(5)]
        assert heard == ["READY=1", "STATUS=connected", "STATUS=not connected", "WATCHDOG=1", "STOPPING=1"]


def test_where_systemd_does_not_listen_nothing_is_said_and_nothing_breaks(tmp_path: Path) -> None:
    assert speak({}) == speak({"NOTIFY_SOCKET": str(tmp_path / "nobody")}) == "None\n"


@pytest.mark.parametrize("environment, feed_every_s", [
    ({"WATCHDOG_USEC": "30000000"}, "7.5"),
    ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, "None"),
    ({"WATCHDOG_USEC": ""}, "None"),
    ({"WATCHDOG_USEC": "-5"}, "None"),
    ({"WATCHDOG_USEC": "30s"}, "None"),
    ({}, "None"),
])
def test_the_watchdog_is_fed_at_a_quarter_of_its_time(environment: dict[str, str], feed_every_s: str) -> None:
    assert speak(environment) == f"{feed_every_s}\n"


def test_a_watchdog_of_this_very_process_is_fed() -> None:
    script = "import os\nos.environ['WATCHDOG_PID'] = str(os.getpid())\n" + SPEAKER
    assert speak({"WATCHDOG_USEC": "1000000"}, script) == "0.25\n"
