"""`iotd status`: what the running daemon is doing, from its status.json."""

from __future__ import annotations

import json
import os
from datetime import datetime
from typing import Any

from iotd.cli import output, told
from iotd.cli.load import places
from iotd.cli.told import Told, lasting, object_of, printable

EXIT_UNHEALTHY, EXIT_NOT_RUNNING = 1, 3


def run(options: Any) -> int:
    """Tell it. Exit status 0 healthy, 1 running but not healthy, 3 not running or stale."""
    runtime = places().runtime
    found = told.read(runtime)
    if found is None:
        path = runtime / "status.json"
        why = "cannot be read" if os.path.lexists(path) else "is not there"
        output.complain(f"iotd is not running: {path} {why}; start it with: systemctl start iotd")
        return EXIT_NOT_RUNNING
    if options.json:
        body = {**found.status, "age_s": found.age_s, "stale": found.stale}
        printed = output.say_json(json.dumps(body, ensure_ascii=False))
    else:
        printed = output.say("\n".join(_sentences(found)))
    return EXIT_NOT_RUNNING if found.stale else 0 if found.status.get("healthy") is True and printed else EXIT_UNHEALTHY


def _sentences(found: Told) -> list[str]:
    """Return the status for a person, a sentence a line."""
    status = found.status
    lines = [printable(f"iotd {status.get('version')} as {status.get('thing')}, process {status.get('pid')}, "
                       f"{found.age_s:.0f} s ago")]
    if found.stale:
        lines.append("problem: this is stale, iotd has died or hangs; see: journalctl -u iotd")
    place = f"{status.get('host')}:{status.get('port')}"
    if status.get("connected"):
        lines.append(printable(f"connected to {place} for {lasting(status.get('for_s'))}"))
    elif down := object_of(status.get("down")):
        lines.append(printable(f"not connected to {place} {_since(down)}{_next_try(down, found.age_s)}"))
    lines += [f"problem: {problem}" for problem in told.sentences(status.get("problems"))]
    if verdict := object_of(status.get("verdict")):
        lines.append(printable(f"verdict: {verdict.get('layer')}: {verdict.get('finding')}"))
        lines.append(printable(f"what to do: {verdict.get('fix')}"))
    elif not status.get("connected"):
        lines.append("why: iotd doctor looks at every layer")
    return [*lines, *told.sentences(status.get("sentences"))]


def _since(down: dict[str, Any]) -> str:
    since = down.get("since")
    try:
        at = f", since {datetime.fromtimestamp(since):%Y-%m-%d %H:%M:%S}" if isinstance(since, (int, float)) else ""
    except (OverflowError, ValueError, OSError):
        at = ""
    return f"for {lasting(down.get('for_s'))}{at}"


def _next_try(down: dict[str, Any], age_s: float) -> str:
    left_s = down.get("retry_in_s")
    if not isinstance(left_s, (int, float)):
        return ", dialling"
    return f", next try in {lasting(max(0.0, left_s - age_s))}"
