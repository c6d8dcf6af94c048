"""`iotd renew`: have the running daemon get a new certificate for the thing that this device is."""

from __future__ import annotations

from functools import partial
from typing import Any

from iotd.cli.provision import asked_and_awaited
from iotd.cli.socket_line import carried_out


def run(options: Any) -> int:
    """Ask for it and wait; exit status 0 the line is up with the new one, 1 it is not and why, 3 not running."""
    return carried_out(partial(asked_and_awaited, "renew"), for_root=True)
