"""`iotd status`: what the running daemon is doing, from its status.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from iotd.cli.load import places
from iotd.host.clock import uptime_s
from iotd.host.files import Files
from iotd.vocabulary import Json

EXIT_UNHEALTHY, EXIT_NOT_RUNNING = 1, 3
STALE_S = 60.0


def run(options: Any) -> int:
    """Tell it. Exit status 0 healthy, 1 running but not healthy, 3 not running or stale."""
    path = places().runtime / "status.json"
    status = Files().read_json(path)
    if not isinstance(status, dict):
        why = "cannot be read" if path.exists() else "is not there"
        print(f"iotd is not running: {path} {why}; start it with: systemctl start iotd", file=sys.stderr)
        return EXIT_NOT_RUNNING
    age_s = round(uptime_s() - status.get("written_s", 0.0), 1)
    stale = not 0 <= age_s <= STALE_S or not Path(f"/proc/{status.get('pid')}").exists()
    if options.json:
        print(json.dumps({**status, "age_s": age_s, "stale": stale}, ensure_ascii=False))
    else:
        print("\n".join(_sentences(status, age_s, stale)))
    return EXIT_NOT_RUNNING if stale else 0 if status.get("healthy") else EXIT_UNHEALTHY


def _sentences(status: dict[str, Json], age_s: float, stale: bool) -> list[str]:
    """Return the status for a person, a sentence a line."""
    lines = [f"iotd {status.get('version')} as {status.get('thing')}, process {status.get('pid')}, {age_s:.0f} s ago"]
    if stale:
        lines.append("problem: this is stale, iotd has died or hangs; see: journalctl -u iotd")
    if status.get("connected"):
        lines.append(f"connected to {status.get('host')}:{status.get('port')} for {status.get('for_s')} s")
    lines += [f"problem: {problem}" for problem in status.get("problems", [])]
    return [*lines, *status.get("sentences", [])]
