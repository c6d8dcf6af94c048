"""`iotd check`: the start-up path without running."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import Any

from iotd.cli.load import load
from iotd.cli.user import as_daemon
from iotd.errors import EXIT_CONFIG, ConfigError


def run(options: Any) -> int:
    """Print every problem and warning, as the daemon would meet it. Exit status 0 without a problem, else 78."""
    return int(as_daemon(partial(_check, options.file, os.getcwd())))


def _check(file: str, directory: str) -> int:
    try:
        checked = load(file, False, directory)
    except ConfigError as error:
        print("\n".join(error.lines()), file=sys.stderr)
        return EXIT_CONFIG
    for warning in checked.warnings:
        print(f"{file}: warning: {warning}", file=sys.stderr)
    print(f"{file}: no problem found")
    return 0
