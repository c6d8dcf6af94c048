"""The rules of topic names, filters and names: MQTT's own, and what AWS IoT Core adds under `mqtt.limits`.

Each `…_problem` returns what is wrong and what would be right, or None.
Sources: MQTT 3.1.1 section 4.7; AWS IoT Core "endpoints and quotas", "MQTT topics", API reference.
"""

from __future__ import annotations

import re

AWS_MAX_PAYLOAD_BYTES = 128 * 1024
AWS_MAX_SUBSCRIPTIONS = 50
MAX_TEXT_BYTES = 65535  # MQTT 3.1.1, 1.5.3

_SHARE = "$share"

# Compiled by re when they are first used: most configurations need none of them at the start.
_BASIC_INGEST = r"^\$aws/rules/[^/]+/"
_AWS_HOST = r"(?:.*\.)?iot(?:-fips)?\..*\bamazonaws\.com(?:\.cn)?\.?"
_THING = r"[a-zA-Z0-9:_-]{1,128}"
_SHADOW = r"[$a-zA-Z0-9:_-]{1,64}"


def topic_problem(topic: str, aws_limits: bool, retain: bool) -> str | None:
    """Judge a topic name to publish to."""
    if "+" in topic or "#" in topic:
        return f"{topic!r} has a wildcard; messages are published to one exact topic"
    if aws_limits and topic.startswith("$"):
        if not re.match(_BASIC_INGEST, topic):
            return f"{topic!r} is reserved: of the topics under $, only $aws/rules/RULE/… takes messages of one's own"
        if retain:
            return f"{topic!r} cannot be retained, as no topic under $ can; write retain: false"
    return _text_problem(topic, aws_limits)


def filter_problem(filter: str, aws_limits: bool) -> str | None:
    """Judge a topic filter to subscribe to (MQTT 4.7.1), that of a shared subscription too (MQTT 5, 4.8.2)."""
    levels = filter.split("/")
    if levels[0] == _SHARE:
        if len(levels) < 3 or not levels[1] or set(levels[1]) & set("+#") or not _unshared(filter):
            return f"{filter!r} is no shared subscription; that is {_SHARE}/NAME/FILTER, its NAME without + and #"
        levels = levels[2:]
    if any("#" in level and level != "#" for level in levels) or "#" in levels[:-1]:
        return f"{filter!r} has # amid other text; it stands alone as the last level, as in a/#"
    if any("+" in level and level != "+" for level in levels):
        return f"{filter!r} has + beside other text; it stands alone as a whole level, as in a/+/b"
    return _text_problem(filter, aws_limits)


def thing_problem(name: str, aws_limits: bool) -> str | None:
    """Judge a thing name, which is also the client id (at most 128 bytes)."""
    if aws_limits and not re.fullmatch(_THING, name):
        return f"{name!r} is no thing name; AWS IoT takes 1 to 128 of a-z A-Z 0-9 : _ -"
    if not name:
        return f"{name!r} is no client id; it needs at least one character"
    if set(name) & set("+#"):
        return f"{name!r} has a wildcard; a thing stands in topics, without + and #"
    if problem := _character_problem(name):
        return problem
    if len(name.encode()) > 128:
        return f"{name!r} is {len(name.encode())} bytes long; a client id has at most 128"
    return None


def client_id_problem(name: str, aws_limits: bool) -> str | None:
    """Judge a client id that is not the thing (MQTT 3.1.1, 3.1.3.1)."""
    return _login_problem(name, "client id", 128 if aws_limits else MAX_TEXT_BYTES)


def username_problem(name: str) -> str | None:
    """Judge a user name (MQTT 3.1.1, 3.1.3.4)."""
    return _login_problem(name, "user name", MAX_TEXT_BYTES)


