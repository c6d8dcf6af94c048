"""The default gateway: which it is, and whether it is there."""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Iterator

from iotd.host.facts import Roots
from iotd.shadows.checks import connect
from iotd.shadows.findings import Finding
from iotd.shadows.section import Check

PORT = 53
NEIGHBOUR_S = 9.0  # the kernel doubts a silent neighbour after 5 s and gives it up after three more (arp(7))
UP, GATEWAY = 0x0001, 0x0002  # linux/route.h
COMPLETE = 0x02  # linux/if_arp.h


def look(check: Check, stop: int | None, roots: Roots) -> Finding:
    """Try a connection with the best gateway, of IPv4 where there is one."""
    tables = roots.proc / "net"
    ipv6 = tables / "ipv6_route"
    gateways = default_gateways((tables / "route").read_text(), ipv6.read_text() if ipv6.exists() else "")
    if not gateways:
        return "bad", None, "there is no default gateway"
    address, interface = gateways[0]
    started = time.monotonic()
    is_ipv6 = ":" in address
    place = (address, PORT, 0, socket.if_nametoindex(interface)) if is_ipv6 else (address, PORT)
    answer = connect(socket.AF_INET6 if is_ipv6 else socket.AF_INET, place, started + check.timeout_s)
    neighbour = None
    if is_ipv6:  # its neighbours are told over netlink alone; what connect says of them is good enough
        neighbour = False if answer == errno.EHOSTUNREACH else None
    elif answer not in (0, errno.ECONNREFUSED):
        neighbour = arp_complete((tables / "arp").read_text(), address)
    outcome, _, reason = finding(answer, time.monotonic() - started, neighbour)
    return outcome, address, reason


def default_gateways(ipv4: str, ipv6: str) -> list[tuple[str, str]]:
    """Return address and interface of the default gateways in /proc/net/route and ipv6_route, the best first.

    A route without a gateway (a modem, a tunnel) has nobody to ask; a line that is not understood is passed over.
    """
    return [(address, name) for _, address, name in sorted(_ipv4_gateways(ipv4)) + sorted(_ipv6_gateways(ipv6))]


def finding(answer: int | None, waited_s: float, neighbour: bool | None) -> Finding:
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
