"""Reads what one Wi-Fi interface is associated with, from nl80211 over generic netlink, without privilege.

Every look opens its own socket. Keeping one would save one question of three or four, some tens of microseconds in
`every`, and neither way wakes the process between looks; but a kept socket also keeps the family's number, which
changes when a recovery reloads the Wi-Fi modules, and answers that came too late.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from iotd.wifi.reading import Reading, ssid_text

Attributes = Mapping[int, bytes]

# linux/netlink.h, linux/genetlink.h and linux/nl80211.h; the numbers are the kernel's stable interface
NETLINK_GENERIC = 16
MESSAGE = struct.Struct("=IHHII")  # length with this header, type, flags, sequence, port
GENERIC = struct.Struct("=BBH")  # command, version, reserved
ATTRIBUTE = struct.Struct("=HH")  # length with this header, type
ATTRIBUTE_TYPE = 0x3FFF  # the two highest bits are flags
REQUEST, ACK, DUMP = 0x01, 0x04, 0x300
ERROR, DONE = 2, 3
CONTROL_FAMILY = 16
GET_FAMILY, FAMILY_ID, FAMILY_NAME = 3, 1, 2
GET_INTERFACE, GET_STATION, GET_SCAN = 5, 17, 32
IFINDEX, IFTYPE, MAC, STA_INFO, WIPHY_FREQ, BSS, SSID = 3, 5, 6, 21, 38, 47, 52
STA_INFO_SIGNAL = 7
BSS_ELEMENTS, BSS_STATUS, BSS_BEACON_ELEMENTS = 6, 9, 11
ASSOCIATED = 1
STATION, P2P_CLIENT = 2, 8
SSID_MAX_BYTES = 32
CARRIES = ("up", "unknown")  # the operstate of a link that is ready, or of a driver that does not tell

CLASS = Path("/sys/class/net")
RECEIVE_BYTES = 32768  # what the kernel fills at most in one go (NLMSG_GOODSIZE and a dump's upper bound)


def look(interface: str, limit_s: float = 2.0) -> Reading:
    """Return what `interface` is associated with now; a look that fails is an "unknown" with its reason.

    Waits at most `limit_s` for answers. A driver that hangs inside the kernel holds the call beyond that,
    so a caller who must not wait makes it on a thread of its own.
    """
    try:
        link = _link(interface)
        if link is None:
            return Reading(interface, "absent", reason=f"there is no interface {interface}")
        if link.get("DEVTYPE") != "wlan":
            return Reading(interface, "unknown", reason=f"{interface} is not a Wi-Fi interface; name one that is")
        answered = _ask_nl80211(int(link["IFINDEX"]), link["operstate"], time.monotonic() + limit_s)
        return reading(interface, link["operstate"], *answered)
    except TimeoutError:
        return Reading(interface, "unknown", reason=f"the kernel did not answer about {interface} in {limit_s:g} s")
    except OSError as error:
        if error.errno == errno.ENODEV:
            return Reading(interface, "absent", reason=f"the interface {interface} has just gone")
        return Reading(interface, "unknown", reason=f"{interface} cannot be read: {_explained(error)}")
    except (KeyError, ValueError, struct.error) as error:
        return Reading(interface, "unknown", reason=f"the kernel's answer about {interface} is not understood: {error}")


def reading(interface: str, state: str, own: Attributes, stations: Sequence[Attributes],
            networks: Sequence[Attributes]) -> Reading:
    """Return the reading that an operstate and the answers to GET_INTERFACE, GET_STATION and GET_SCAN amount to.

    GET_INTERFACE's SSID alone proves nothing. Where the driver connects by itself (brcmfmac), cfg80211 holds it from
    the moment it is told to connect (`u.client.ssid` in net/wireless/sme.c); where the supplicant authenticates
    (mac80211), it holds none at all, and the network that the last scan knows as associated has it.
    The operstate (RFC 2863) is "up" only when the link has its carrier and the supplicant the keys.
    """
    mode = _number(own.get(IFTYPE))
    if mode not in (STATION, P2P_CLIENT):
        return Reading(interface, "disconnected", reason=f"{interface} is no client of a network (mode {mode})")
    ssid = own.get(SSID, b"") or next(filter(None, map(_associated_ssid, networks)), b"")
    if len(ssid) > SSID_MAX_BYTES:
        raise ValueError(f"an SSID of {len(ssid)} bytes, expected at most {SSID_MAX_BYTES}")
    if state not in CARRIES:
        what = (f"{interface} has joined a network but not yet got its keys; is the passphrase right"
                if state == "dormant" else
                f"{interface} is not yet associated with {ssid_text(ssid)!r}" if ssid else
                f"{interface} is not associated")
        return Reading(interface, "disconnected", reason=f"{what} (link {state})")
    if not ssid:
        return Reading(interface, "unknown", reason=f"{interface} is {state} but the kernel tells no SSID")
    station = stations[0] if stations else {}
    return Reading(interface, "associated", ssid, _address(station.get(MAC)), _signal(station.get(STA_INFO)),
                   _number(own.get(WIPHY_FREQ)))


def _associated_ssid(network: Attributes) -> bytes:
    """Return the SSID of a scanned network if it is the associated one; a hidden one stands in the probe response."""
    bss = attributes(network.get(BSS, b""))
    if _number(bss.get(BSS_STATUS)) != ASSOCIATED:
        return b""
    return _ssid_element(bss.get(BSS_ELEMENTS, b"")) or _ssid_element(bss.get(BSS_BEACON_ELEMENTS, b""))


def _ssid_element(elements: bytes) -> bytes:
    """Return the SSID among the elements of a frame (IEEE 802.11, 9.4.2.2), nothing where it is missing or blanked."""
    at = 0
    while at + 2 <= len(elements):
        number, length = elements[at:at + 2]
        value = elements[at + 2:at + 2 + length]
        if number == 0 and len(value) == length:
            return value if any(value) else b""
        at += 2 + length
    return b""


def request(kind: int, flags: int, sequence: int, command: int, attributes: bytes) -> bytes:
    """Return one generic netlink message to the family `kind`."""
    body = GENERIC.pack(command, 1, 0) + attributes
    return MESSAGE.pack(MESSAGE.size + len(body), kind, REQUEST | flags, sequence, 0) + body


def attribute(number: int, value: bytes) -> bytes:
    """Return one attribute, padded to four bytes."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), number) + value + bytes(-len(value) % 4)


