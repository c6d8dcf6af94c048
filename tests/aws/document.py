"""The Device Shadow document: what a request makes of it and what the service answers, as pure functions.

Sources: "Device Shadow service documents", "Device Shadow error messages" and "AWS IoT Core endpoints and quotas";
where those are silent, what was observed of the cloud, then AWS's own Greengrass shadow manager.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Mapping, NoReturn

Json = Any
Object = Mapping[str, Any]

SECTIONS = ("desired", "reported")
TOO_LARGE = "The payload exceeds the maximum size allowed"
MESSAGES = {
    400: "Invalid JSON",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Thing not found",
    409: "Version conflict",
    413: TOO_LARGE,
    415: "Unsupported documented encoding; supported encoding is UTF-8",
    429: "Too Many Requests",
    500: "Internal service failure",
}


@dataclass(frozen=True, slots=True)
class Rules:
    """Quotas, and the choices where the sources contradict each other or are silent.

    `max_depth` is 6 in the error text and 8 on the quota page; a section holding only scalars is 1 deep.
    `delete_takes_a_version`: the first version after deleting version N is N + 2, else N + 1 (unconfirmed).
    `first_previous_is_null`: the documents message of a creating update says `"previous": null`, else has no such key.
    """

    max_depth: int = 6
    max_bytes: int = 8192
    max_token_bytes: int = 64
    renumber_after_s: int = 48 * 3600
    delete_takes_a_version: bool = True
    first_previous_is_null: bool = True


@dataclass(frozen=True, slots=True)
class Document:
    """A shadow after its last change; `deleted_at` (epoch seconds) is set on what a deleted one leaves behind."""

    version: int
    state: Object = field(default_factory=dict)
    metadata: Object = field(default_factory=dict)
    deleted_at: int | None = None


@dataclass(frozen=True, slots=True)
class Updated:
    """A shadow after an accepted update, and the payloads of the answers; `delta` is None while in sync."""

    document: Document
    accepted: Object
    delta: Object | None
    documents: Object


class Refusal(Exception):
    """The service refuses a request with one of its documented codes; clients branch on the code, not the text."""

    def __init__(self, code: int, message: str | None = None) -> None:
        super().__init__(f"{code} {message or MESSAGES[code]}")
        self.code = code
        self.message = message or MESSAGES[code]

    def payload(self, now: int, token: str | None) -> Object:
        """Return what goes to `rejected`."""
        return {"code": self.code, "message": self.message, "timestamp": now, **_token_part(token)}


def parse(payload: bytes) -> Object:
    """Return the object that a payload holds; raises Refusal 415 for the encoding, 400 for anything else."""
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal(415) from None
    try:
        request = json.loads(text, parse_constant=_not_json)
        dump(request)
    except (ValueError, RecursionError):  # a lone surrogate is a ValueError too, when it is written again
        raise Refusal(400, "Invalid JSON") from None
    if not isinstance(request, dict):
        raise Refusal(400, "Invalid JSON")
    return request


def dump(value: Json) -> bytes:
    """Return compact JSON in UTF-8, the form that sizes are counted in."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def token_of(request: Object, rules: Rules = Rules()) -> str | None:
    """Return the clientToken that an answer repeats, None where there is none or it is not valid."""
    token = request.get("clientToken")
    return token if isinstance(token, str) and len(token.encode()) <= rules.max_token_bytes else None


def exists(document: Document | None) -> bool:
    """Tell whether there is a shadow; one that was deleted leaves only its number behind."""
    return document is not None and document.deleted_at is None


def get(document: Document | None, label: str, request: Object, now: int, rules: Rules = Rules()) -> Object:
    """Return what goes to `get/accepted`: the whole document, with `state.delta` only where something differs.

    `label` stands in the 404: the shadow's name, or the thing's for the classic shadow. Raises Refusal.
    """
    _check_token(request, rules)
    if document is None or document.deleted_at is not None:
        raise Refusal(404, f"No shadow exists with name: '{label}'")
    state = dict(document.state)
    difference, _ = delta(document)
    if difference:
        state["delta"] = difference
    return {
        "state": state,
        "metadata": document.metadata,
        "version": document.version,
        "timestamp": now,
        **_token_part(token_of(request, rules)),
    }


def update(document: Document | None, request: Object, now: int, rules: Rules = Rules()) -> Updated:
    """Return the merged document and its answers; raises Refusal and then nothing has changed.

    The order of the checks is unconfirmed.
    """
    _check_state(request)
    _check_token(request, rules)
    _check_nodes(request, rules)
    _check_version(document, request)
    before = document if document is not None and exists(document) else None
    patch = request["state"]
    state, metadata = _merge_sections(before, patch, now)
    if sum(len(dump(section)) for section in state.values()) > rules.max_bytes:
        raise Refusal(413)
    after = Document(_number(document, now, rules) + 1, state, metadata)
    return _answers(before, after, request, now, rules)


def delete(
    document: Document | None, label: str, request: Object, now: int, rules: Rules = Rules()
) -> tuple[Document, Object]:
    """Return what a deleted shadow leaves behind and what goes to `delete/accepted`; raises Refusal."""
    _check_token(request, rules)
    if document is None or document.deleted_at is not None:
        raise Refusal(404, f"No shadow exists with name: '{label}'")
    _check_version(document, request)
    tombstone = Document(document.version + rules.delete_takes_a_version, deleted_at=now)
    return tombstone, {"version": document.version, "timestamp": now, **_token_part(token_of(request, rules))}


def delta(document: Document) -> tuple[Object, Object]:
    """Return every difference of `desired` from `reported`, and the metadata of `desired` for it; both may be empty."""
    return _difference(
        document.state.get("desired", {}), document.metadata.get("desired", {}), document.state.get("reported", {})
    )


