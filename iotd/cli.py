"""The command `iotd`: run, check, status. Exit status 0, 1 fault or not healthy, 2 usage, 3 not running, 78 config."""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from iotd import __version__, config, credentials, host
from iotd.errors import EXIT_CONFIG, ConfigError, Problem
from iotd.places import Places
from iotd.settings import Checked

DEFAULT_FILE = "/etc/iotd.yaml"
EXIT_UNHEALTHY, EXIT_NOT_RUNNING = 1, 3
STALE_S = 60.0


class _Parser(argparse.ArgumentParser):
    """A parser that does not ask how wide the terminal is, since to find it out loads shutil in every command."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**named, formatter_class=partial(argparse.HelpFormatter, width=78))


def main(arguments: list[str] | None = None) -> int:
    """Run the command with these arguments (those of the process) and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.do(options))
    except ConfigError as error:
        print("\n".join(error.lines()), file=sys.stderr)
        return EXIT_CONFIG
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="iotd", description="Keeps this device on AWS IoT Core, or any MQTT broker.",
        epilog="See iotd(8) and iotd.yaml(5).")
    parser.add_argument("--version", action="version", version=f"iotd {__version__}")
    commands = parser.add_subparsers(parser_class=_Parser, prog="iotd", required=True, metavar="COMMAND")
    for name, do, summary in (("run", _run, "run the daemon in the foreground"),
                              ("check", _check, "read and validate the configuration, print every problem")):
        command = commands.add_parser(name, help=summary, description=summary)
        command.add_argument("-c", dest="file", default=DEFAULT_FILE, metavar="FILE", help="default: %(default)s")
        command.set_defaults(do=do)
    status = commands.add_parser("status", help="what the running daemon is doing", description=_status.__doc__)
    status.add_argument("--json", action="store_true", help="print status.json as it is, with its age")
    status.set_defaults(do=_status)
    return parser


def _run(options: argparse.Namespace) -> int:
    gc.disable()  # it would look through every module that comes in, though none of them ever goes
    from iotd.daemon import Daemon  # which nobody else needs: to check and to ask for the status is quick without it

    gc.freeze()
    gc.enable()
    load = partial(_load, options.file, True)
    return Daemon(load(), load, _places(), host.identity()).run()


def _check(options: argparse.Namespace) -> int:
    checked = _load(options.file, False)
    for warning in checked.warnings:
        print(f"{options.file}: warning: {warning}", file=sys.stderr)
    print(f"{options.file}: no problem found")
    return 0


def _load(file: str, running: bool) -> Checked:
    """Return what the file says; raise ConfigError with every problem of it and of the certificates.

    An expired certificate keeps nobody from `running`: it is the broker's to refuse, and the clock may be wrong.
    """
    try:
        text = Path(file).read_text("utf-8")
    except OSError as error:
        raise ConfigError(file, [Problem(0, "", f"{error.strerror}; write it as iotd.yaml(5) says")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(file, [Problem(0, "", f"not UTF-8: {error}; save it as UTF-8")]) from error
    parsed = config.parse(text, file, host.identity())
    tls = parsed.settings.mqtt.tls
    if tls is None:
        return Checked(parsed.settings, ())
    problems = credentials.unusable(tls, parsed)
    expired = credentials.expired(tls, parsed, time.time())
    if problems or (expired and not running):
        raise ConfigError(file, problems + expired)
    return Checked(parsed.settings, (*credentials.warnings(tls), *(problem.text for problem in expired)))


def _places() -> Places:
    state = os.environ.get("STATE_DIRECTORY", "/var/lib/iotd").split(":")[0]
    runtime = os.environ.get("RUNTIME_DIRECTORY", "/run/iotd").split(":")[0]
    return Places(Path(state), Path(runtime))


def _status(options: argparse.Namespace) -> int:
    """What the running daemon is doing. Exit status 0 healthy, 1 running but not healthy, 3 not running or stale."""
    path = _places().runtime / "status.json"
    status = host.read_json(path)
    if not isinstance(status, dict):
        why = "cannot be read" if path.exists() else "is not there"
        print(f"iotd is not running: {path} {why}; start it with: systemctl start iotd", file=sys.stderr)
        return EXIT_NOT_RUNNING
    age_s = round(host.uptime_s() - status.get("written_s", 0.0), 1)
    stale = not 0 <= age_s <= STALE_S or not Path(f"/proc/{status.get('pid')}").exists()
    if options.json:
        print(json.dumps({**status, "age_s": age_s, "stale": stale}, ensure_ascii=False))
    else:
        print("\n".join(_sentences(status, age_s, stale)))
    return EXIT_NOT_RUNNING if stale else 0 if status.get("healthy") else EXIT_UNHEALTHY


def _sentences(status: dict[str, Any], age_s: float, stale: bool) -> list[str]:
    """Return the status for a person, a sentence a line."""
    broker = f"{status.get('host')}:{status.get('port')}"
    lines = [f"iotd {status.get('version')} as {status.get('thing')}, process {status.get('pid')}, {age_s:.0f} s ago"]
    if stale:
        lines.append("problem: this is stale, iotd has died or hangs; see: journalctl -u iotd")
    if status.get("connected"):
        lines.append(f"connected to {broker} for {status.get('for_s')} s")
    lines += [f"problem: {problem}" for problem in status.get("problems", [])]
    lines.append(f"waiting for the broker: {status.get('waiting')} messages, {status.get('waiting_bytes')} bytes")
    lines += [f"dropped: {count} messages of {topic}" for topic, count in status.get("dropped", {}).items()]
    wifi = status.get("wifi")
    if wifi:
        lines.append(f"{wifi['interface']}: {wifi['outcome']}, ESSID {wifi['essid']}, {wifi['rssi_dbm']} dBm")
    lines += [f"check {doubt['check']} says nothing: {doubt['reason']}"
              for checks in status.get("checks", []) for doubt in checks["unknown"]]
    lines += [f"{name} is {found['value']}, from the {found['from']}"
              for name, found in status.get("settings", {}).items()]
    return lines