def answers(data: bytes, sequence: int, port: int) -> tuple[list[Attributes], bool]:
    """Return what one datagram answers to our question, and whether the answer ends with it.

    Messages to another port or another question are passed over.
    Raises OSError for a refusal by the kernel, ValueError or struct.error for bytes that are no netlink.
    """
    found: list[Attributes] = []
    for kind, its_sequence, its_port, body in _messages(data):
        if (its_sequence, its_port) != (sequence, port):
            continue
        if kind in (ERROR, DONE):
            code = -struct.unpack_from("=i", body)[0]
            if code:
                raise OSError(code, os.strerror(code))
            return found, True
        found.append(attributes(body[GENERIC.size:]))
    return found, False


def attributes(data: bytes) -> Attributes:
    """Return the attributes in `data` by number; raises ValueError or struct.error where the lengths are wrong."""
    return {number & ATTRIBUTE_TYPE: value for number, value in _attributes(data)}


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        length, number = ATTRIBUTE.unpack_from(data, at)
        if not ATTRIBUTE.size <= length <= len(data) - at:
            raise ValueError(f"an attribute of {length} bytes where {len(data) - at} are left")
        yield number, data[at + ATTRIBUTE.size:at + length]
        at += length + -length % 4


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    at = 0
    while at < len(data):
        length, kind, _, sequence, port = MESSAGE.unpack_from(data, at)
        if not MESSAGE.size <= length <= len(data) - at:
            raise ValueError(f"a message of {length} bytes where {len(data) - at} are left")
        yield kind, sequence, port, data[at + MESSAGE.size:at + length]
        at += length + -length % 4


def _number(value: bytes | None) -> int | None:
    return int.from_bytes(value, sys.byteorder) if value is not None else None


def _address(value: bytes | None) -> str | None:
    return value.hex(":") if value is not None and len(value) == 6 else None


def _signal(station_info: bytes | None) -> int | None:
    signal = attributes(station_info or b"").get(STA_INFO_SIGNAL)
    return int.from_bytes(signal, sys.byteorder, signed=True) if signal is not None and len(signal) == 1 else None


def _explained(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "this kernel has no nl80211"
    if error.errno in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
        return "netlink sockets are refused; the unit must allow RestrictAddressFamilies=AF_NETLINK"
    return error.strerror or str(error)


def _link(interface: str) -> dict[str, str] | None:
    directory = CLASS / interface
    try:
        lines = (directory / "uevent").read_text().splitlines()
        state = (directory / "operstate").read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return {"operstate": state} | dict(line.split("=", 1) for line in lines if "=" in line)


def _ask_nl80211(index: int, state: str, deadline: float
                 ) -> tuple[Attributes, list[Attributes], list[Attributes]]:
    interface = attribute(IFINDEX, struct.pack("=I", index))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC) as kernel:
        kernel.bind((0, 0))
        name = attribute(FAMILY_NAME, b"nl80211\0")
        [control] = exchange(kernel, request(CONTROL_FAMILY, ACK, 1, GET_FAMILY, name), 1, deadline)
        [family] = struct.unpack("=H", control[FAMILY_ID])
        [own] = exchange(kernel, request(family, ACK, 2, GET_INTERFACE, interface), 2, deadline)
        if state not in CARRIES:
            return own, [], []
        networks = [] if own.get(SSID) else exchange(
            kernel, request(family, DUMP, 3, GET_SCAN, interface), 3, deadline)
        try:
            stations = exchange(kernel, request(family, DUMP, 4, GET_STATION, interface), 4, deadline)
        except OSError:  # not every driver has this; an association without its signal is still one
            stations = []
        return own, stations, networks


def exchange(kernel: socket.socket, question: bytes, sequence: int, deadline: float) -> list[Attributes]:
    """Send a question and return all its answers; raises TimeoutError at `deadline` (monotonic), OSError if refused."""
    port = kernel.getsockname()[0]
    found: list[Attributes] = []
    kernel.settimeout(_left_s(deadline))
    kernel.send(question)
    ended = False
    while not ended:
        kernel.settimeout(_left_s(deadline))
        data, (sender, _) = kernel.recvfrom(RECEIVE_BYTES)
        if sender == 0:  # the kernel; any process may write to our port
            more, ended = answers(data, sequence, port)
            found += more
    return found


def _left_s(deadline: float) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
