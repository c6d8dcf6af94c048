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


@pytest.mark.parametrize("topic, thing, own", [
    ("MQTTServer/pi-17/will", "pi-17", True),
    ("MQTTServer/dev_pi-17/will", "pi-17", True),
    ("pi", "pi", True),
    ("a.b/will", "a.b", True),
    ("MQTTServer/will", "pi-17", False),
    ("pilots/will", "pi", False),
    ("fleet/api/will", "pi", False),
    ("MQTTServer/axb/will", "a.b", False),
])
def test_a_topic_is_the_devices_own_where_it_holds_the_name_of_the_thing(topic: str, thing: str, own: bool) -> None:
    assert presence.is_own(topic, thing) == own


@pytest.mark.parametrize("payload, on_own, on_shared", [
    (will(), True, True),
    (will(session="b0"), True, True),
    (will(session=...), True, True),
    (will(session={"x": [1]}, more=1), True, True),
    (will(status="Connected"), True, False),
    (will(status="Stopped"), True, False),
    (will(status="Rebooting"), True, False),
    (will(status=None), True, False),
    (will(status=...), True, False),
    (will(Hostname="former"), True, False),
    (will(Hostname=...), True, False),
    (will(Hostname=["pi"]), True, False),
    (b"", True, False),
    (will(status="Connected", session="b0"), False, False),
    (will(status="Stopped", session="b0"), False, False),
    (will(status="Connected", session="b0", Hostname="former"), False, False),
])
@pytest.mark.parametrize("own", [True, False])
def test_what_is_not_of_this_line_is_overruled_and_on_a_shared_topic_only_a_will_of_this_host(
        own: bool, payload: bytes, on_own: bool, on_shared: bool) -> None:
    overruled = on_own if own else on_shared
    standing, entry = heard(HERE, own, "pi", on_topic(payload), 150.0)
    assert standing._replace(rival=None) == (HERE._replace(again_at=150.0) if overruled else HERE)
    assert (entry is not None and entry.event == "presence.overruled") == overruled


@pytest.mark.parametrize("now, again_at", [(100.0, 101.5), (100.9, 101.5), (101.5, 101.5), (500.0, 500.0)])
def test_connected_is_said_again_no_sooner_than_a_second_after_it_was_said(now: float, again_at: float) -> None:
    assert heard(HERE, True, "pi", on_topic(will()), now)[0].again_at == again_at


def test_what_comes_while_connected_is_owed_already_says_nothing_and_puts_nothing_off() -> None:
    owed, _ = heard(HERE, True, "pi", on_topic(will()), 100.2)
    assert heard(owed, True, "pi", on_topic(will(status="Stopped")), 100.9) == (owed, None)


def test_two_devices_on_one_topic_never_answer_each_other() -> None:
    for word in (presence.LOST, presence.CONNECTED, presence.STOPPED):
        theirs = status(Presence("t/will"), "another", "c1", word)
        assert heard(HERE, False, "pi", on_topic(theirs.payload), 150.0) == (HERE, None)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("payload", [
    b"\xff\xfe", b"lost", b"null", b"[]", b"7", b'"Communication lost"', b"NaN", b"{", b"[" * 100_000,
    b"1" * 5000,
], ids=range(10))
def test_what_no_device_would_say_is_one_warning_a_line_and_does_not_stand_on_the_own_topic(
        payload: bytes, own: bool) -> None:
    standing, entry = heard(HERE, own, "pi", on_topic(payload), 150.0)
    assert standing.again_at == (150.0 if own else HERE.again_at)
    assert entry is not None and (entry.level, entry.event) == (logging.WARNING, "presence.unreadable")
    assert heard(standing, own, "pi", on_topic(payload), 150.0)[1] is None


def test_connected_of_a_session_that_was_none_of_ours_is_a_rivals() -> None:
    here = HERE
    for session in ("b1", "b2"):
        here = presence.next_line(here, session)
    ours = heard(here, True, "pi", on_topic(will(status="Connected", session="b0")), 150.0)[0]
    theirs = heard(here, True, "pi", on_topic(will(status="Connected", session="x", Hostname="copy")), 150.0)[0]
    shared = heard(here, False, "pi", on_topic(will(status="Connected", session="x")), 150.0)[0]
    assert (ours.rival, theirs.rival, shared.rival) == (None, "copy", None)
    for number in range(100):
        here = presence.next_line(here, str(number))
    assert len(here.earlier) == presence.EARLIER_SESSIONS
