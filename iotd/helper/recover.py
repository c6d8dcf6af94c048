"""The root side of recovery: takes one request that the daemon left in /run/iotd/recover and carries it out.

`iotd-recover@VERB.service` runs it when a file named VERB appears there. It trusts nothing in that directory: the
daemon, should it ever be taken over, gains what `allowed` finds in /etc/iotd.yaml and no more: these four verbs, on the
one interface, so many reboots a day.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import shutil
import stat
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from iotd.helper.allowed import Refused, interface_for
from iotd.host import log

DIRECTORY = "/run/iotd/recover"
CONFIGURATION = Path("/etc/iotd.yaml")
STATE = Path("/var/lib/iotd-recover")
USER = "iotd"
VERBS = ("reconnect", "radio-cycle", "restart-network", "reboot")
MAX_REQUEST_BYTES = 65536  # the reason names what was expected, and that list has no end
MAX_OUTPUT_BYTES, MAX_LOGGED = 65536, 2000
COMMAND_LIMIT_S = 50.0  # five of them fit into the unit's TimeoutStartSec
# In order, each where the host is still there two minutes after the one before it: with the units stopped; without,
# by systemd; without that too (systemctl(1), --force).
REBOOT = (("systemctl", "reboot"), ("systemctl", "reboot", "--force"), ("systemctl", "reboot", "--force", "--force"))
ESCALATE_S = 120.0

_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}

Command = tuple[str, ...]
Run = Callable[[Command], "Outcome"]
Allow = Callable[[str], str]  # returns the interface that a verb may be done to, or raises Refused


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: `failure` is None, or says what went wrong; `output` is the end of what it printed."""

    failure: str | None
    output: str


def network_services(interface: str) -> tuple[str, ...]:
    """Return the units that may be in charge of a Wi-Fi interface on Debian and Raspberry Pi OS."""
    return (
        "NetworkManager.service",
        "wpa_supplicant.service",
        f"wpa_supplicant@{interface}.service",
        "iwd.service",
        "dhcpcd.service",
        "systemd-networkd.service",
        "networking.service",
    )


def plan(verb: str, interface: str, in_use: frozenset[str], connected: bool) -> tuple[Command, ...]:
    """Return the commands that carry out `verb`, in order; each runs whatever became of the one before.

    `in_use` holds those of `network_services` that are. `connected` says that NetworkManager has the interface
    connected, to a wrong network if it is asked to reconnect. Empty where there is nothing to restart.
    """
    if verb == "reboot":
        return REBOOT
    if verb == "restart-network":
        services = tuple(name for name in network_services(interface) if name in in_use)
        return (("systemctl", "restart", *services),) if services else ()
    down_and_up: tuple[Command, ...] = (
        ("ip", "link", "set", "dev", interface, "down"),
        ("ip", "link", "set", "dev", interface, "up"),
    )
    if "NetworkManager.service" in in_use:
        # NetworkManager chooses by the priority of its profiles, even after somebody has disconnected the interface.
        choose = ("nmcli", "device", "set", interface, "autoconnect", "yes")
        if verb == "reconnect" and connected:
            # `device connect` would take the network used last, which is the wrong one.
            return (("nmcli", "--wait", "45", "device", "disconnect", interface), choose)
        if verb == "reconnect":
            return (("nmcli", "--wait", "45", "device", "connect", interface),)
        # Not `nmcli radio wifi off`: NetworkManager keeps that over a reboot, and a power cut before `on` would
        # leave the device without Wi-Fi for good. `managed` is forgotten at the next boot.
        let_go = ("nmcli", "device", "set", interface, "managed", "no")
        take_back = ("nmcli", "device", "set", interface, "managed", "yes")
        # Nor `device connect` at the end: it fails as long as no scan has found a network.
        return (let_go, *down_and_up, take_back, choose)
    # -s: wpa_supplicant answers to a socket of wpa_cli's, and cannot see this unit's private /tmp.
    reassociate = ("wpa_cli", "-s", "/run/wpa_supplicant", "-i", interface, "reassociate")
    return (reassociate,) if verb == "reconnect" else (*down_and_up, reassociate)


