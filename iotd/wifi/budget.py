"""Reads the reboot budget from its file in the state directory."""

from __future__ import annotations

from pathlib import Path

from iotd.host.files import Files
from iotd.wifi.recovery import Budget


def read(files: Files, path: Path, forgets: bool = False) -> Budget | None:
    """Return the budget in the file, a whole one where there is no file yet, None where it cannot be read.

    None grants no reboot: a file that a power cut has truncated or zeroed may have been a budget used up, and so may
    one that is not there where a reboot `forgets` it.
    """
    try:
        return Budget.from_json(files.read_text(path))
    except FileNotFoundError:
        return None if forgets else Budget()
    except (OSError, ValueError):
        return None
