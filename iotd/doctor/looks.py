"""Looks at every layer side by side, each with an end of its own; nothing is changed by it, and nothing of it is said.

What may not be seen by who asks is left out of the facts. Used by `iotd doctor`, never by the daemon's main thread.
"""

from __future__ import annotations

import array
import fcntl
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from iotd.config.settings import Settings
from iotd.doctor.facts import (
    Address, Association, Certificates, Clock, Configuration, Daemon, Disk, Dns, Facts, Gateway, Host, Interface, Mqtt,
    Tcp, Tls,
)
from iotd.doctor.known import known
from iotd.host import clock, command, facts
from iotd.host.tasks import Tasks
from iotd.mqtt import advice, credentials
from iotd.mqtt.addresses import HasFileno
from iotd.mqtt.stream import StreamError, open_stream
from iotd.vocabulary import Json

LIMIT_S = 9.0  # for all looks together, where something is silent; else they end in a second or two
TCP_S, OPEN_S = 3.0, 5.0  # for the addresses in turn; for TLS and CONNACK, which take several ways over a slow line
NET = Path("/sys/class/net")
SIOCGIFFLAGS, SIOCGIFADDR = 0x8913, 0x8915  # linux/sockios.h
IFF_UP, IFF_LOOPBACK, IFF_RUNNING = 0x1, 0x8, 0x40  # linux/if.h
COMMAND_S = 3.0


class Subject(NamedTuple):
    """What is looked at: settings that can be used (None: there are none), why certificates cannot (None: not seen),
    what the running daemon says (None: it does not run), and the looks of wings that the configuration names.
    """

    configuration: Configuration | None
    settings: Settings | None
    unusable: Mapping[str, str] | None
    status: Mapping[str, Json] | None
    status_age_s: float | None
    state: Path
    association: Callable[[], Association] | None = None
    gateway: Callable[[], Gateway] | None = None


def gather(subject: Subject, limit_s: float = LIMIT_S) -> Facts:
    """Return what is seen within the limit; a look that has not ended by then is not seen."""
    seen: dict[str, Any] = {} if subject.configuration is None else {"configuration": subject.configuration}
    looks: dict[str, Callable[[], Any]] = {
        "clock": _clock, "disk": lambda: _disk(subject), "host": _host, "daemon": lambda: _daemon(subject),
        "interface": lambda: _interface(_name(subject)), "address": lambda: _address(_name(subject)),
    }
    for name, look in (("association", subject.association), ("gateway", subject.gateway)):
        if look is not None:
            looks[name] = look
    if subject.unusable is not None:
        looks["certificates"] = lambda: _certificates(subject)
    looks["network"] = lambda: _network(subject, seen)
    ended: SimpleQueue[str] = SimpleQueue()
    tasks = Tasks(ended.put)
    for name, look in looks.items():
        tasks.start(name, partial(_see, name, look, seen), str)  # a look with a bug in it has seen nothing
    deadline = time.monotonic() + limit_s
    with suppress(Empty):
        for _ in looks:
            ended.get(timeout=max(0.0, deadline - time.monotonic()))
    found = {name: value for name, value in list(seen.items()) if name in Facts._fields}
    return Facts(**found, **_from_status(subject, found))


def _see(name: str, look: Callable[[], Any], seen: dict[str, Any], stop: int) -> str:
    with suppress(OSError, ValueError, LookupError):
        seen[name] = look()
    return name


def _name(subject: Subject) -> str:
    """Return the interface that is watched, else the one that leads out, else the one that is nearest to it."""
    wifi = subject.settings.sections.get("wifi") if subject.settings is not None else None
    if wifi is not None:
        return str(wifi.interface)
    found = subject.gateway() if subject.gateway is not None else None
    if found is not None and found.interface is not None:
        return found.interface
    names = [name for _, name in socket.if_nameindex() if not _flags(name) & IFF_LOOPBACK]
    real = [name for name in names if (NET / name / "device").exists()] or names
    return max(real, key=lambda name: (bool(_flags(name) & IFF_RUNNING), bool(_address(name).addresses)))


