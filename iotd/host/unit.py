"""What iotd's unit (systemd/iotd.service) hides from the daemon, which whoever asks beside it sees."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

HOMES = ("/home", "/root", "/run/user")
TEMPORARY = ("/tmp", "/var/tmp")


def hides(path: str) -> str:
    """Return how a path is hidden and what shows it, nothing for one that is not; see systemd.exec(5)."""
    if f"{path}/".startswith(tuple(f"{place}/" for place in HOMES)):
        return "the unit hides home directories (ProtectHome=yes); put it elsewhere, as into /usr/local, or write " \
               "ProtectHome=read-only under [Service] in systemctl edit iotd"
    if f"{path}/".startswith(tuple(f"{place}/" for place in TEMPORARY)):
        return "the unit has a /tmp of its own (PrivateTmp=yes); put it elsewhere, as into /run or /usr/local, or " \
               "write PrivateTmp=no under [Service] in systemctl edit iotd"
    return ""


def hidden_among(words: Iterable[str], mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Return what to add to an error over a path, or a command and its arguments: which of them this process does not
    see since its unit hides it, and what shows it; nothing where that is not why.
    """
    return next((f"; {word} is not there for the daemon: {why}" for word in words
                 if (why := hides(word)) and not os.path.exists(word) and _is_covered(word, mounts)), "")


def _is_covered(path: str, mounts: Path) -> bool:
    """Tell whether systemd has laid nothing, or a folder of its own, over what leads to a path (proc_pid_mountinfo(5)).
    """
    try:
        rows = [line.split() for line in mounts.read_text("utf-8", "surrogateescape").splitlines()]
    except OSError:
        return False
    return any(f"{path}/".startswith(f"{row[4]}/") and re.search("/inaccessible/|/systemd-private-", row[3])
               for row in rows if len(row) > 4 and row[4] in (*HOMES, *TEMPORARY))