def shadow_problem(name: str, aws_limits: bool) -> str | None:
    """Judge the name of a named shadow."""
    if aws_limits and not re.fullmatch(_SHADOW, name):
        return f"{name!r} is no shadow name; AWS IoT takes 1 to 64 of a-z A-Z 0-9 : _ - $"
    if not name or set(name) & set("/+#"):
        return f"{name!r} is no shadow name; it becomes one level of a topic, without / + or #"
    return _character_problem(name)


def payload_problem(size_bytes: int, aws_limits: bool) -> str | None:
    """Judge the size of a payload."""
    if aws_limits and size_bytes > AWS_MAX_PAYLOAD_BYTES:
        return f"the payload has {size_bytes} bytes; AWS IoT takes at most {AWS_MAX_PAYLOAD_BYTES}"
    return None


def matches(filter: str, topic: str) -> bool:
    """Return whether a valid filter matches a topic name (MQTT 4.7; on AWS alone, `a/#` does not match `a`).

    That of a shared subscription matches what the filter in it does: messages come on their own topics.
    """
    if filter.startswith(f"{_SHARE}/"):
        filter = _unshared(filter)
    if topic.startswith("$") and filter.startswith(("+", "#")):
        return False  # 4.7.2: what the server keeps under $ is asked for by name
    levels, names = filter.split("/"), topic.split("/")
    for position, level in enumerate(levels):
        if level == "#":
            return True
        if position == len(names) or level not in ("+", names[position]):
            return False
    return len(levels) == len(names)


def covers(filter: str, other: str) -> bool:
    """Return whether a valid filter matches every topic name that another valid filter matches."""
    if other.startswith("$") and filter.startswith(("+", "#")):
        return False
    levels, others = filter.split("/"), other.split("/")
    for position, level in enumerate(levels):
        if level == "#":
            return True
        if position == len(others) or others[position] == "#" or level not in ("+", others[position]):
            return False
    return len(levels) == len(others)


def is_aws_endpoint(host: str) -> bool:
    """Return whether `host` is an endpoint of AWS IoT Core by its name; a custom domain does not show."""
    return "amazonaws" in host.lower() and re.fullmatch(_AWS_HOST, host, re.IGNORECASE) is not None


def _unshared(filter: str) -> str:
    """Return the filter in that of a shared subscription, $share/NAME/FILTER."""
    return filter.split("/", 2)[2]


def _text_problem(text: str, aws_limits: bool) -> str | None:
    """Judge what names and filters have in common (MQTT 4.7.3)."""
    if not text:
        return "is empty; a topic has at least one character"
    if problem := _character_problem(text):
        return problem
    # Both limits leave out the three levels of Basic Ingest.
    counted = re.sub(_BASIC_INGEST, "", text) if text.startswith("$") else text
    limit = 256 if aws_limits else MAX_TEXT_BYTES
    if len(counted.encode()) > limit:
        return f"{text[:40]!r}… is {len(counted.encode())} bytes long; at most {limit} are allowed"
    if aws_limits and counted.count("/") > 7:
        return f"{text!r} has {counted.count('/')} slashes; AWS IoT allows 7"
    return None


def _login_problem(name: str, what: str, limit: int) -> str | None:
    if problem := _character_problem(name):
        return problem
    if len(name.encode()) > limit:
        return f"{name[:40]!r}… is {len(name.encode())} bytes long; a {what} has at most {limit}"
    return None


def _character_problem(text: str) -> str | None:
    """Judge the characters of what MQTT sends as text (MQTT 1.5.3)."""
    found = None if text.isprintable() else next((code for code in map(ord, text) if _is_unfit(code)), None)
    if found is None:
        return None
    return f"{text!a} has {f'U+{found:04X}' if found else 'a NUL character'}, over which brokers close the line"


def _is_unfit(code: int) -> bool:
    """Tell whether it is a control character, half a pair of surrogates, or what Unicode says is no character."""
    return (code < 0x20 or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000 or 0xFDD0 <= code < 0xFDF0
            or code & 0xFFFE == 0xFFFE)
