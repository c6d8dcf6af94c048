"""`iotd run`: the daemon, in the foreground."""

from __future__ import annotations

from functools import partial
from typing import Any

from iotd.cli import output
from iotd.cli.load import load_or_last, places
from iotd.daemon.daemon import Daemon
from iotd.daemon.world import real
from iotd.errors import EXIT_FAULT
from iotd.host import lock, log


def run(options: Any) -> int:
    """Run until asked to stop; return the exit status. Raises ConfigError."""
    here = places()
    try:
        lock.take_all(here)
    except lock.Taken as error:
        output.complain(f"iotd: {error}")
        return EXIT_FAULT
    load = partial(load_or_last, options.file, here.state)
    return Daemon(load(), load, real(here, log.is_journal(), options.file)).run()
