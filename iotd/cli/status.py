"""`iotd status`: what the running daemon is doing, from its status.json."""

from __future__ import annotations

import json
import os
from typing import Any

from iotd.cli import output
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
    if not _is_status(status):
        why = "cannot be read" if os.path.lexists(path) else "is not there"
        output.complain(f"iotd is not running: {path} {why}; start it with: systemctl start iotd")
        return EXIT_NOT_RUNNING
    age_s = round(uptime_s() - status["written_s"], 1)
    stale = not 0 <= age_s <= STALE_S or not _lives(status["pid"])
    if options.json:
        told = output.say_json(json.dumps({**status, "age_s": age_s, "stale": stale}, ensure_ascii=False))
    else:
        told = output.say("\n".join(_sentences(status, age_s, stale)))
    return EXIT_NOT_RUNNING if stale else 0 if status.get("healthy") and told else EXIT_UNHEALTHY


def _is_status(status: Json) -> bool:
    return (isinstance(status, dict) and isinstance(status.get("written_s"), (int, float))
            and isinstance(status.get("pid"), int) and status["pid"] > 0)


def _lives(pid: int) -> bool:
    """Tell whether the process lives, though /proc may hide it (hidepid, proc(5))."""
    try:
        os.kill(pid, 0)
    except PermissionError:  # another user's
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _sentences(status: dict[str, Json], age_s: float, stale: bool) -> list[str]:
    """Return the status for a person, a sentence a line."""
    lines = [f"iotd {status.get('version')} as {status.get('thing')}, process {status.get('pid')}, {age_s:.0f} s ago"]
    if stale:
        lines.append("problem: this is stale, iotd has died or hangs; see: journalctl -u iotd")
    if status.get("connected"):
        lines.append(f"connected to {status.get('host')}:{status.get('port')} for {status.get('for_s')} s")
    lines += [f"problem: {problem}" for problem in status.get("problems", [])]
    return [*lines, *status.get("sentences", [])]
