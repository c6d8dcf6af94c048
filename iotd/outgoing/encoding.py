"""How a payload waits, and what it becomes when it goes out: the times in it are filled in, and it is packed. Pure.

A Pi has no clock of its own: what it makes before a time service has answered would say a time that is wrong by as long
as it was off. So a message that has to wait has marks in the place of its times, each with the boot and the monotonic
second, which are right from the first moment on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from iotd.config.template import MOMENTS

WAITS = b"iotd:"  # in all that has to be finished
TIME = b"iotd:time:"  # in every mark; who else writes one, between two NULs, gets a time in a message of his own
GZIP = b"\0iotd:gzip\0"  # at the beginning of what is to be packed

# As JSON writes it, in quotes of its own where it is all of a value; or as it is, in a payload that is a text.
_MARK = re.compile(rb'("?)(\\u0000|\0)iotd:time:(\w+):([^:\0"\\]{1,64}):(\d{1,12}\.\d{3})\2\1')


def mark(name: str, boot: str, made_s: float) -> str:
    """Return what stands for a placeholder of the time that was filled `made_s` after the boot."""
    return f"\0{TIME.decode()}{name}:{boot}:{made_s:.3f}\0"


def finished(payload: bytes, offset_of: Callable[[str], float | None]) -> bytes:
    """Return the payload as it goes out: with the times in the place of their marks, null where a time is not known.

    `offset_of` tells how far the wall clock is ahead of the monotonic one of a boot, None where nobody knows.
    """
    packed = payload.startswith(GZIP)
    if packed:
        payload = payload[len(GZIP):]
    if TIME in payload:
        payload = _MARK.sub(lambda found: _time(found, offset_of), payload)
    if packed:
        from gzip import compress  # few ask for it

        payload = compress(payload, mtime=0)
    return payload


def _time(found: re.Match[bytes], offset_of: Callable[[str], float | None]) -> bytes:
    quote, nul, name, boot, made_s = found.groups()
    offset_s = offset_of(boot.decode("utf-8", "replace"))
    moment = MOMENTS.get(name.decode())
    value = None if offset_s is None or moment is None else moment(offset_s + float(made_s))
    if quote and nul != b"\0":
        return json.dumps(value).encode()
    return quote + (value if isinstance(value, str) else json.dumps(value)).encode() + quote
