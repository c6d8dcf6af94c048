"""Where the daemon keeps its files."""

from __future__ import annotations

from pathlib import Path

from iotd.typed import NamedTuple


class Places(NamedTuple):
    """The two directories: `state` is what must outlive a reboot, `runtime` what need not."""

    state: Path
    runtime: Path
