"""Reads the reboot budget from its file in the state directory."""

from __future__ import annotations

from pathlib import Path

from iotd.host.files import Files
from iotd.wifi.recovery import Budget


def read(files: Files, path: Path) -> Budget | None:
    """Return the budget in the file, a whole one where there is no file yet, None where it cannot be read.

    None grants no reboot: a file that a power cut has truncated or zeroed may have been a budget used up.
    """
    try:
        return Budget.from_json(files.read_text(path))
    except FileNotFoundError:
        return Budget()
    except (OSError, ValueError):
        return None
