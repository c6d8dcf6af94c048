"""The command `iotd`: run, check, status. Exit status 0, 1 fault or not healthy, 2 usage, 3 not running, 78 config."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from functools import partial
from pathlib import Path

from iotd import __version__, host
from iotd.deferred import deferred_patterns
from iotd.errors import EXIT_CONFIG, ConfigError, Problem
from iotd.places import Places
from iotd.settings import Checked
from iotd.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import Namespace

DEFAULT_FILE = "/etc/iotd.yaml"
EXIT_UNHEALTHY, EXIT_NOT_RUNNING = 1, 3
STALE_S = 60.0


def main(arguments: list[str] | None = None) -> int:
    """Run the command with these arguments (those of the process) and return its exit status."""
    try:
        match sys.argv[1:] if arguments is None else arguments:
            case ["run"]:  # as the unit says: to make a parser for that would be a tenth of the start
                return _run(DEFAULT_FILE)
            case ["run", "-c", file]:
                return _run(file)
            case others:
                options = _options(others)
                return int(options.do(options))
    except ConfigError as error:
        print("\n".join(error.lines()), file=sys.stderr)
        return EXIT_CONFIG
    except KeyboardInterrupt:
        return 130


def _options(arguments: list[str]) -> Namespace:
    from argparse import ArgumentParser

    parser = ArgumentParser(
        prog="iotd", description="Keeps this device on AWS IoT Core, or any MQTT broker.",
        epilog="See iotd(8) and iotd.yaml(5).")
    parser.add_argument("--version", action="version", version=f"iotd {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, do, summary in (("run", _run, "run the daemon in the foreground"),
                              ("check", _check, "read and validate the configuration, print every problem")):
        command = commands.add_parser(name, help=summary, description=summary)
        command.add_argument("-c", dest="file", default=DEFAULT_FILE, metavar="FILE", help="default: %(default)s")
        command.set_defaults(do=lambda options, do=do: do(options.file))
    status = commands.add_parser("status", help="what the running daemon is doing", description=_status.__doc__)
    status.add_argument("--json", action="store_true", help="print status.json as it is, with its age")
    status.set_defaults(do=lambda options: _status(options.json))
    return parser.parse_args(arguments)


def _run(file: str) -> int:
    gc.disable()  # it would look through every module that comes in, though none of them ever goes
    with deferred_patterns():  # of logging, platform, yaml and ourselves: a tenth of our start, and hardly one is used
        from iotd.daemon import Daemon  # nobody else needs it: to check and to ask for the status is quick without it

    gc.freeze()
    gc.enable()
    load = partial(_load, file, True)
    return Daemon(load(), load, _places(), host.identity()).run()


def _check(file: str) -> int:
    checked = _load(file, False)
    for warning in checked.warnings:
        print(f"{file}: warning: {warning}", file=sys.stderr)
    print(f"{file}: no problem found")
    return 0


def _load(file: str, running: bool) -> Checked:
    """Return what the file says; raise ConfigError with every problem of it and of the certificates.

    An expired certificate keeps nobody from `running`: it is the broker's to refuse, and the clock may be wrong.
    """
    from iotd import config, credentials

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


def _status(as_json: bool) -> int:
    """What the running daemon is doing. Exit status 0 healthy, 1 running but not healthy, 3 not running or stale."""
    path = _places().runtime / "status.json"
    status = host.read_json(path)
    if not isinstance(status, dict):
        why = "cannot be read" if path.exists() else "is not there"
        print(f"iotd is not running: {path} {why}; start it with: systemctl start iotd", file=sys.stderr)
        return EXIT_NOT_RUNNING
    age_s = round(host.uptime_s() - status.get("written_s", 0.0), 1)
    stale = not 0 <= age_s <= STALE_S or not Path(f"/proc/{status.get('pid')}").exists()
    if as_json:
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
