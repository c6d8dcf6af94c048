"""What each kind of check sees: it looks once at what it watches and says good, bad or unknown."""

from __future__ import annotations

import errno
import math
import os
import re
import select
import socket
import time
from pathlib import Path
from typing import Any

from iotd.host import facts
from iotd.host.command import Ended, last_line, run
from iotd.host.facts import Roots
from iotd.host.identity import user_name
from iotd.host.unit import hidden_among
from iotd.mqtt.addresses import HasFileno, connected, encoded, in_turn
from iotd.shadows.findings import Finding
from iotd.shadows.section import Check

UNIT_STATES = {"active", "reloading", "refreshing", "inactive", "failed", "activating", "deactivating", "maintenance"}
COMM_CHARACTERS = 15  # all that the kernel keeps of a process's name
FIRMWARE_NOW = 0xF  # under-voltage, frequency capped, throttled, soft temperature limit
MAX_POLL_S = 86400.0  # poll(2) takes no more than 24 days
FUTURE_S = 5.0  # a file may be this much newer than a clock that is being set


def unit(check: Check, stop: int | None, roots: Roots) -> Finding:
    """Ask systemd whether a unit is active."""
    return unit_finding(run(("systemctl", "is-active", "--", check.subject), check.timeout_s, stop))


def command(check: Check, stop: int | None, roots: Roots) -> Finding:
    """Run a command, which is good where it exits with 0."""
    return command_finding(run(check.subject, check.timeout_s, stop))


def unit_finding(ended: Ended) -> Finding:
    """Return what `systemctl is-active` amounts to; without a word for the state it could not ask systemd."""
    state = last_line(ended.output)
    if ended.how == "late":
        return "unknown", None, f"systemd {ended.reason}"
    if ended.how != "exited" or state not in UNIT_STATES:
        return "unknown", None, ended.reason or f"systemctl said {state!r}"
    if ended.status == 0:
        return "good", state, ""
    return "bad", state, f"the unit is {state}"


def command_finding(ended: Ended) -> Finding:
    """Return what a command's end amounts to; one that could not even start says nothing about what it checks."""
    if ended.how in ("refused", "stopped"):
        return "unknown", None, ended.reason
    return ("bad" if ended.reason else "good"), ended.status, ended.reason


def process(check: Check, stop: int | None, roots: Roots) -> Finding:
    """Look for a process of this name, as `ps -o comm` shows it; one beyond 15 characters is compared in full."""
    name = check.subject
    for directory in roots.proc.iterdir():
        if directory.name.isdecimal() and _is_process(directory, name):
            return "good", int(directory.name), ""
    if not (roots.proc / "1").exists():
        return "unknown", None, "other users' processes are hidden from iotd; its unit needs ProtectProc=default"
    return "bad", None, f"no process {name} runs"


def _is_process(directory: Path, name: str) -> bool:
    try:
        # "PID (NAME) STATE …", where the name may hold blanks and brackets.
        before, _, after = (directory / "stat").read_text("utf-8", "replace").rpartition(")")
        if before.partition("(")[2] != name[:COMM_CHARACTERS] or after.split()[0] in ("Z", "X"):
            return False
        if len(name) <= COMM_CHARACTERS:
            return True
        arguments = (directory / "cmdline").read_text("utf-8", "replace").split("\0")
        return name in (argument.rpartition("/")[2] for argument in arguments[:2])  # the second: a script's
    except (OSError, IndexError):  # it has just ended
        return False


def port(check: Check, stop: int | None, roots: Roots) -> Finding:
    """Try whether a TCP connection can be made, with any of the addresses."""
    host, number = check.subject
    end = time.monotonic() + check.timeout_s
    try:
        addresses = in_turn(socket.getaddrinfo(encoded(host), number, type=socket.SOCK_STREAM))
    except (socket.gaierror, UnicodeError) as error:
        return "bad", None, f"{host} has no address: {error.strerror if isinstance(error, OSError) else error}"

    def wait(what: HasFileno, events: int, deadline: float) -> bool:
        poll = select.poll()
        poll.register(what, events)
        if stop is not None:
            poll.register(stop, select.POLLIN)
        left_s = min(max(0.0, deadline - time.monotonic()), MAX_POLL_S)
        ready = dict(poll.poll(math.ceil(left_s * 1000)))
        if stop in ready:
            raise InterruptedError("asked to give up")
        return bool(ready)

    try:
        connected(addresses, max(0.0, end - time.monotonic()), wait).close()
    except ConnectionError as error:
        return "bad", None, str(error)
    return "good", None, ""


