"""How a host is written, in which order its addresses are tried, and the connection to one of them."""

from __future__ import annotations

import os
import re
import select
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

MAX_ADDRESSES = 8  # of one name: as many as AWS IoT Core gives of a family

_MAX_LABEL, _MAX_NAME = 63, 253  # bytes; RFC 1035, 2.3.4


class HasFileno(Protocol):
    """A socket, or anything else that poll(2) takes."""

    def fileno(self) -> int:
        """Return the file descriptor."""


# wait(what, events, deadline) returns whether `what` had one of `events` before the monotonic `deadline`. It is the
# caller's, so that the caller can be woken, and may raise what it likes when it is told to stop.
Wait = Callable[[HasFileno, int, float], bool]
Address = tuple[int, tuple[Any, ...]]  # the family, and what connect(2) takes


def host_problem(host: str) -> str | None:
    """Return what is wrong with a host's name or address and what would be right, or None."""
    if host.startswith("["):
        return f"{host!r} has brackets, which belong into a URL; write the address alone, as in ::1"
    if host.count(":") > 1:
        address, _, zone = host.partition("%")
        if not _is(socket.AF_INET6, address):
            return f"{host!r} is no IPv6 address, such as ::1"
        return None if re.fullmatch(r"[\w.-]{,15}", zone, re.ASCII) else f"{host!r} has a zone that is no interface"
    try:
        name = encoded(host).decode().removesuffix(".")
    except UnicodeError as error:
        return f"{host!r} is no name of a host: {error}"
    labels = name.split(".")
    if "" in labels:
        return f"{host!r} has an empty part; every dot stands between two names, as in broker.example.com"
    wrong = next((label for label in labels if not re.fullmatch("[A-Za-z0-9_-]+", label)), None)
    if wrong is not None:
        return f"{host!r} has {wrong!r}; the parts of a name are letters, digits, - and _"
    if max(map(len, labels)) > _MAX_LABEL or len(name) > _MAX_NAME:
        return f"{host[:80]!r} is too long; a name has at most {_MAX_NAME} bytes, each of its parts {_MAX_LABEL}"
    if labels[-1].isdecimal() and not _is(socket.AF_INET, host):
        return f"{host!r} is no IPv4 address, such as 192.0.2.7, and no name, which would not end in a number"
    return None


def is_loopback(host: str) -> bool:
    """Return whether the host is this one, by its name (RFC 6761, 6.3) or address."""
    name = host.lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    for family, beginnings in ((socket.AF_INET, (b"\x7f",)),
                               (socket.AF_INET6, (bytes(15) + b"\x01", bytes(10) + b"\xff\xff\x7f"))):
        if _is(family, name) and socket.inet_pton(family, name).startswith(beginnings):
            return True
    return False


def encoded(host: str) -> bytes:
    """Return the name as DNS has it; of a text Python asks its tables of international names. Raises UnicodeError."""
    return host.encode() if host.isascii() else host.encode("idna")


def in_turn(found: Iterable[tuple[Any, ...]]) -> list[Address]:
    """Return the addresses that getaddrinfo(3) found, families in turn as in RFC 8305, 4, at most MAX_ADDRESSES.

    The first family is the one that the resolver prefers, and within each its order is kept.
    """
    families: dict[int, list[Address]] = {}
    for family, _, _, _, address in found:
        families.setdefault(family, []).append((family, address))
    placed = [(place, number, entry) for number, entries in enumerate(families.values())
              for place, entry in enumerate(dict.fromkeys(entries))]
    return [entry for _, _, entry in sorted(placed, key=lambda one: one[:2])][:MAX_ADDRESSES]


def connected(addresses: list[Address], limit_s: float, wait: Wait) -> socket.socket:
    """Return a socket that never blocks, connected to one of the addresses.

    They are begun one after the other, each with its share of the time until the next is; one that answers late, as
    on a slow line all of them do, is taken all the same. Raises ConnectionError with every reason, and as `wait`.
    """
    end = time.monotonic() + limit_s
    failures: list[str] = []
    begun: dict[int, socket.socket] = {}
    with select.epoll() as poll:  # one descriptor to wait on, for all that were begun
        try:
            for left, (family, address) in zip(range(len(addresses), 0, -1), addresses):
                now = time.monotonic()
                share_end = now + (end - now) / left
                newest = _begun(family, address, failures)
                if newest is not None:
                    begun[newest.fileno()] = newest
                    poll.register(newest, select.EPOLLOUT)
                while begun and (newest in begun.values() or left == 1) and wait(poll, select.POLLIN, share_end):
                    for fd, _ in poll.poll(0):
                        code = begun[fd].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                        if code == 0:
                            return begun.pop(fd)
                        failures.append(os.strerror(code))
                        begun.pop(fd).close()
            failures.extend(f"no answer within {round(limit_s, 1):g} s" for _ in begun)
            raise ConnectionError(", ".join(sorted(set(failures))))
        finally:
            for sock in begun.values():
                sock.close()


def _begun(family: int, address: tuple[Any, ...], failures: list[str]) -> socket.socket | None:
    """Return a socket that is being connected; where that fails at once, note why."""
    sock = None
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        sock.connect(address)
    except BlockingIOError:
        pass
    except OSError as error:  # no such family on this host, or no way there
        if sock is not None:
            sock.close()
        failures.append(error.strerror or str(error))
        return None
    return sock


def _is(family: int, address: str) -> bool:
    try:
        socket.inet_pton(family, address)
    except (OSError, UnicodeError, ValueError):
        return False
    return True
