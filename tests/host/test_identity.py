"""Who this host is, and its clocks."""

from __future__ import annotations

import socket
import time

from iotd.host.clock import boot_id, uptime_s
from iotd.host.identity import identity


def test_who_this_host_is() -> None:
    here = identity()
    assert here.hostname == socket.gethostname().split(".")[0] and "." not in here.hostname
    assert len(boot_id()) == 36
    assert uptime_s() >= time.monotonic() - 1.0
