"""What nl80211's bytes amount to, and what a look says where there is no Wi-Fi at all."""

from __future__ import annotations

import errno
import socket
import struct
import time

import pytest

from iotd.wifi.nl80211 import NETLINK_GENERIC, answers, attributes, exchange, look, reading
from iotd.wifi.reading import ssid_text

OWN = {5: b"\2\0\0\0", 38: struct.pack("=I", 2437), 52: b"fleet-ap"}
KEYLESS = "wlan0 has joined a network but not yet got its keys; is the passphrase right (link dormant)"
STATION = {6: bytes.fromhex("020000000100"), 21: b"\5\0\7\0\xe2\0\0\0"}


# GET_INTERFACE as Debian's 6.12 with mac80211_hwsim answers it while associated under wpa_supplicant: without an SSID.
CAPTURED = bytes.fromhex(
    "e400000023000000020000000e0200000701000008000300020000000a000400776c616e30000000080001000000000008000500020000"
    "000c00990001000000000000000a000600020000000000000008002e000e000000050053000000000008004d0100000000080026008509"
    "00000800220100000000080027000000000008009f00000000000800a0008509000008006200d00700004c000901080001000000000008"
    "0002000000000008000300000000000800040000000000080005000000000008000600000000000800080000000000080009000000000008"
    "000a0000000000")


def nested(number: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)


def network(elements: bytes, beacon: bytes = b"", status: int | None = 1) -> dict[int, bytes]:
    """A scanned network; the status is 1 for the associated one and missing for the others."""
    standing = b"" if status is None else nested(9, struct.pack("=I", status))
    return {47: nested(6, elements) + standing + nested(11, beacon)}


def message(kind: int, sequence: int, port: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, sequence, port) + body + bytes(-len(body) % 4)


def answer(sequence: int = 7, port: int = 99, ssid: bytes = b"fleet-ap") -> bytes:
    attribute = struct.pack("=HH", 4 + len(ssid), 52) + ssid
    return message(33, sequence, port, b"\7\1\0\0" + attribute)


def acknowledgement(code: int, sequence: int = 7, port: int = 99) -> bytes:
    return message(2, sequence, port, struct.pack("=i", -code) + bytes(16))


def test_an_association_is_read_with_its_signal_its_access_point_and_its_frequency() -> None:
    found = reading("wlan0", "up", OWN, [STATION], [])
    assert (found.outcome, found.ssid, found.bssid) == ("associated", b"fleet-ap", "02:00:00:00:01:00")
    assert (found.rssi_dbm, found.frequency_mhz, found.reason) == (-30, 2437, "")


def test_an_association_counts_where_the_driver_tells_no_signal() -> None:
    found = reading("wlan0", "up", {5: b"\2\0\0\0", 52: b"fleet-ap"}, [], [])
    assert (found.outcome, found.bssid, found.rssi_dbm, found.frequency_mhz) == ("associated", None, None, None)


@pytest.mark.parametrize("state, own, outcome, reason", [
    ("down", OWN, "disconnected", "wlan0 is not yet associated with 'fleet-ap' (link down)"),
    ("dormant", OWN, "disconnected", KEYLESS),
    ("down", {5: b"\2\0\0\0"}, "disconnected", "wlan0 is not associated (link down)"),
    ("up", {**OWN, 5: b"\3\0\0\0"}, "disconnected", "wlan0 is no client of a network (mode 3)"),
    ("up", {5: b"\2\0\0\0"}, "unknown", "wlan0 is up but the kernel tells no SSID"),
])
def test_an_ssid_alone_is_no_association(state: str, own: dict[int, bytes], outcome: str, reason: str) -> None:
    found = reading("wlan0", state, own, [STATION], [])
    assert (found.outcome, found.reason, found.ssid) == (outcome, reason, None)


@pytest.mark.parametrize("networks, ssid", [
    ([network(b"\0\5other", status=None), network(b"\0\x08fleet-ap\1\1\x82")], b"fleet-ap"),
    ([network(b"\1\1\0\0\x02\0x")], b"\0x"),
    ([network(b"\0\0", b"\0\x08fleet-ap")], b"fleet-ap"),
    ([network(b"\0\3\0\0\0", b"\0\x08fleet-ap")], b"fleet-ap"),
    ([network(b"\0\x08fleet-ap", status=0)], None),
    ([network(b"\0\x08fleet", b"\0")], None),
    ([network(b"\1\xff\0\1x")], None),
    ([{}], None),
    ([], None),
])
def test_without_an_ssid_of_its_own_the_interface_has_that_of_the_associated_network(
        networks: list[dict[int, bytes]], ssid: bytes | None) -> None:
    [own], _ = answers(CAPTURED, 2, 526)
    found = reading("wlan0", "up", own, [STATION], networks)
    assert (found.ssid, found.outcome) == (ssid, "associated" if ssid else "unknown")
    assert found.frequency_mhz == (2437 if ssid else None)


