"""What a client offers in its TLS ClientHello (RFC 8446, 4.1.2), and what AWS IoT's security policies list."""

from __future__ import annotations

from dataclasses import dataclass

# "Transport security in AWS IoT Core"; the numbers are IANA's.
RECOMMENDED = {
    0x1301, 0x1302, 0x1303,  # TLS 1.3: AES-128-GCM, AES-256-GCM, CHACHA20-POLY1305
    0xC02B, 0xC02F, 0xC02C, 0xC030,  # ECDHE with ECDSA and RSA: AES-128-GCM, AES-256-GCM
}
SUPPORTED = RECOMMENDED | {
    0xC023, 0xC027, 0xC009, 0xC013,  # ECDHE, AES-128-CBC
    0xC024, 0xC028, 0xC00A, 0xC014,  # ECDHE, AES-256-CBC
    0x009C, 0x009D, 0x003C, 0x003D, 0x002F, 0x0035,  # RSA key exchange
}
_SIGNALS = {0x00FF, 0x5600}  # renegotiation info and fallback: no suites


@dataclass(frozen=True, slots=True)
class Hello:
    """The cipher suites in the client's order, and the extensions looked at (empty where they are not there)."""

    suites: tuple[int, ...]
    server_name: str
    protocols: tuple[str, ...]


def read(record: bytes) -> Hello:
    """Return what the ClientHello says that is whole in this first record."""
    assert record[0] == 22 and record[5] == 1, "the first record is no ClientHello"
    hello = record[9:]
    _, hello = hello[:34], hello[34:]
    _, hello = _vector(hello, 1)
    suites, hello = _vector(hello, 2)
    _, hello = _vector(hello, 1)
    extensions, _ = _vector(hello, 2)
    found: dict[int, bytes] = {}
    while extensions:
        kind = int.from_bytes(extensions[:2], "big")
        found[kind], extensions = _vector(extensions[2:], 2)
    numbers = (int.from_bytes(suites[at:at + 2], "big") for at in range(0, len(suites), 2))
    return Hello(tuple(number for number in numbers if number not in _SIGNALS),
                 _server_name(found.get(0, b"")), _protocols(found.get(16, b"")))


def _server_name(extension: bytes) -> str:
    names, _ = _vector(extension, 2)
    return _vector(names[1:], 2)[0].decode() if names else ""


def _protocols(extension: bytes) -> tuple[str, ...]:
    names, _ = _vector(extension, 2)
    found = []
    while names:
        name, names = _vector(names, 1)
        found.append(name.decode())
    return tuple(found)


def _vector(data: bytes, size: int) -> tuple[bytes, bytes]:
    """Return a vector that is led by its length in `size` bytes, and what follows it."""
    end = size + int.from_bytes(data[:size], "big")
    return data[size:end], data[end:]