def _answers(before: Document | None, after: Document, request: Object, now: int, rules: Rules) -> Updated:
    """All answers to one update carry the same version, time and token."""
    common = {"timestamp": now, **_token_part(token_of(request, rules))}
    patch = request["state"]
    echo = {name: patch[name] for name in SECTIONS if name in patch} if patch is not None else None
    accepted = {"state": echo, "metadata": _stamp(echo, now), "version": after.version, **common}
    difference, stamps = delta(after)
    message = {"version": after.version, "state": difference, "metadata": stamps, **common} if difference else None
    previous: Object = {"previous": _snapshot(before) if before is not None else None}
    if before is None and not rules.first_previous_is_null:
        previous = {}
    return Updated(after, accepted, message, {**previous, "current": _snapshot(after), **common})


def _snapshot(document: Document) -> Object:
    return {"state": document.state, "metadata": document.metadata, "version": document.version}


def _token_part(token: str | None) -> Object:
    return {} if token is None else {"clientToken": token}


def _number(document: Document | None, now: int, rules: Rules) -> int:
    """The version that the next update counts on from."""
    if document is None:
        return 0
    if document.deleted_at is not None and now - document.deleted_at >= rules.renumber_after_s:
        return 0
    return document.version


def _check_state(request: Object) -> None:
    if "state" not in request:
        raise Refusal(400, "Missing required node: state")
    state = request["state"]
    if state is None:
        return
    if not isinstance(state, dict):
        raise Refusal(400, "State node must be an object")
    for name in SECTIONS:
        if not isinstance(state.get(name, {}), (dict, type(None))):
            raise Refusal(400, f"{name.capitalize()} node must be an object")
    for name in state:
        if name not in SECTIONS:
            raise Refusal(400, f"State contains an invalid node: '{name}'")


def _check_token(request: Object, rules: Rules) -> None:
    if "clientToken" in request and token_of(request, rules) is None:
        raise Refusal(400, "Invalid clientToken")


def _check_nodes(request: Object, rules: Rules) -> None:
    for section in (request["state"] or {}).values():
        if _deeper_than(rules.max_depth, section):
            raise Refusal(400, f"JSON contains too many levels of nesting; maximum is {rules.max_depth}")
        if _has_null_in_array(section, inside=False):
            raise Refusal(400, "State contains an invalid node")  # this text is unconfirmed, the refusal is not


def _check_version(document: Document | None, request: Object) -> None:
    """A version sent while no shadow exists may only be 1 (Greengrass; the cloud is unconfirmed)."""
    if "version" not in request:
        return
    version = request["version"]
    if not isinstance(version, int) or isinstance(version, bool):
        raise Refusal(400, "Invalid version")
    if document is None or document.deleted_at is not None:
        if version != 1:
            raise Refusal(400, "Invalid version")
    elif version != document.version:
        raise Refusal(409)


def _merge_sections(before: Document | None, patch: Object | None, now: int) -> tuple[Object, Object]:
    """Merge a request's state; a section that is null, or that is left without keys, is gone."""
    if before is None:
        before = Document(0)
    if patch is None:
        return {}, {}
    state, metadata = dict(before.state), dict(before.metadata)
    for name, section in patch.items():
        merged: tuple[Object, Object] = ({}, {})
        if section is not None:
            merged = _merge(state.get(name, {}), metadata.get(name, {}), section, now)
        state[name], metadata[name] = merged
        if not state[name]:
            del state[name], metadata[name]
    return state, metadata


def _merge(old: Object, old_stamps: Object, patch: Object, now: int) -> tuple[Object, Object]:
    """Merge an object: null deletes, objects merge, anything else replaces; only what is touched is stamped anew."""
    state, stamps = dict(old), dict(old_stamps)
    for key, value in patch.items():
        if value is None:
            state.pop(key, None)
            stamps.pop(key, None)
        elif isinstance(value, dict):
            below, below_stamps = (state[key], stamps[key]) if isinstance(state.get(key), dict) else ({}, {})
            state[key], stamps[key] = _merge(below, below_stamps, value, now)
        else:
            state[key], stamps[key] = value, _stamp(value, now)
    return state, stamps


def _stamp(value: Json, now: int) -> Json:
    """Mirror a value: each scalar becomes its timestamp, objects and arrays keep their shape."""
    if isinstance(value, dict):
        return {key: _stamp(below, now) for key, below in value.items()}
    if isinstance(value, list):
        return [_stamp(below, now) for below in value]
    return {"timestamp": now}


def _difference(desired: Object, stamps: Object, reported: Object) -> tuple[Object, Object]:
    state: dict[str, Json] = {}
    metadata: dict[str, Json] = {}
    for key, value in desired.items():
        if key not in reported:
            state[key], metadata[key] = value, stamps[key]
        elif isinstance(value, dict) and isinstance(reported[key], dict):
            below, below_stamps = _difference(value, stamps[key], reported[key])
            if below:
                state[key], metadata[key] = below, below_stamps
        elif not _same(value, reported[key]):
            state[key], metadata[key] = value, stamps[key]
    return state, metadata


def _same(one: Json, other: Json) -> bool:
    """Compare as JSON does: 1 equals 1.0 (Greengrass; the cloud is unconfirmed), but never true."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool(one == other)


def _deeper_than(levels: int, value: Json) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    below = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper_than(levels - 1, each) for each in below)


def _has_null_in_array(value: Json, inside: bool) -> bool:
    """Null as a member of an array is refused; in an object, even one inside an array, it only deletes."""
    if isinstance(value, dict):
        return any(_has_null_in_array(below, inside=False) for below in value.values())
    if isinstance(value, list):
        return any(_has_null_in_array(below, inside=True) for below in value)
    return value is None and inside


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
