"""What is sent again, and how: a paho client on a stream that takes everything and gives nothing."""

from __future__ import annotations

import io
from typing import cast

import pytest

from iotd.mqtt.client import Client
from iotd.mqtt.stream import Stream
from iotd.vocabulary import Message

RETAIN, DUP = 0x01, 0x08


@pytest.fixture
def client() -> Client:
    made = Client("device", False, cast(Stream, None), lambda mid: None)
    made._sock = io.BytesIO()  # what is sent is queued, and never written
    return made


def first_byte(client: Client, mid: int) -> int:
    return int(client.unacknowledged[mid].packet[0])


def test_what_is_repeated_takes_no_newer_ones_place_on_the_retained_slot(client: Client) -> None:
    old = client.send(Message("a", b"1", 1, True))
    other = client.send(Message("b", b"1", 1, True))
    new = client.send(Message("a", b"2", 1, True))
    for mid in (old, other, new):
        client.repeat(mid, 10.0)
    assert first_byte(client, old) & (RETAIN | DUP) == DUP
    assert first_byte(client, other) & first_byte(client, new) & (RETAIN | DUP) == RETAIN | DUP


def test_the_newest_counts_also_where_it_is_acknowledged_and_the_older_one_is_not(client: Client) -> None:
    old, new = client.send(Message("a", b"1", 1, True)), client.send(Message("a", b"2", 1, True))
    client.acknowledged(new)
    client.repeat(old, 10.0)
    assert first_byte(client, old) & RETAIN == 0


def test_what_is_not_to_be_retained_changes_nothing(client: Client) -> None:
    old, new = client.send(Message("a", b"1", 1, True)), client.send(Message("a", b"2", 1, False))
    assert client.repeat(old, 10.0) == 1 and client.repeat(old, 20.0) == 2
    assert first_byte(client, old) & RETAIN and not first_byte(client, new) & RETAIN
