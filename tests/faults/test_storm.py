"""A short storm; `python3 -m tests.faults.storm` runs the long one."""

from __future__ import annotations

import subprocess
import sys

from tests.faults.device import ROOT


def test_nothing_is_lost_in_a_short_storm() -> None:
    storm = subprocess.run([sys.executable, "-m", "tests.faults.storm", "--faults", "30"], cwd=ROOT, text=True,
                           capture_output=True, timeout=240)
    assert storm.returncode == 0, storm.stdout + storm.stderr
