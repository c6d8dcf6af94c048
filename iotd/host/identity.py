"""Who this host is: its name and its machine-id."""

import socket
from pathlib import Path
from typing import NamedTuple

from iotd.host.files import read_line


class Identity(NamedTuple):
    """Who this host is: `hostname` up to its first dot, `machine_id` as in /etc/machine-id."""

    hostname: str
    machine_id: str


def identity() -> Identity:
    """Return what this host is called and the id it was given at its installation (machine-id(5))."""
    return Identity(socket.gethostname().split(".")[0], read_line(Path("/etc/machine-id")))
