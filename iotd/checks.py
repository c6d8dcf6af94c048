"""The kinds of checks: each looks once at what it watches and says good, bad or unknown."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from iotd import command, facts
from iotd.facts import HOST, Roots
from iotd.finding import CheckResult, Outcome
from iotd.settings import (
    Check, CommandPasses, DiskHasRoom, FileFresh, Json, NotThrottled, PortAnswers, ProcessRuns, TemperatureBelow,
    UnitActive,
)
from iotd.typed import Any

QUICK = (ProcessRuns, TemperatureBelow, NotThrottled)  # read from the kernel's memory: these never wait

UNIT_STATES = {"active", "reloading", "refreshing", "inactive", "failed", "activating", "deactivating", "maintenance"}
COMM_CHARACTERS = 15  # all that the kernel keeps of a process's name
FIRMWARE_NOW = 0xF  # under-voltage, frequency capped, throttled, soft temperature limit
FUTURE_S = 5.0  # a file may be this much newer than a clock that is being set

GATEWAY_PORT = 53
NEIGHBOUR_S = 9.0  # the kernel doubts a silent neighbour after 5 s and gives it up after three more (arp(7))
UP, GATEWAY = 0x0001, 0x0002  # linux/route.h
COMPLETE = 0x02  # linux/if_arp.h

Finding = tuple[Outcome, Json, str]


def make(check: Check, stop: int | None = None, roots: Roots = HOST) -> CheckResult:
    """Make a check now; it ends within its time-out but where the kernel itself hangs (a name server, a dead mount).

    `stop` is a file descriptor that becomes readable when the check should give up.
    """
    try:
        outcome, value, reason = _look(check, stop, roots)
    except OSError as error:
        outcome, value, reason = "unknown", None, f"cannot be checked: {error.strerror or error}"
    return CheckResult(check, outcome, value, reason, time.monotonic())


def _look(check: Check, stop: int | None, roots: Roots) -> Finding:
    match check.probe:
        case UnitActive(unit):
            return unit_finding(command.run(("systemctl", "is-active", "--", unit), check.timeout_s, stop))
        case ProcessRuns(process):
            return _process(process, roots)
        case PortAnswers(host, port):
            return _port(host, port, check.timeout_s)
        case FileFresh(path, max_age_s):
            return _file(path, max_age_s)
        case CommandPasses(arguments):
            return command_finding(command.run(arguments, check.timeout_s, stop))
        case DiskHasRoom(path, min_free_bytes):
            return _disk(path, min_free_bytes)
        case TemperatureBelow(max_celsius):
            return _temperature(max_celsius, roots)
        case NotThrottled():
            return _throttled(roots)
        case _:
            return _gateway(check.timeout_s, roots)


def unit_finding(ended: command.Ended) -> Finding:
    """Return what `systemctl is-active` amounts to; without a word for the state it could not ask systemd."""
    state = command.last_line(ended.output)
    if ended.how == "late":
        return "unknown", None, f"systemd {ended.reason}"
    if ended.how != "exited" or state not in UNIT_STATES:
        return "unknown", None, ended.reason or f"systemctl said {state!r}"
    if ended.status == 0:
        return "good", state, ""
    return "bad", state, f"the unit is {state}"


def command_finding(ended: command.Ended) -> Finding:
    """Return what a command's end amounts to; one that could not even start says nothing about what it checks."""
    if ended.how in ("refused", "stopped"):
        return "unknown", None, ended.reason
    return ("bad" if ended.reason else "good"), ended.status, ended.reason


def default_gateways(ipv4: str, ipv6: str) -> list[tuple[str, str]]:
    """Return address and interface of the default gateways in /proc/net/route and ipv6_route, the best first.

    A route without a gateway (a modem, a tunnel) has nobody to ask; a line that is not understood is passed over.
    """
    return [(address, name) for _, address, name in sorted(_ipv4_gateways(ipv4)) + sorted(_ipv6_gateways(ipv6))]


def gateway_finding(answer: int | None, waited_s: float, neighbour: bool | None) -> Finding:
    """Return what the kernel has learned by a connection tried with the gateway.

    `answer` is the error number of connect(2), 0 for success, None for none in time. A refusal is an answer. A
    router that drops the packet still has to answer ARP to be of any use: `neighbour` tells whether it did, None
    where that cannot be read.
    """
    if answer in (0, errno.ECONNREFUSED):
        return "good", None, ""
    if neighbour is None:
        return "unknown", None, "the gateway did not answer, and its neighbour entry cannot be read"
    if not neighbour:
        return "bad", None, "the gateway does not answer ARP"
    if answer is None and waited_s < NEIGHBOUR_S:
        return "unknown", None, f"no answer within {waited_s:.0f} s; {NEIGHBOUR_S:.0f} s are needed to tell"
    return "good", None, ""


def arp_complete(table: str, address: str) -> bool:
    """Tell whether /proc/net/arp has a hardware address for this one."""
    for line in table.splitlines():
        match line.split():  # address, hardware type, flags, hardware address, mask, interface
            case [found, _, flags, *_] if found == address:
                return bool(int(flags, 16) & COMPLETE)
    return False


def _process(name: str, roots: Roots) -> Finding:
    for directory in roots.proc.iterdir():
        if directory.name.isdecimal() and _is_process(directory, name):
            return "good", int(directory.name), ""
    if not (roots.proc / "1").exists():
        return "unknown", None, "other users' processes are hidden from iotd; its unit needs ProtectProc=default"
    return "bad", None, f"no process {name} runs"


