"""Values of real files and real commands, good ones and those that would harm."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from iotd.values.section import Value
from iotd.values.sources import read


def of_file(path: Path | str, **fields: Any) -> tuple[Any, str]:
    found = read(Value("v", "file", str(path), **fields))
    return found.data, found.reason


def of_command(*command: str, **fields: Any) -> tuple[Any, str]:
    found = read(Value("v", "command", command, **fields))
    return found.data, found.reason


def of_script(script: str, **fields: Any) -> tuple[Any, str]:
    return of_command("/bin/sh", "-c", script, **fields)


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("21437\n")
    assert of_file(tmp_path / "a", scale=0.001, decimals=1) == (21.4, "")


@pytest.mark.parametrize("path", ["/proc/uptime", "/proc/sys/kernel/random/boot_id", "/sys/kernel/uevent_seqnum"])
def test_a_file_of_the_kernel_is_read_whatever_its_size_says(path: str) -> None:
    data, reason = of_file(path, form="text")
    assert data and reason == ""


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "secret").write_text("key")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "pipe_link").symlink_to(tmp_path / "pipe")
    started = time.monotonic()
    assert of_file(tmp_path / "pipe") == (None, f"{tmp_path}/pipe is no regular file")
    assert of_file(tmp_path / "link") == (None, f"{tmp_path}/link is a link")
    assert of_file(tmp_path / "pipe_link") == (None, f"{tmp_path}/pipe_link is a link")
    assert of_file(tmp_path) == (None, f"{tmp_path} is no regular file")
    assert of_file("/dev/zero") == (None, "/dev/zero is no regular file")
    assert of_file(tmp_path / "gone") == (None, f"{tmp_path}/gone cannot be read: No such file or directory")
    assert time.monotonic() - started < 1


def test_a_file_of_a_gigabyte_is_refused_after_64_kb(tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as file:
        file.truncate(1 << 30)
    started = time.monotonic()
    assert of_file(tmp_path / "big") == (None, "more than 64 KB")
    assert time.monotonic() - started < 1


def test_the_age_of_a_file_is_that_of_its_last_change(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    os.utime(tmp_path / "a", (0, time.time() - 100))
    assert of_file(tmp_path / "a", max_age_s=90.0) == (None, "older than 90 s")
    assert of_file(tmp_path / "a", max_age_s=200.0) == (1, "")
    assert of_file(tmp_path / "a") == (1, "")


@pytest.mark.parametrize("script, expected", [
    ("echo 5", (5, "")), ("echo noise >&2; echo 5", (5, "")), ("exit 3", (None, "exit status 3")),
    ("echo 5; echo broken >&2; exit 1", (None, "exit status 1: broken")),
    ("echo 5; exit 1", (None, "exit status 1: 5")),
    ("kill -9 $$", (None, "killed by signal 9")), ("printf '\\377'", (None, "no UTF-8 text")),
    ("head -c 65536 /dev/zero | tr '\\0' x", ("x" * 65536, "")),
    ("head -c 65537 /dev/zero | tr '\\0' x", (None, "more than 64 KB")),
    ("yes | head -c 100000000", (None, "more than 64 KB")), ("echo open; sleep 60 &", ("open", "")),
])
def test_a_command_is_its_output_where_it_ends_well(script: str, expected: tuple[Any, str]) -> None:
    assert of_script(script, timeout_s=20.0) == expected


@pytest.mark.parametrize("script", ["sleep 60", "yes", "sleep 60 & sleep 60 & wait", "trap '' TERM; sleep 60"])
def test_a_command_that_hangs_floods_or_forks_is_over_at_its_time_out(script: str) -> None:
    started = time.monotonic()
    assert of_script(script, timeout_s=0.3) == (None, "did not end within 0.3 s")
    assert time.monotonic() - started < 3


def test_a_command_that_is_not_there_says_so() -> None:
    assert of_command("/nowhere") == (None, "/nowhere cannot be run: No such file or directory")
