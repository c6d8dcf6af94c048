"""What root's own configuration allows, and root's own count of reboots: nothing of it is the daemon's to say."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from pwd import struct_passwd

from iotd.config import layers
from iotd.config.document import MAX_BYTES, Cursor, Document, Reader, T, Unreadable, Wrong
from iotd.host import clock
from iotd.host.files import Files
from iotd.wifi import budget
from iotd.wifi.recovery import Budget, Reboot
from iotd.wifi.section import SECTIONS, Wifi

KEY = "wifi"
COUNT = "reboots.json"


class Refused(Exception):
    """What is asked for is not done; the text says why."""


def interface_for(verb: str, file: Path, state: Path, daemon: struct_passwd) -> str:
    """Return the interface that the configuration lets this verb be done to; a reboot is counted.

    Raises Refused where the file cannot be used, where it does not allow the verb, or no reboot any more.
    """
    wifi: Wifi = section(read(file, daemon), file, KEY, SECTIONS[KEY].read, read_above(file, daemon))
    if verb not in wifi.recover:
        raise Refused(f"{verb} is not in wifi.recover of {file}")
    if verb == "reboot":
        wall = time.time() if clock.clock_is_set() else None
        count_reboot(wifi, state, Reboot(clock.boot_id(), clock.uptime_s(), wall))
    return wifi.interface


def read(file: Path, daemon: struct_passwd) -> str:
    """Return the text of the configuration; raises Refused for one that the daemon could have written."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Refused(f"{file} cannot be read: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Refused(f"{file} is not a regular file")
        _refuse_the_daemons(status, file, daemon)
        return os.read(descriptor, MAX_BYTES + 1).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(f"{file} is no UTF-8: {error}") from error
    finally:
        os.close(descriptor)


def read_above(file: Path, daemon: struct_passwd) -> list[tuple[str, str]]:
    """Return the path and text of each file that lies on top of the configuration; raises Refused as `read` does, also
    where the daemon could have put one there.
    """
    folder = Path(layers.folder_of(str(file)))
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise Refused(f"{folder} cannot be read: {error.strerror}") from error
    try:
        _refuse_the_daemons(os.fstat(descriptor), folder, daemon)
        names = layers.chosen(os.listdir(descriptor))
    finally:
        os.close(descriptor)
    if len(names) > layers.MAX_FILES:
        raise Refused(f"{folder} has {len(names)} files; {layers.MAX_FILES} are read at most")
    return [(str(folder / name), read(folder / name, daemon)) for name in names]


def _refuse_the_daemons(status: os.stat_result, path: Path, daemon: struct_passwd) -> None:
    """Raise Refused for what the daemon could have written."""
    by_group = status.st_mode & stat.S_IWGRP and status.st_gid == daemon.pw_gid
    if status.st_uid == daemon.pw_uid or by_group or status.st_mode & stat.S_IWOTH:
        raise Refused(f"{path} can be written by {daemon.pw_name}; run: chown root {path}; chmod go-w {path}")


def section(text: str, file: Path, key: str, reader: Reader[T], above: Sequence[tuple[str, str]] = ()) -> T:
    """Return a section of the configuration; raises Refused where there is none, or anything is wrong in it.

    `above` are the files that lie on top of it, each with its text. What else stands in them is not judged: a mistake
    there must not cost the device its recovery.
    """
    document = Document()
    try:
        root = layers.merged(text, above)
        entries = {} if root is None else dict(Cursor(root, "", document).entries())
        found = entries[key].read(reader) if key in entries else []
    except Unreadable as error:
        raise Refused(f"{error.file or file}: {error}") from error
    except Wrong as error:
        raise Refused(f"{file}: {error}") from error
    wrong = [problem for problem in document.problems if re.split(r"[.\[]", problem.key)[0] == key]
    if wrong:
        raise Refused(wrong[0].render(str(file)))
    if not found:
        raise Refused(f"{file} has no section {key}")
    return found[0]


def count_reboot(wifi: Wifi, state: Path, moment: Reboot) -> None:
    """Add a reboot at this moment to the count in the directory `state`; raises Refused where it is one too many.

    A count that cannot be read, as a power cut leaves it, is replaced by one that is used up.
    """
    limit = wifi.reboot
    if moment.uptime_s < limit.min_uptime_s:
        raise Refused(f"the host has been up for less than {limit.min_uptime_s:.0f} s (wifi.reboot.min_uptime)")
    files, path = Files(), state / COUNT
    found = budget.read(files, path)
    count = (Budget((moment,) * limit.max_per_day) if found is None else found).settled(moment)
    left = limit.max_per_day - len(count.recent(moment))
    try:
        files.write_text(path, (count.spent(moment) if left > 0 else count).to_json(), durable=True)
    except OSError as error:
        raise Refused(f"the reboot cannot be counted in {path}: {error.strerror}") from error
    if left <= 0:
        raise Refused(f"the {limit.max_per_day} reboots a day of wifi.reboot.max_per_day are used up")
