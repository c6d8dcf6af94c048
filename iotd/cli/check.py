"""`iotd check`: the start-up path without running."""

from __future__ import annotations

from typing import Any

from iotd.cli import output
from iotd.cli.load import load
from iotd.errors import EXIT_FAULT


def run(options: Any) -> int:
    """Print every warning, and that there is no problem. Raises ConfigError with all of them where there are."""
    checked = load(options.file, False)
    for warning in checked.warnings:
        output.complain(f"{options.file}: warning: {warning}")
    return 0 if output.say(f"{options.file}: no problem found") else EXIT_FAULT
