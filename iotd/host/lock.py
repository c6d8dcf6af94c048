"""One daemon a directory: a lock that is held until its process ends, however it ends, and names who holds it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

NAME = "lock"
SHOWN_CHARACTERS = 80  # of the holder's command


class Taken(Exception):
    """The directory is another's; the text says whose, and what to do."""


def take_all(directories: Iterable[Path]) -> None:
    """Hold each of the directories, once where two of the paths lead to the same. Raises Taken."""
    for directory in dict.fromkeys(os.path.realpath(path) for path in directories):
        take(Path(directory))


def take(directory: Path) -> int | None:
    """Hold the directory with flock(2) until this process ends; return the descriptor that does it.

    None where no file can be made or locked there: what cannot be written is not shared. Raises Taken where another
    process holds it, or where root would leave files in another user's directory that this user could never open.
    """
    with suppress(OSError):
        owner = directory.stat().st_uid
        if os.geteuid() == 0 and owner != 0:
            name = _user(owner)
            raise Taken(f"{directory} belongs to {name}, who could never open the files that root leaves there; run: "
                        f"systemctl start iotd, or by hand: sudo -u {name} iotd run")
    path = directory / NAME
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except PermissionError:
        if os.path.lexists(path):
            raise Taken(f"{directory} is used by {_user(path.lstat().st_uid)}; run iotd as this user, or set "
                        "STATE_DIRECTORY and RUNTIME_DIRECTORY to directories of its own") from None
        return None
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(file, 20, 0)
        os.close(file)
        raise Taken(f"{directory} is held by {_process(holder)}; two daemons never share directories: stop that one, "
                    "or set STATE_DIRECTORY and RUNTIME_DIRECTORY to directories of its own") from None
    except OSError:  # a file system without locks
        os.close(file)
        return None
    with suppress(OSError):  # on a full disk it is held all the same, without a name
        os.ftruncate(file, 0)
        os.pwrite(file, b"%d\n" % os.getpid(), 0)
    return file


def _user(number: int) -> str:
    import pwd  # only a refusal needs it

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _process(holder: bytes) -> str:
    """Return the process that has written its number, and its command where that is not hidden from us."""
    number = holder.strip().decode("ascii", "replace")
    if not number.isdecimal():
        return "another process"
    try:
        words = Path(f"/proc/{number}/cmdline").read_bytes().decode("utf-8", "replace").strip("\0").split("\0")
    except OSError:
        return f"process {number}"
    command = "".join(character if character.isprintable() else "?" for character in " ".join(words))
    return f"process {number} ({command[:SHOWN_CHARACTERS]})" if command else f"process {number}"
