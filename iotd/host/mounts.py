"""Whether a reboot forgets what is written to a directory, as far as its mount tells (proc(5) mountinfo)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

IN_MEMORY = ("tmpfs", "ramfs", "rootfs")
IN_MEMORY_DEVICE = re.compile(r"/dev/z?ram\d+")

Mount = tuple[str, str, str]  # type, source, options of the file system


def forgets(directory: Path) -> bool:
    """Tell whether a reboot forgets what is written there; where the mounts cannot be read it does not."""
    try:
        mounts = mounts_of(Path("/proc/self/mountinfo").read_text("utf-8", "replace"))
    except OSError:
        return False
    return is_in_memory(os.path.realpath(directory), mounts)


def mounts_of(mountinfo: str) -> dict[str, Mount]:
    """Return by its mount point what is mounted there, the topmost."""
    found = {}
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        if separator and len(left.split()) > 4 and len(right.split()) > 2:
            kind, source, options = right.split()[:3]
            found[_unescaped(left.split()[4])] = (kind, _unescaped(source), _unescaped(options))
    return found


def is_in_memory(path: str, mounts: Mapping[str, Mount]) -> bool:
    """Tell whether the file system of a path is memory, or an overlay whose upper layer is.

    An upper layer that cannot be seen from here, as an initramfs leaves it, shows as a path of the overlay itself: it
    is taken for memory, since what lasts is mounted where it can be seen.
    """
    point = _mount_point(path, mounts)
    kind, source, options = mounts.get(point, ("", "", ""))
    upper = re.search(r"(?:^|,)upperdir=([^,]*)", options)
    if kind != "overlay" or upper is None:
        return kind in IN_MEMORY or bool(IN_MEMORY_DEVICE.fullmatch(source))
    others = {where: mount for where, mount in mounts.items() if where != point}
    return _mount_point(upper[1], mounts) == point or is_in_memory(upper[1], others)


def _mount_point(path: str, mounts: Mapping[str, Mount]) -> str:
    while path not in mounts and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def _unescaped(text: str) -> str:
    r"""Return a field of mountinfo with its \040 and the like as characters."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
