"""`iotd check`: the start-up path without running."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from iotd.cli import output
from iotd.cli.load import load
from iotd.cli.user import as_daemon
from iotd.errors import EXIT_CONFIG, EXIT_FAULT, ConfigError


def run(options: Any) -> int:
    """Print every problem and warning, as the daemon would meet it. Exit status 0 without a problem, else 78."""
    return int(as_daemon(partial(_check, options.file, os.getcwd())))


def _check(file: str, directory: str) -> int:
    try:
        checked = load(file, False, directory)
    except ConfigError as error:
        output.complain("\n".join(error.lines()))
        return EXIT_CONFIG
    for warning in checked.warnings:
        output.complain(warning)
    return 0 if output.say(f"{file}: no problem found") else EXIT_FAULT
