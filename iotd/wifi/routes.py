"""Knows the interfaces that lead out of this host, from the kernel's main routing tables."""

from __future__ import annotations

from pathlib import Path

UP, REJECT = 0x0001, 0x0200  # linux/route.h
TABLES = Path("/proc/self/net")
CLASS = Path("/sys/class/net")


def other_default_route(interface: str) -> bool:
    """Tell whether another interface that is up has a default route, of either family and any metric.

    Where that cannot be found out the answer is yes: it only ever holds a reboot back.
    """
    try:
        ipv4 = (TABLES / "route").read_text()
        ipv6 = (TABLES / "ipv6_route").read_text() if (TABLES / "if_inet6").exists() else ""
    except OSError:
        return True
    return any(_is_up(other) for other in ways_out(ipv4, ipv6) - {interface})


def ways_out(ipv4: str, ipv6: str) -> set[str]:
    """Return the interfaces with a default route in /proc/net/route and /proc/net/ipv6_route, but for lo.

    A line that is not understood is passed over, and so is a route that refuses (unreachable, prohibit).
    """
    found = set()
    for line in ipv4.splitlines():
        match line.split():  # interface, destination, gateway, flags, references, use, metric, mask, ...
            case [name, destination, _, flags, _, _, _, mask, *_] if _is_zero(destination) and _is_zero(mask):
                found |= _usable(name, flags)
    for line in ipv6.splitlines():
        match line.split():  # destination, its prefix, source, its prefix, gateway, metric, references, use, ...
            case [destination, "00", _, _, _, _, _, _, flags, name] if _is_zero(destination):
                found |= _usable(name, flags)
    return found


def _usable(name: str, flags: str) -> set[str]:
    try:
        usable = int(flags, 16) & (UP | REJECT) == UP
    except ValueError:
        usable = False
    return {name} if usable and name != "lo" else set()


def _is_zero(hexadecimal: str) -> bool:
    return not hexadecimal.strip("0")


def _is_up(interface: str) -> bool:
    """Tell whether a link carries (RFC 2863); tunnels and modems only ever say "unknown"."""
    try:
        return (CLASS / interface / "operstate").read_text().strip() in ("up", "unknown")
    except FileNotFoundError:
        return False
    except OSError:
        return True
