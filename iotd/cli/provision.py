"""`iotd provision`: have the device get an identity by its claim, by the daemon where it runs, else without it."""

from __future__ import annotations

import os
import pwd
import sys
import time
from functools import partial
from typing import Any

from iotd.cli import output
from iotd.cli.load import load, places
from iotd.cli.socket_line import EXIT_REFUSED, Line, NoLine, carried_out, told
from iotd.cli.told import object_of, printable
from iotd.cli.user import as_daemon
from iotd.daemon.daemon import Daemon
from iotd.daemon.world import real
from iotd.errors import EXIT_FAULT
from iotd.host import lock
from iotd.mqtt.credentials import DAEMON_USER
from iotd.vocabulary import Json

LOOK_S = 0.3
CONNECT_S = 60.0  # for the line of the new identity

_NONE = "the configuration has no provision; see iotd.yaml(5)"


def run(options: Any) -> int:
    """Ask for it and wait; exit status 0 there is an identity, 1 there is none and why."""
    word = "provision again" if options.again else "provision"
    try:
        Line(wait_s=0.5).close()
    except NoLine as error:
        if error.exit_status == EXIT_REFUSED:
            output.complain(str(error))
            return EXIT_REFUSED
        return _without_daemon(options.file, word)
    return carried_out(partial(asked_and_awaited, word), for_root=True)


def asked_and_awaited(word: str, line: Line) -> int:
    """Ask the daemon for what the word says, and wait for what comes of it."""
    before = _standing(line)
    if before is None:
        return _said(_NONE)
    if word == "provision" and before.get("thing") and not before.get("step"):
        return _is(before)
    why = told(line.ask(b'{"ask": "%s"}\n' % word.encode()))
    if why:
        return _said(why.removeprefix("refused: "))
    ended, deadline = before.get("ended"), 0.0
    while True:
        time.sleep(LOOK_S)
        now = _standing(line) or {}
        if now.get("ended") == ended:
            continue
        if now.get("reason"):
            return _said(str(now["reason"]))
        deadline = deadline or time.monotonic() + CONNECT_S
        if not now.get("step") or time.monotonic() > deadline:
            return _is(now)


def _standing(line: Line) -> dict[str, Json] | None:
    status = line.ask(b'{"status": true}\n')
    return object_of(status["provision"]) if "provision" in status else None


def _without_daemon(file: str, word: str) -> int:
    here = places()
    if os.geteuid() == 0 and not here.runtime.exists():
        here.runtime.mkdir(mode=0o755)
        try:
            user = pwd.getpwnam(DAEMON_USER)
            os.chown(here.runtime, user.pw_uid, user.pw_gid)
        except KeyError:  # no package, no such user: whoever asks is the daemon's
            pass
    return int(as_daemon(partial(_by_itself, os.path.abspath(file), word)))


def _by_itself(file: str, word: str) -> int:
    """Be the daemon until there is an identity, or it is known why there is none. Raises ConfigError."""
    here = places()
    try:
        lock.take_all(here)
    except lock.Taken as error:
        output.complain(f"iotd: {error}")
        return EXIT_FAULT
    daemon = Daemon(load(file, True), partial(load, file, True), real(here, False, file)._replace(
        log_to=sys.stderr, on_terminal=True))
    daemon.start()
    status = object_of(daemon.status().get("provision"))
    if word == "provision" and status.get("thing") and not status.get("step"):
        why = ""
    elif why := daemon.ask(word, daemon.world.monotonic()):
        why = _NONE if "provision" not in daemon.status() else why
    else:
        ended = status.get("ended")
        while status.get("ended") == ended and daemon.exit_status is None:
            daemon.turn()
            status = object_of(daemon.status().get("provision"))
        why = str(status.get("reason") or "")
    daemon.close(0)
    return _said(why) if why else _is(status)


def _is(status: dict[str, Json]) -> int:
    return 0 if output.say(printable(f"provisioned as {status.get('thing')}")) else EXIT_FAULT


def _said(why: str) -> int:
    output.complain(printable(why))
    return EXIT_FAULT