def connect(family: int, address: tuple[Any, ...], deadline: float) -> int | None:
    """Return the error number of a connection tried, 0 for success, None where nothing came by the deadline."""
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        return None
    with socket.socket(family, socket.SOCK_STREAM) as line:
        line.settimeout(left_s)
        try:
            line.connect(address)
        except TimeoutError as error:
            return error.errno if error.errno else None
        except OSError as error:
            return error.errno
    return 0


def file(check: Check, stop: int | None, roots: Roots) -> Finding:
    """Look whether a file was written no longer ago than the limit, in seconds."""
    path, max_age_s = check.subject, check.limit or 0.0
    try:
        age_s = round(time.time() - os.stat(path).st_mtime, 1)
    except (FileNotFoundError, NotADirectoryError):
        return "bad", None, f"there is no {path}{hidden_among([path])}"
    except PermissionError as error:
        return "unknown", None, f"cannot be checked: {error.strerror}{hidden_among([path])}"
    if age_s < -FUTURE_S:
        return "unknown", age_s, f"{path} is from {-age_s:g} s in the future; is the clock set?"
    if age_s <= max_age_s:
        return "good", age_s, ""
    return "bad", age_s, f"{path} was written {age_s:g} s ago, expected at most {max_age_s:g} s"


def no_disk(path: str) -> str | None:
    """Return why no disk can be looked at there, None where one can."""
    return None if os.path.exists(path) else f"{path} is not there, or may not be seen by user {user_name()}"


def disk(check: Check, stop: int | None, roots: Roots) -> Finding:
    """Look whether the file system that is to hold a path has so many bytes left for those who are not root.

    A mount point of /etc/fstab with nothing mounted on it is bad: what lies below it belongs to another file system.
    """
    path, min_free_bytes = check.subject, check.limit or 0
    try:
        room = os.statvfs(path)  # has an automounter mount it first
        missing = _not_mounted(os.path.realpath(path), roots)
    except PermissionError:
        raise  # that says nothing about the disk
    except OSError as error:
        return "bad", None, f"there is no {path}" if error.errno == errno.ENOENT else f"{path}: {error.strerror}"
    if missing:
        return "bad", None, f"nothing is mounted on {missing}, which /etc/fstab names"
    free = room.f_bavail * room.f_frsize
    if free >= min_free_bytes:
        return "good", free, ""
    return "bad", free, f"{free} bytes are free at {path}, expected at least {min_free_bytes}"


def _not_mounted(path: str, roots: Roots) -> str:
    """Return the mount point of fstab(5) that the path is to lie below and that has nothing mounted, or nothing."""
    try:
        wanted = _columns(roots.etc / "fstab", 1)
        mounted = _columns(roots.proc / "self/mountinfo", 4)  # proc_pid_mountinfo(5)
    except FileNotFoundError:
        return ""
    return max((point for point in wanted - mounted if point.startswith("/")
                and (path == point or path.startswith(point.rstrip("/") + "/"))), key=len, default="")


def _columns(table: Path, number: int) -> set[str]:
    """Return one column of a table of mounts; a blank in a path is written in octal."""
    rows = (line.split() for line in table.read_text("utf-8", "surrogateescape").splitlines())
    return {re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), row[number]).rstrip("/") or "/"
            for row in rows if len(row) > number and not row[0].startswith("#")}


def temperature(check: Check, stop: int | None, roots: Roots) -> Finding:
    """Look whether the processor is no hotter than this."""
    max_celsius = check.subject
    celsius = facts.read(["temperature"], roots)["temperature"]
    if celsius is None:
        return "unknown", None, "this host does not tell its temperature"
    if celsius <= max_celsius:
        return "good", celsius, ""
    return "bad", celsius, f"{celsius} °C, expected at most {max_celsius:g} °C"


def throttled(check: Check, stop: int | None, roots: Roots) -> Finding:
    """Ask the Pi's firmware whether it lacks voltage or holds the processor back."""
    bits = facts.read(["throttled"], roots)["throttled"]
    if bits is None:
        return "unknown", None, "this host has no firmware of a Raspberry Pi's"
    meanings = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
    now = [meaning for number, meaning in enumerate(meanings) if bits & FIRMWARE_NOW & 1 << number]
    if now:
        return "bad", bits, ", ".join(now)
    return "good", bits, ""