def _flags(name: str) -> int:
    """Return the flags of an interface (netdevice(7)). Raises OSError where there is none of this name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = array.array("B", struct.pack("16s24x", name.encode()[:15]))
        fcntl.ioctl(any_socket, SIOCGIFFLAGS, request)
        return int(struct.unpack_from("H", request, 16)[0])


def _clock() -> Clock:
    try:
        is_set: bool | None = clock.clock_is_set()
    except OSError:
        is_set = None
    # dpkg gives files the time of the package's changelog at the latest.
    return Clock(time.time(), is_set, os.stat(facts.__file__).st_mtime)


def _interface(name: str) -> Interface:
    directory = NET / name
    try:
        flags = _flags(name)
    except OSError:
        return Interface(name, False, False)
    blocked = ""
    for switch in directory.glob("phy80211/rfkill*"):
        blocked = "hard" if _line(switch / "hard") == "1" else "soft" if _line(switch / "soft") == "1" else blocked
    state = "up" if flags & IFF_RUNNING else "down" if flags & IFF_UP else "off"
    return Interface(name, True, (directory / "phy80211").exists(), state, blocked)


def _address(name: str) -> Address:
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket, suppress(OSError):
        request = array.array("B", struct.pack("16s24x", name.encode()[:15]))
        fcntl.ioctl(any_socket, SIOCGIFADDR, request)
        found.append(socket.inet_ntoa(bytes(request[20:24])))
    for line in _text("/proc/net/if_inet6").splitlines():
        address, _, _, scope, _, interface = line.split()
        if interface == name and int(scope, 16) == 0:  # global, linux/ipv6.h
            found.append(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(address)))
    return Address(name, tuple(found))


def _certificates(subject: Subject) -> Certificates:
    assert subject.settings is not None and subject.settings.mqtt.tls is not None and subject.unusable is not None
    return Certificates(subject.unusable, *credentials.validity(subject.settings.mqtt.tls))


def _network(subject: Subject, seen: dict[str, Any]) -> None:
    """Go the way of a connection, as far as it goes: name, address, TLS, and MQTT where the daemon does not run."""
    if subject.settings is None:
        return
    mqtt = subject.settings.mqtt
    first = mqtt.proxy or mqtt  # whom this host itself connects to
    servers = tuple(line.split()[1] for line in _text("/etc/resolv.conf").splitlines()
                    if line.startswith("nameserver") and len(line.split()) > 1)
    seen["dns"] = Dns(first.host, (), servers, "no name server answers")  # until one does: getaddrinfo(3) has no limit
    try:
        found = socket.getaddrinfo(first.host, first.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        seen["dns"] = Dns(first.host, (), servers, str(getattr(error, "strerror", None) or error))
        return
    addresses = tuple(dict.fromkeys(str(address[4][0]) for address in found))
    seen["dns"] = Dns(first.host, addresses, servers)
    seen["tcp"] = tcp = _tcp(addresses, first.port)
    if not tcp.connected:
        return
    context = None
    if mqtt.tls is not None:
        try:
            context = credentials.context(mqtt.tls, mqtt.alpn)
        except (OSError, ValueError):
            return  # certificates says what is wrong
    _over_tls(subject, subject.settings, context, seen)


def _tcp(addresses: tuple[str, ...], port: int) -> Tcp:
    failures: dict[str, str] = {}
    deadline = time.monotonic() + TCP_S
    for left, address in zip(range(len(addresses), 0, -1), addresses):
        share_s = max(0.2, (deadline - time.monotonic()) / left)
        try:
            socket.create_connection((address, port), share_s).close()
            return Tcp(port, address, failures)
        except TimeoutError:
            failures[address] = f"no answer within {share_s:.1f} s"
        except OSError as error:
            failures[address] = (error.strerror or str(error)).lower()
    return Tcp(port, "", failures)


def _over_tls(subject: Subject, settings: Settings, context: Any, seen: dict[str, Any]) -> None:
    def wait(what: HasFileno, events: int, deadline: float) -> bool:
        poll = select.poll()
        poll.register(what.fileno(), events)
        return bool(poll.poll(max(0.0, min(deadline, end) - time.monotonic()) * 1000))

    end = time.monotonic() + OPEN_S
    mqtt = settings.mqtt
    try:
        stream = open_stream(mqtt.host, mqtt.port, context, wait, mqtt.proxy, mqtt.websocket_path)
    except StreamError as error:
        if error.cause == "proxy":
            seen["tcp"] = Tcp(seen["tcp"].port, "", {"": str(error)})
        elif error.cause == "websocket":
            seen["mqtt"] = Mqtt(False, error.cause, str(error), "this look")
        elif context is not None:
            seen["tls"] = Tls(error.cause if error.cause in ("certificate", "clock") else "tls", str(error))
        return
    if context is not None:
        seen["tls"] = Tls("", "")
    try:
        if subject.status is None:
            seen["mqtt"] = _connect(stream, settings, wait, end)
    finally:
        stream.close()


def _connect(stream: Any, settings: Settings, wait: Callable[..., bool], end: float) -> Mqtt:
    """Connect as the thing (MQTT 3.1.1, 3.1), without a will and into its kept session, and leave at once."""
    client_id, mqtt = settings.client_id, settings.mqtt
    fields = [client_id.encode()]
    flags = 0
    try:
        if mqtt.username is not None:
            flags |= 0x80
            fields.append(mqtt.username.encode())
        if mqtt.password_file:
            flags |= 0x40
            fields.append(credentials.password(mqtt.password_file))
    except ValueError as error:
        return Mqtt(False, "password", str(error), "this look")
    body = b"\x00\x04MQTT\x04" + struct.pack(">BH", flags, 60)
    body += b"".join(struct.pack(">H", len(field)) + field for field in fields)
    stream.send(b"\x10" + _length(len(body)) + body)
    answer = b""
    try:
        stream.flush()
        while len(answer) < 4:
            if not wait(stream, select.POLLIN, end):
                return Mqtt(False, "connack", "no CONNACK came; is this an MQTT broker?", "this look")
            with suppress(BlockingIOError):
                answer += stream.recv(4 - len(answer))
        if answer[0] != 0x20:
            return Mqtt(False, "protocol", "what answers there is no MQTT broker", "this look")
        if answer[3]:
            return Mqtt(False, "refused", advice.refused(answer[3], client_id, mqtt.username), "this look")
        stream.send(b"\xe0\x00")
        stream.flush()
    except StreamError as error:
        return Mqtt(False, error.cause, f"over CONNECT: {error}", "this look")
    return Mqtt(True, "", "", "this look")


def _length(size: int) -> bytes:
    """Return the remaining length of a packet (MQTT 3.1.1, 2.2.3)."""
    low, rest = size & 0x7F, size >> 7
    return bytes([low | 0x80]) + _length(rest) if rest else bytes([low])


def _from_status(subject: Subject, seen: Mapping[str, Any]) -> dict[str, Any]:
    """Return what only the running daemon knows; what was seen just now counts more."""
    if subject.status is None:
        return {}
    told = known(subject.status)
    skipped = {*seen, "configuration", "association"}
    return {layer: facts for layer, facts in told.items() if layer not in skipped}


def _disk(subject: Subject) -> Disk:
    room = os.statvfs(subject.state)
    failures = [str(problem) for problem in (subject.status or {}).get("problems", []) if "spool" in str(problem)]
    return Disk(str(subject.state), room.f_bavail * room.f_frsize, bool(room.f_flag & os.ST_RDONLY), tuple(failures))


def _host() -> Host:
    found = facts.read(["throttled", "memory_available"])
    kept = Path("/var/log/journal").is_dir() if Path("/run/systemd/system").is_dir() else None
    watchdog = _property(("systemctl", "show", "--property=RuntimeWatchdogUSec"))
    retries = None
    for line in _text("/etc/NetworkManager/NetworkManager.conf").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "autoconnect-retries-default" and value.strip().lstrip("-").isdecimal():
            retries = int(value)
    if retries is None and Path("/run/NetworkManager").is_dir():
        retries = 4  # NetworkManager.conf(5)
    return Host(found["throttled"], found["memory_available"], kept, retries, watchdog)


def _daemon(subject: Subject) -> Daemon:
    names = ("ActiveState", "Result", "NRestarts")
    ended = command.run(("systemctl", "show", "iotd.service", *(f"--property={name}" for name in names)), COMMAND_S)
    told = dict(line.split("=", 1) for line in ended.output.splitlines() if "=" in line)
    running = subject.status is not None
    return Daemon(running, told.get("ActiveState", "active" if running else "inactive"), told.get("Result", ""),
                  int(told.get("NRestarts") or 0), subject.status_age_s)


def _property(arguments: tuple[str, ...]) -> str | None:
    ended = command.run(arguments, COMMAND_S)
    return ended.output.strip().partition("=")[2] or None if ended.status == 0 else None


def _line(path: Path) -> str:
    return _text(str(path)).strip()


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 16).decode("utf-8", "replace")
    except OSError:
        return ""