def _is_process(directory: Path, name: str) -> bool:
    try:
        # "PID (NAME) STATE …", where the name may hold blanks and brackets.
        before, _, after = (directory / "stat").read_text("utf-8", "replace").rpartition(")")
        if before.partition("(")[2] != name[:COMM_CHARACTERS] or after.split()[0] in ("Z", "X"):
            return False
        if len(name) <= COMM_CHARACTERS:
            return True
        arguments = (directory / "cmdline").read_text("utf-8", "replace").split("\0")
        return name in (argument.rpartition("/")[2] for argument in arguments[:2])  # the second: a script's
    except (OSError, IndexError):  # it has just ended
        return False


def _port(host: str, port: int, timeout_s: float) -> Finding:
    deadline = time.monotonic() + timeout_s
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        return "bad", None, f"{host} has no address: {error.strerror}"
    answer: int | None = None
    for family, _, _, _, address in addresses:
        answer = _connect(family, address, deadline)
        if answer == 0:
            return "good", None, ""
    return "bad", None, f"no answer within {timeout_s:g} s" if answer is None else os.strerror(answer)


def _connect(family: int, address: tuple[Any, ...], deadline: float) -> int | None:
    """Return the error number of a connection tried, 0 for success, None where nothing came by the deadline."""
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        return None
    with socket.socket(family, socket.SOCK_STREAM) as line:
        line.settimeout(left_s)
        try:
            line.connect(address)
        except TimeoutError as error:
            return error.errno if error.errno else None
        except OSError as error:
            return error.errno
    return 0


def _file(path: str, max_age_s: float) -> Finding:
    try:
        age_s = round(time.time() - os.stat(path).st_mtime, 1)
    except FileNotFoundError:
        return "bad", None, f"there is no {path}"
    if age_s < -FUTURE_S:
        return "unknown", age_s, f"{path} is from {-age_s:g} s in the future; is the clock set?"
    if age_s <= max_age_s:
        return "good", age_s, ""
    return "bad", age_s, f"{path} was written {age_s:g} s ago, expected at most {max_age_s:g} s"


def _disk(path: str, min_free_bytes: int) -> Finding:
    room = os.statvfs(path)
    free = room.f_bavail * room.f_frsize
    if free >= min_free_bytes:
        return "good", free, ""
    return "bad", free, f"{free} bytes are free at {path}, expected at least {min_free_bytes}"


def _temperature(max_celsius: float, roots: Roots) -> Finding:
    celsius = facts.read(["temperature"], roots)["temperature"]
    if celsius is None:
        return "unknown", None, "this host does not tell its temperature"
    if celsius <= max_celsius:
        return "good", celsius, ""
    return "bad", celsius, f"{celsius} °C, expected at most {max_celsius:g} °C"


def _throttled(roots: Roots) -> Finding:
    bits = facts.read(["throttled"], roots)["throttled"]
    if bits is None:
        return "unknown", None, "this host has no firmware of a Raspberry Pi's"
    meanings = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
    now = [meaning for number, meaning in enumerate(meanings) if bits & FIRMWARE_NOW & 1 << number]
    if now:
        return "bad", bits, ", ".join(now)
    return "good", bits, ""


def _gateway(timeout_s: float, roots: Roots) -> Finding:
    """Try a connection with the best gateway, of IPv4 where there is one."""
    tables = roots.proc / "net"
    ipv6 = tables / "ipv6_route"
    gateways = default_gateways((tables / "route").read_text(), ipv6.read_text() if ipv6.exists() else "")
    if not gateways:
        return "bad", None, "there is no default gateway"
    address, interface = gateways[0]
    started = time.monotonic()
    is_ipv6 = ":" in address
    place = (address, GATEWAY_PORT, 0, socket.if_nametoindex(interface)) if is_ipv6 else (address, GATEWAY_PORT)
    answer = _connect(socket.AF_INET6 if is_ipv6 else socket.AF_INET, place, started + timeout_s)
    neighbour = None
    if is_ipv6:  # its neighbours are told over netlink alone; what connect says of them is good enough
        neighbour = False if answer == errno.EHOSTUNREACH else None
    elif answer not in (0, errno.ECONNREFUSED):
        neighbour = arp_complete((tables / "arp").read_text(), address)
    outcome, _, reason = gateway_finding(answer, time.monotonic() - started, neighbour)
    return outcome, address, reason


def _ipv4_gateways(table: str) -> Iterator[tuple[int, str, str]]:
    for line in table.splitlines():
        match line.split():  # interface, destination, gateway, flags, references, use, metric, mask, …
            case [name, "00000000", gateway, flags, _, _, metric, "00000000", *_]:
                try:
                    usable = int(flags, 16) & (UP | GATEWAY) == UP | GATEWAY
                    address = socket.inet_ntoa(struct.pack("=I", int(gateway, 16)))
                    if usable:
                        yield int(metric), address, name
                except (ValueError, struct.error):
                    continue


def _ipv6_gateways(table: str) -> Iterator[tuple[int, str, str]]:
    nowhere = "0" * 32
    for line in table.splitlines():
        match line.split():  # destination, its prefix, source, its prefix, gateway, metric, references, use, flags, …
            case [destination, "00", _, _, gateway, metric, _, _, flags, name] if destination == nowhere:
                try:
                    usable = int(flags, 16) & (UP | GATEWAY) == UP | GATEWAY
                    address = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(gateway))
                    if usable:
                        yield int(metric, 16), address, name
                except (ValueError, OSError):
                    continue