def test_an_ssid_longer_than_the_standard_allows_is_no_ssid() -> None:
    with pytest.raises(ValueError, match="33 bytes"):
        reading("wlan0", "up", {**OWN, 52: b"x" * 33}, [], [])


@pytest.mark.parametrize("ssid, text", [
    (b" two  words ", " two  words "),
    (b"\"quoted\" 'twice'", "\"quoted\" 'twice'"),
    ("工場 2F".encode(), "工場 2F"),
    (b"caf\xe9", "caf\\xe9"),
    (b"\0\0", "\0\0"),
])
def test_an_ssid_becomes_text_whatever_its_bytes(ssid: bytes, text: str) -> None:
    assert ssid_text(ssid) == text


def test_answers_to_others_are_passed_over() -> None:
    data = answer(sequence=6, ssid=b"late") + answer(port=98, ssid=b"foreign") + answer() + acknowledgement(0)
    assert answers(data, 7, 99) == ([{52: b"fleet-ap"}], True)


def test_a_datagram_without_an_end_asks_for_the_next() -> None:
    assert answers(answer() + answer(ssid=b"second"), 7, 99) == ([{52: b"fleet-ap"}, {52: b"second"}], False)


def test_a_dump_ends_with_its_done_message() -> None:
    assert answers(answer() + message(3, 7, 99, struct.pack("=i", 0)), 7, 99) == ([{52: b"fleet-ap"}], True)


@pytest.mark.parametrize("code", [errno.ENODEV, errno.EPERM, errno.ENOENT])
def test_a_refusal_is_raised_with_its_number(code: int) -> None:
    with pytest.raises(OSError) as raised:
        answers(acknowledgement(code), 7, 99)
    assert raised.value.errno == code


@pytest.mark.parametrize("data", [
    *(answer()[:length] for length in range(1, len(answer()))),
    struct.pack("=IHHII", 0, 33, 0, 7, 99),
    struct.pack("=IHHII", 15, 33, 0, 7, 99),
    struct.pack("=IHHII", 0xFFFFFFFF, 33, 0, 7, 99),
    message(33, 7, 99, b"\7\1\0\0" + struct.pack("=HH", 0, 52)),
    message(33, 7, 99, b"\7\1\0\0" + struct.pack("=HH", 3, 52)),
    message(33, 7, 99, b"\7\1\0\0" + struct.pack("=HH", 0xFFFF, 52)),
    message(33, 7, 99, b"\7\1\0\0\5"),
    message(2, 7, 99, b"\0\0"),
])
def test_truncated_and_hostile_bytes_are_refused_and_end(data: bytes) -> None:
    with pytest.raises((ValueError, struct.error)):
        answers(data, 7, 99)


def test_the_flags_in_an_attribute_type_are_no_part_of_it() -> None:
    assert attributes(struct.pack("=HH", 4, 52 | 0x8000)) == {52: b""}


def test_a_missing_interface_is_absent() -> None:
    found = look("nowhere0")
    assert (found.outcome, found.reason) == ("absent", "there is no interface nowhere0")


def test_a_wired_interface_is_unknown_and_never_wrong() -> None:
    found = look("lo")
    assert (found.outcome, found.reason) == ("unknown", "lo is not a Wi-Fi interface; name one that is")


def test_a_real_kernel_answers_and_refuses() -> None:
    """The control family exists in every kernel; a family of a made-up name in none."""
    def ask(name: bytes, sequence: int) -> list[dict[int, bytes]]:
        attribute = struct.pack("=HH", 4 + len(name), 2) + name + bytes(-len(name) % 4)
        question = struct.pack("=IHHIIBBH", 20 + len(attribute), 16, 5, sequence, 0, 3, 1, 0) + attribute
        return [dict(found) for found in exchange(kernel, question, sequence, time.monotonic() + 2)]

    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC) as kernel:
        kernel.bind((0, 0))
        [control] = ask(b"nlctrl\0", 1)
        assert control[1] == struct.pack("=H", 16)
        with pytest.raises(FileNotFoundError):
            ask(b"made-up\0", 2)


def test_a_silent_kernel_costs_no_more_than_the_limit() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC) as kernel:
        kernel.bind((0, 0))
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            exchange(kernel, struct.pack("=IHHIIBBH", 20, 16, 0, 1, 0, 3, 1, 0)[:19], 1, began + 0.05)
        assert time.monotonic() - began < 1


def test_no_flood_of_answers_outlasts_the_limit() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC) as kernel:
        with pytest.raises(TimeoutError):
            exchange(kernel, b"", 1, time.monotonic() - 1)
