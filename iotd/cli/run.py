"""`iotd run`: the daemon, in the foreground."""

from __future__ import annotations

from functools import partial
from typing import Any

from iotd.cli import output
from iotd.cli.load import load_or_last, places
from iotd.daemon.daemon import Daemon
from iotd.daemon.world import real
from iotd.errors import EXIT_CONFIG, EXIT_FAULT, ConfigError
from iotd.host import lock, log


def run(options: Any) -> int:
    """Run until asked to stop; return the exit status. What keeps it from that is an error in the journal, too."""
    here = places()
    try:
        lock.take_all(here)
    except lock.Taken as error:
        _complain(f"iotd: {error}")
        return EXIT_FAULT
    load = partial(load_or_last, options.file, here.state)
    try:
        checked = load()
    except ConfigError as error:
        _complain(*error.lines())
        return EXIT_CONFIG
    return Daemon(checked, load, real(here, log.is_journal(), options.file)).run()


def _complain(*lines: str) -> None:
    """Print what ends it before there is a log; the journal takes the priority off (sd-daemon(3) SD_ERR)."""
    output.complain("\n".join(f"{'<3>' * log.is_journal()}{line}" for line in lines))
