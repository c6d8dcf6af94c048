"""Where the daemon keeps its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Places:
    """The two directories: `state` is what must outlive a reboot, `runtime` what need not."""

    state: Path
    runtime: Path
