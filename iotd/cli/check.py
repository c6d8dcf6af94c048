"""`iotd check`: the start-up path without running."""

from __future__ import annotations

import sys
from typing import Any

from iotd.cli.load import load


def run(options: Any) -> int:
    """Print every warning, and that there is no problem. Raises ConfigError with all of them where there are."""
    checked = load(options.file, False)
    for warning in checked.warnings:
        print(warning, file=sys.stderr)
    print(f"{options.file}: no problem found")
    return 0
