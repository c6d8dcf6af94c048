"""What a program asks for: a line of JSON becomes a small frozen value, or the reason why it cannot. Pure."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from iotd.errors import nearest
from iotd.vocabulary import Json, Message, Offer

MAX_LINE_BYTES = 256 * 1024
TOO_LONG = f"the line is longer than {MAX_LINE_BYTES // 1024} KB; the connection is closed"

_BODIES = ("payload", "text", "base64")
_OFFLINE = ("queue", "latest", "drop")


class Tell(NamedTuple):
    """`{"set": NAME, "value": …}`."""

    name: str
    value: Json


class Listen(NamedTuple):
    """`{"listen": FILTER}`."""

    filter: str


class Ask(NamedTuple):
    """`{"ask": WORD}`, of root and the daemon's own user alone."""

    word: str


class Status(NamedTuple):
    """`{"status": true}`."""


class Clear(NamedTuple):
    """`{"clear_retained": TOPIC}`; without a topic `{"clear_retained": true}`: every orphan."""

    topic: str | None


class Refused(NamedTuple):
    """What is no request, and why."""

    why: str


Request = Offer | Tell | Listen | Ask | Status | Clear | Refused


class _Wrong(ValueError):
    """A request cannot be used; the text says why."""


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


_decode = json.JSONDecoder(parse_constant=_no_json).decode
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def parse(line: bytes) -> Request:
    """Return what the line, without its end, asks for."""
    try:
        body = _decode(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        why = "nested too deep" if isinstance(error, RecursionError) else str(error)
        return Refused(f"the line is no JSON in UTF-8: {why}")
    if not isinstance(body, dict):
        return Refused('the line is no JSON object; expected one such as {"publish": "a/b", "payload": 1}')
    read = next((read for key, read in _KINDS.items() if key in body), None)
    if read is None:
        return Refused(f"asks for nothing that is known; expected one of the keys {', '.join(_KINDS)}")
    try:
        return read(body)
    except _Wrong as error:
        return Refused(str(error))


def _publish(body: dict[str, Json]) -> Offer:
    topic, qos = body.pop("publish"), body.pop("qos", 1)
    retain, offline = body.pop("retain", False), body.pop("offline", "queue")
    if not isinstance(topic, str):
        raise _Wrong(f"publish: expected a topic, found {_short(topic)}")
    if type(qos) is not int or qos not in (0, 1):
        raise _Wrong(f"qos: expected 0 or 1, found {_short(qos)}")
    if not isinstance(retain, bool):
        raise _Wrong(f"retain: expected true or false, found {_short(retain)}")
    if offline not in _OFFLINE:
        raise _Wrong(f"offline: expected queue, latest or drop, found {_short(offline)}")
    given = [key for key in _BODIES if key in body]
    if len(given) != 1:
        raise _Wrong(f"expected one of payload, text and base64, found {' and '.join(given) or 'none'}")
    payload = _payload(given[0], body.pop(given[0]))
    _nothing_else(body, ("publish", *_BODIES, "qos", "retain", "offline"))
    try:
        topic.encode()
    except UnicodeEncodeError:
        raise _Wrong(f"publish: {_short(topic)} is no text in UTF-8") from None
    return Offer(Message(topic, payload, qos, retain), offline)


def _payload(kind: str, value: Json) -> bytes:
    if kind == "payload":
        try:  # half a surrogate pair becomes its escape, which is how JSON has it
            return _encode(value).encode("utf-8", "backslashreplace")
        except (ValueError, RecursionError):
            raise _Wrong("payload: holds a number beyond JSON's, or is nested too deep") from None
    if not isinstance(value, str):
        raise _Wrong(f"{kind}: expected text, found {_short(value)}")
    try:
        return value.encode() if kind == "text" else base64.b64decode(value, validate=True)
    except UnicodeEncodeError:
        raise _Wrong("text: is no text in UTF-8; send bytes as base64") from None
    except (binascii.Error, ValueError) as error:
        raise _Wrong(f"base64: {error}") from None


def _set(body: dict[str, Json]) -> Tell:
    name = body.pop("set")
    if not isinstance(name, str):
        raise _Wrong(f"set: expected the name of a value, found {_short(name)}")
    if "value" not in body:
        raise _Wrong("value: is missing; null is said as null")
    value = body.pop("value")
    _nothing_else(body, ("set", "value"))
    return Tell(name, value)


def _listen(body: dict[str, Json]) -> Listen:
    name = body.pop("listen")
    if not isinstance(name, str):
        raise _Wrong(f"listen: expected a topic filter, found {_short(name)}")
    _nothing_else(body, ("listen",))
    return Listen(name)


def _ask(body: dict[str, Json]) -> Ask:
    word = body.pop("ask")
    if not isinstance(word, str):
        raise _Wrong(f"ask: expected a word, found {_short(word)}")
    _nothing_else(body, ("ask",))
    return Ask(word)


def _status(body: dict[str, Json]) -> Status:
    asked = body.pop("status")
    if asked is not True:
        raise _Wrong(f"status: expected true, found {_short(asked)}")
    _nothing_else(body, ("status",))
    return Status()


def _clear(body: dict[str, Json]) -> Clear:
    topic = body.pop("clear_retained")
    if topic is not True and not isinstance(topic, str):
        raise _Wrong(f"clear_retained: expected a topic, or true for all orphans, found {_short(topic)}")
    _nothing_else(body, ("clear_retained",))
    return Clear(None if topic is True else topic)


def _nothing_else(body: Mapping[str, Json], known: tuple[str, ...]) -> None:
    for key in body:
        meant = nearest(key, known)
        hint = f"did you mean {meant}?" if meant else f"known here are {', '.join(known)}"
        raise _Wrong(f"{_short(key)}: unknown key; {hint}")


def _short(value: Json) -> str:
    """Return a value of a request as an answer may show it."""
    try:
        text = json.dumps(value)
    except RecursionError:
        return "something nested too deep"
    return text if len(text) <= 80 else f"{text[:79]}…"


_KINDS: Mapping[str, Callable[[dict[str, Any]], Request]] = {
    "publish": _publish, "set": _set, "listen": _listen, "ask": _ask, "status": _status, "clear_retained": _clear}