def reason_of(body: bytes) -> str:
    """Return why the daemon asks, of its JSON object `{"reason": TEXT}`; raises Refused."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(f"its content is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise Refused("its content is not a JSON object")
    reason = fields.get("reason")
    if not isinstance(reason, str):
        raise Refused(f"its reason is not a text: {reason!a}")
    return reason


def open_directory(path: str, owner: int) -> int:
    """Return a descriptor of the request directory, so that nothing done through it can be led elsewhere.

    Raises Refused for a link or a directory that is not `owner`'s, FileNotFoundError where there is none.
    """
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError as error:
        raise Refused("the request directory is a link or a file") from error
    if os.fstat(directory).st_uid != owner:
        os.close(directory)
        raise Refused(f"the request directory does not belong to {USER}")
    return directory


def take(directory: int, name: str, owner: int) -> bytes:
    """Remove the request and return its content; raises Refused, the request being removed all the same.

    It goes before anything is done. Were it removed last, a helper that dies would be started on it again and
    again, and a request that came meanwhile would be removed unread. A request lost here is asked for again.
    """
    try:
        return read(directory, name, owner)
    finally:
        remove(directory, name)


def sweep(directory: int) -> list[str]:
    """Remove whatever has the name of no verb, and return the names.

    A leading dot is a request that is just being written; it becomes one by its renaming, or stays without effect.
    """
    strays = sorted(name for name in os.listdir(directory) if name not in VERBS and not name.startswith("."))
    for name in strays:
        remove(directory, name)
    return strays


def serve(
    verb: str, path: str, owner: int, allow: Allow, run: Run, wait: Callable[[float], None] = time.sleep
) -> bool:
    """Carry out the request `verb` that lies in the directory `path`, if it is allowed; return whether all went well.

    Nothing asked for is well. What is refused is removed and logged. An unknown verb does nothing but sweep.
    """
    try:
        directory = open_directory(path, owner)
    except FileNotFoundError:
        return True
    except Refused as refused:
        return _say_refused(path, str(refused))
    try:
        strays = sweep(directory)
        for name in strays:
            _say_refused(name, f"{name!a} is none of {', '.join(VERBS)}")
        if verb not in VERBS:
            return not strays
        reason = reason_of(take(directory, verb, owner))
        interface = allow(verb)
    except FileNotFoundError:
        return not strays
    except Refused as refused:
        return _say_refused(verb, str(refused))
    finally:
        os.close(directory)
    if verb == "reboot":
        log.warning("recovery.accepted", f"reboot: {reason}", verb=verb, interface=interface, reason=reason)
        return escalate(run, wait)
    return _carry_out(verb, interface, reason, run)


def escalate(run: Run, wait: Callable[[float], None]) -> bool:
    """Reboot; where the host is still there after a while, with less and less regard for what does not end."""
    for command in REBOOT:
        _perform(command, run)
        wait(ESCALATE_S)
    log.error("recovery.failed", "the host has not gone down, whatever was asked for", verb="reboot")
    return False


def run_command(command: Command, limit_s: float = COMMAND_LIMIT_S, **more: str) -> Outcome:
    """Run a command without a shell and without input, for `limit_s` at most; `more` goes into its environment.

    What it leaves running is not waited for, as one would be that holds a pipe.
    """
    with open(os.memfd_create("output", os.MFD_CLOEXEC), "r+b") as output:
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                  env={**_ENVIRONMENT, **more}, timeout=limit_s)
        except OSError as error:
            return Outcome(f"cannot be run: {error.strerror}", "")
        except subprocess.TimeoutExpired:
            return Outcome(f"was killed after {limit_s:g} s", "")
        failure = f"ended with status {done.returncode}" if done.returncode else None
        output.seek(max(0, output.seek(0, os.SEEK_END) - MAX_OUTPUT_BYTES))
        return Outcome(failure, output.read().decode("utf-8", "replace").strip())


def _carry_out(verb: str, interface: str, reason: str, run: Run) -> bool:
    log.warning("recovery.accepted", f"{verb} for {interface}: {reason}", verb=verb, interface=interface, reason=reason)
    in_use = _in_use(interface, run)
    connected = verb == "reconnect" and "NetworkManager.service" in in_use and _connected(interface, run)
    commands = plan(verb, interface, in_use, connected)
    if not commands:
        log.error("recovery.failed", f"{verb}: no network service that iotd knows is in use", verb=verb)
    return bool(commands) and all([_perform(command, run) for command in commands])


def _perform(command: Command, run: Run) -> bool:
    outcome = run(command)
    text = " ".join(command)
    if outcome.failure is None:
        log.info("recovery.command", f"{text}: done", command=command, output=outcome.output[-MAX_LOGGED:])
    else:
        log.error("recovery.failed", f"{text}: {outcome.failure}", command=command, output=outcome.output[-MAX_LOGGED:])
    return outcome.failure is None


def _in_use(interface: str, run: Run) -> frozenset[str]:
    """Ask systemd which network services are in use: a failed one is, and wants its restart most of all."""
    services = network_services(interface)
    states = run(("systemctl", "is-active", *services)).output.split()
    return frozenset(name for name, state in zip(services, states) if state not in ("inactive", "unknown"))


def _connected(interface: str, run: Run) -> bool:
    """Ask NetworkManager whether the interface is connected: NM_DEVICE_STATE_ACTIVATED is 100."""
    return run(("nmcli", "--get-values", "GENERAL.STATE", "device", "show", interface)).output.startswith("100 ")


def _say_refused(name: str, reason: str) -> bool:
    log.warning("recovery.refused", f"request refused: {reason}", request=ascii(name), reason=reason)
    return False


def read(directory: int, name: str, owner: int) -> bytes:
    """Return the content of a request; raises Refused, FileNotFoundError where there is none."""
    try:
        # O_NONBLOCK: opening a pipe must not wait for somebody to write into it.
        request = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        raise
    except OSError as error:
        what = "is a symbolic link" if error.errno == errno.ELOOP else f"cannot be opened: {error.strerror}"
        raise Refused(f"it {what}") from error
    try:
        status = os.fstat(request)
        if not stat.S_ISREG(status.st_mode):
            raise Refused("it is not a regular file")
        if status.st_uid != owner:
            raise Refused(f"it does not belong to {USER}")
        body = os.read(request, MAX_REQUEST_BYTES + 1)
    finally:
        os.close(request)
    if len(body) > MAX_REQUEST_BYTES:
        raise Refused(f"it is larger than {MAX_REQUEST_BYTES} bytes")
    return body


def remove(directory: int, name: str) -> None:
    """Remove a request, or whatever lies there under its name."""
    with suppress(FileNotFoundError):
        try:
            os.unlink(name, dir_fd=directory)
        except IsADirectoryError:
            shutil.rmtree(name, dir_fd=directory)


def main(verb: str) -> int:
    """Serve the verb that systemd names; return the exit status."""
    log.start("info", "json", under_journald=log.is_journal())
    daemon = pwd.getpwnam(USER)
    allow = partial(interface_for, file=CONFIGURATION, state=STATE, daemon=daemon)
    return 0 if serve(verb, DIRECTORY, daemon.pw_uid, allow, run_command) else 1
