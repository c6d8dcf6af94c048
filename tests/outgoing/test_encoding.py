"""How a payload waits: marks of time, and what they become."""

from __future__ import annotations

import gzip
import json

import pytest

from iotd.config.template import compile_payload
from iotd.outgoing import encoding
from iotd.vocabulary import Json

BOOT = "0f0f0f0f-1111-2222-3333-444444444444"
WALL = 1_900_000_000.25


def made(tree: Json) -> bytes:
    """Return a payload that was made 100.5 s after the boot and waits."""
    names = ("timestamp", "isotime")
    return compile_payload(tree)({name: encoding.mark(name, BOOT, 100.5) for name in names}).encode()


def known(boot: str) -> float | None:
    return WALL - 100.5 if boot == BOOT else None


@pytest.mark.parametrize("tree, filled, unknown", [
    ({"t": "{timestamp}"}, '{"t": 1900000000}', '{"t": null}'),
    ({"t": "{isotime}"}, '{"t": "2030-03-17T17:46:40.250+00:00"}', '{"t": null}'),
    ({"t": "at {timestamp}, {isotime}"}, '{"t": "at 1900000000, 2030-03-17T17:46:40.250+00:00"}',
     '{"t": "at null, null"}'),
    ({"t": '"{timestamp}"'}, '{"t": "\\"1900000000\\""}', '{"t": "\\"null\\""}'),
    (["{timestamp}", ["{timestamp}"]], "[1900000000, [1900000000]]", "[null, [null]]"),
    ("{timestamp}", "1900000000", "null"),
    ("{isotime}", "2030-03-17T17:46:40.250+00:00", "null"),
    ('say "{timestamp}"', 'say "1900000000"', 'say "null"'),
    ({"t": 5}, '{"t": 5}', '{"t": 5}'),
])
def test_a_time_that_waited_is_what_it_would_have_been_and_null_where_nobody_knows(
    tree: Json, filled: str, unknown: str
) -> None:
    assert encoding.finished(made(tree), known).decode() == filled
    assert encoding.finished(made(tree), lambda boot: None).decode() == unknown


@pytest.mark.parametrize("payload", [
    b"", b"iotd:time:", b"\0iotd:time:timestamp:b:1.000", b"\0iotd:time:timestamp:b:x\0", b"\\u0000iotd:time:\\u0000",
    b"\0iotd:time:timestamp:b:1.000\\u0000", b'"iotd:time:timestamp:b:1.000"', b"a\0iotd:gzip\0b",
    b"\xff\xfeiotd:time:\0" * 9,
])
def test_what_is_no_mark_stays_as_it_is(payload: bytes) -> None:
    assert encoding.finished(payload, lambda boot: 0.0) == payload


@pytest.mark.parametrize("boot", [b"b" * 65, b"\xff\xff"])
def test_a_mark_of_nobody_s_boot_is_bounded_and_unknown(boot: bytes) -> None:
    payload = b"\0iotd:time:timestamp:%s:1.000\0" % boot
    assert encoding.finished(payload, lambda named: None) in (payload, b"null")


def test_what_is_packed_has_its_times_and_is_the_same_each_time() -> None:
    payload = encoding.GZIP + made({"t": "{timestamp}", "text": "接続ヨシッ👉" * 50})
    packed = encoding.finished(payload, known)
    assert json.loads(gzip.decompress(packed)) == {"t": 1900000000, "text": "接続ヨシッ👉" * 50}
    assert packed == encoding.finished(payload, known) and len(packed) < 200
