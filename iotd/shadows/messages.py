"""The topics of shadows, and what stands in the messages on them. Pure.

Source: AWS IoT Core developer guide, "Device Shadow MQTT topics".
"""

import json
from collections.abc import Mapping

from iotd.shadows.section import Shadow
from iotd.vocabulary import Json

ANSWERS = ("update/accepted", "update/rejected", "update/delta", "update/documents", "get/accepted", "get/rejected")


def prefix(thing: str, name: str | None) -> str:
    """Return the topic prefix of a shadow; `name` None is the classic one."""
    classic = f"$aws/things/{thing}/shadow"
    return classic if name is None else f"{classic}/name/{name}"


def filters(thing: str, shadows: tuple[Shadow, ...]) -> tuple[str, ...]:
    """Return the filters to subscribe. One by one: AWS may add topics below `shadow/` and asks to avoid `#`."""
    return tuple(f"{prefix(thing, shadow.name)}/{answer}" for shadow in shadows for answer in ANSWERS)


def place(thing: str, shadows: tuple[Shadow, ...], topic: str) -> tuple[int, str] | None:
    """Return which shadow and which answer a topic stands for, or None for one that is not ours."""
    for index, shadow in enumerate(shadows):
        start_of_topic = prefix(thing, shadow.name) + "/"
        if topic.startswith(start_of_topic) and topic[len(start_of_topic):] in ANSWERS:
            return index, topic[len(start_of_topic):]
    return None


def parsed(payload: bytes) -> tuple[dict[str, Json] | None, str]:
    """Return the object that a payload holds, or None and what is wrong with it."""
    try:
        body = json.loads(payload)
    except (ValueError, RecursionError) as error:
        return None, f"not JSON: {error}"[:200]
    if not isinstance(body, dict):
        return None, f"a JSON {type(body).__name__}, not an object"
    return body, ""


def version_in(body: Mapping[str, Json]) -> int | None:
    """Return the version of a document, None where there is none that makes sense."""
    version = body.get("version")
    return version if isinstance(version, int) and not isinstance(version, bool) else None
