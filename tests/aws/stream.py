"""The packets of a connection of asyncio, and its end."""

from __future__ import annotations

import asyncio

from tests.aws.limits import MAX_PACKET_BYTES, MAX_PAYLOAD_BYTES
from tests.faults.packets import Malformed


class Closing(Exception):
    """The line is to be closed; the text says over what."""


async def packet_from(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return the next packet as its first byte and its body. Raises Closing where it is longer than any may be."""
    first, size, shift = (await reader.readexactly(1))[0], 0, 0
    while True:
        byte = (await reader.readexactly(1))[0]
        size |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            break
        if shift > 21:
            raise Malformed("a remaining length of more than four bytes")
    if size > MAX_PACKET_BYTES:
        raise Closing(f"a packet of {size} bytes; a payload has at most {MAX_PAYLOAD_BYTES}")
    return first, await reader.readexactly(size)


async def closed(writer: asyncio.StreamWriter) -> None:
    """Close it, by force where the other side does not take its leave."""
    writer.close()
    try:
        await asyncio.wait_for(writer.wait_closed(), 1)
    except (OSError, TimeoutError):
        writer.transport.abort()
        await asyncio.sleep(0)


def common_name(writer: asyncio.StreamWriter) -> str | None:
    """Return the common name in the certificate that the client shows, None where it shows none."""
    certificate = writer.get_extra_info("peercert")
    names = [value for part in (certificate or {}).get("subject", ()) for key, value in part if key == "commonName"]
    return names[0] if names else None
