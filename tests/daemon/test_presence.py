"""What stands on the presence topic, and when Connected is said again."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from iotd.config.settings import Presence
from iotd.daemon import presence
from iotd.daemon.presence import Standing, heard, status
from iotd.vocabulary import Received

HERE = Standing("b0", said_at=100.0)


def will(**changes: Any) -> bytes:
    """The will of an earlier connection of this device, with changes; `...` takes a key away."""
    body: dict[str, Any] = {"Hostname": "pi", "status": "Communication lost", "session": "a9", **changes}
    return json.dumps({key: value for key, value in body.items() if value is not ...}).encode()


def on_topic(payload: bytes) -> Received:
    return Received(1, "t/will", payload, 1, False)


@pytest.mark.parametrize("word", [presence.LOST, presence.CONNECTED, presence.STOPPED, presence.REBOOTING])
@pytest.mark.parametrize("qos, retain", [(0, False), (1, True)])
def test_every_word_has_the_topic_the_qos_the_retain_flag_and_the_session(word: str, qos: int, retain: bool) -> None:
    message = status(Presence("t/will", retain, qos), "工場", "b0", word, timestamp=7)
    assert (message.topic, message.qos, message.retain) == ("t/will", qos, retain)
    assert json.loads(message.payload) == {"Hostname": "工場", "status": word, "session": "b0", "timestamp": 7}
    assert "工場".encode() in message.payload


@pytest.mark.parametrize("payload, overruled", [
    (will(), True),
    (will(session="b0"), True),
    (will(session=...), True),
    (will(session={"x": [1]}, more=1), True),
    (will(status="Connected"), False),
    (will(status="Stopped"), False),
    (will(status=None), False),
    (will(status=...), False),
    (will(Hostname="another"), False),
    (will(Hostname=...), False),
    (will(Hostname=["pi"]), False),
])
def test_only_a_will_that_speaks_for_this_device_is_overruled(payload: bytes, overruled: bool) -> None:
    standing, entry = heard(HERE, "pi", on_topic(payload), 150.0)
    assert standing == (HERE._replace(again_at=150.0) if overruled else HERE)
    assert (entry is not None and entry.event == "presence.overruled") == overruled


@pytest.mark.parametrize("now, again_at", [(100.0, 101.0), (100.9, 101.0), (101.0, 101.0), (500.0, 500.0)])
def test_connected_is_said_again_no_sooner_than_a_second_after_it_was_said(now: float, again_at: float) -> None:
    assert heard(HERE, "pi", on_topic(will()), now)[0].again_at == again_at


def test_two_devices_on_one_topic_never_answer_each_other() -> None:
    for word in (presence.LOST, presence.CONNECTED, presence.STOPPED):
        theirs = status(Presence("t/will"), "another", "c1", word)
        assert heard(HERE, "pi", on_topic(theirs.payload), 150.0) == (HERE, None)


@pytest.mark.parametrize("payload", [
    b"", b"\xff\xfe", b"lost", b"null", b"[]", b"7", b'"Communication lost"', b"NaN", b"{", b"[" * 100_000,
    b"1" * 5000,
])
def test_what_no_device_would_say_is_one_warning(payload: bytes) -> None:
    standing, entry = heard(HERE, "pi", on_topic(payload), 150.0)
    assert standing == HERE
    assert entry is not None and (entry.level, entry.event) == (logging.WARNING, "presence.unreadable")
