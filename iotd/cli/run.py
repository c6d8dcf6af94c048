"""`iotd run`: the daemon, in the foreground."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from iotd.cli.load import load, load_or_last, places
from iotd.daemon.daemon import Daemon
from iotd.daemon.world import real


def run(options: Any) -> int:
    """Run until asked to stop; return the exit status. Raises ConfigError."""
    again = partial(load, options.file, True)
    checked = load_or_last(options.file, places().state)
    return Daemon(checked, again, real(places(), "JOURNAL_STREAM" in os.environ)).run()
