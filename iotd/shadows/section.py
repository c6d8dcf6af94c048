"""The section `shadows`: what is reported and desired, what decides {health}, and what is done about a delta."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from iotd.config import override
from iotd.config.document import Cursor, Wrong, quoted
from iotd.config.readers import boolean, command, duration, listed, optional, template_mapping, text, timeout
from iotd.config.section import (
    PUBLISH, SUBSCRIBE, Named, Note, Section, Use, advise_of_placeholders, note_if, period_of_an_item,
)
from iotd.config.settings import Settings
from iotd.config.template import PAYLOAD, REPORT
from iotd.mqtt import topics
from iotd.shadows.documents import has_null_in_list
from iotd.vocabulary import Json

AWS_MAX_SHADOW_BYTES = 8 * 1024
AWS_MAX_SHADOW_DEPTH = 5  # the lowest of the three numbers that AWS documents
FILTERS = 6  # of one shadow
OWN_KEY = "iotd"  # what iotd itself reports of checks and orders


class Check(NamedTuple):
    """One thing that is watched, of a kind in `kinds.KINDS`; two shadows with an equal check share its results.

    `subject` is what stands under the kind's own key, `limit` under those that stand beside it: of a value, its least,
    its most (None: any) and for how many seconds it may be outside.
    """

    name: str
    kind: str
    subject: Any
    limit: Any = None
    every_s: float = 30.0
    timeout_s: float = 5.0


class Run(NamedTuple):
    """What is desired is done by a command: its arguments, `{value}` in one of them, no shell."""

    command: tuple[str, ...]
    timeout_s: float = 30.0


class Set(NamedTuple):
    """What is desired becomes the value of one of iotd's settings, such as `publish[0].every`."""

    setting: str


Action = Run | Set


class Shadow(NamedTuple):
    """One shadow of the thing; `name` is None for the classic one. `files`: other programs join it by files."""

    name: str | None = None
    every_s: float = 30.0
    desired: Mapping[str, Json] = {}
    reported: Mapping[str, Json] = {}
    healthy: str = "ヨシッ👉"
    unhealthy: str = "ダメ🙅"
    checks: tuple[Check, ...] = ()
    on_delta: Mapping[str, Action] = {}
    files: bool = False


def _shadow(at: Cursor) -> Shadow:
    return Shadow(**at.fields({
        "name": ("name", optional(text)),
        "every": ("every_s", duration),
        "desired": ("desired", template_mapping(PAYLOAD - {"sequence"})),
        "reported": ("reported", template_mapping(REPORT)),
        "healthy": ("healthy", text),
        "unhealthy": ("unhealthy", text),
        "checks": ("checks", _checks),
        "on_delta": ("on_delta", _on_delta),
        "files": ("files", boolean),
    }))


def _checks(at: Cursor) -> tuple[Check, ...]:
    from iotd.shadows import kinds  # with all that looks at processes and sockets: only where there are checks

    return tuple(listed(kinds.read, "- unit: …")(at))


def _on_delta(at: Cursor) -> dict[str, Action]:
    if at.is_empty():
        return {}
    return {key: action for key, child in at.entries() for action in child.read(_action)}


def _action(at: Cursor) -> Action:
    values = at.fields({
        "run": ("command", command(frozenset({"value"}))),
        "set": ("setting", text),
        "timeout": ("timeout_s", timeout),
    })
    written = at.keys()
    if not at.is_mapping():
        return Run(("",))  # noted already
    if len(written & {"run", "set"}) != 1:
        raise Wrong("expected either run, a command, or set, the name of a setting")
    if "set" in written and "timeout" in written:
        raise Wrong("timeout is for run; to set takes no time")
    if "setting" in values:
        return Set(values["setting"])
    return Run(**values) if "command" in values else Run(("",))  # its problem is noted already


def _check(settings: Settings, note: Note) -> None:
    shadows, aws = settings.sections["shadows"], settings.mqtt.aws_limits
    first: dict[str | None, int] = {}
    for position, shadow in enumerate(shadows):
        key = f"shadows[{position}]"
        if shadow.name is not None:
            note_if(note, f"{key}.name", topics.shadow_problem(shadow.name, aws))
        if first.setdefault(shadow.name, position) != position:
            name = "the classic shadow" if shadow.name is None else quoted(shadow.name)
            note(f"{key}.name", f"{name} is already shadows[{first[shadow.name]}]; keep one of the two")
        for part, state in (("desired", shadow.desired), ("reported", shadow.reported)):
            if aws and _depth(state) > AWS_MAX_SHADOW_DEPTH:
                note(f"{key}.{part}", f"{_depth(state)} levels deep; AWS IoT is sure to take {AWS_MAX_SHADOW_DEPTH}")
            for name in (name for name, value in state.items() if has_null_in_list(value)):
                note(f"{key}.{part}.{name}", "a list in it has a null, which a shadow cannot hold; leave it out")
        _check_watching(settings, shadow, key, note)
        if shadow.files and any(other.files for other in shadows[:position]):
            note(f"{key}.files", "another shadow has the files already; one at most can have them")
        total = _size_of(shadow.desired) + _size_of(shadow.reported)
        if aws and total > AWS_MAX_SHADOW_BYTES:
            note(key, f"desired and reported have {total} bytes; AWS IoT takes {AWS_MAX_SHADOW_BYTES} for both")


def _check_watching(settings: Settings, shadow: Shadow, key: str, note: Note) -> None:
    for part, keys in (("reported", shadow.reported), ("on_delta", shadow.on_delta)):
        if OWN_KEY in keys:
            note(f"{key}.{part}.{OWN_KEY}", "iotd reports its checks and orders under this key; choose another one")
    names = [check.name for check in shadow.checks]
    for place, name in enumerate(names):
        if name and name in names[:place]:
            note(f"{key}.checks[{place}]", f"{quoted(name)} is already the name of checks[{names.index(name)}]; "
                                           "give one of the two another name")
    for desired_key, action in shadow.on_delta.items():
        if isinstance(action, Set):
            note_if(note, f"{key}.on_delta.{desired_key}.set", override.problem(action.setting, settings))


def _advise(settings: Settings, others: Sequence[Use], note: Note) -> None:
    for position, shadow in enumerate(settings.sections["shadows"]):
        for part, state in (("desired", shadow.desired), ("reported", shadow.reported)):
            advise_of_placeholders(settings, note, f"shadows[{position}].{part}", state)


def _look(settings: Settings, note: Note) -> None:
    from iotd.shadows import kinds

    for position, shadow in enumerate(settings.sections["shadows"]):
        for place, check in enumerate(shadow.checks):
            kind = kinds.KINDS[check.kind]
            note_if(note, f"shadows[{position}].checks[{place}].{check.kind}", kind.impossible(check.subject))


def _names(settings: Settings) -> Iterator[Named]:
    for position, shadow in enumerate(settings.sections["shadows"]):
        for place, check in enumerate(shadow.checks):
            if check.kind in ("file", "disk", "command"):
                words = check.subject if check.kind == "command" else (check.subject,)
                yield Named(f"shadows[{position}].checks[{place}].{check.kind}", words, check.kind == "command")
        for key, action in shadow.on_delta.items():
            if isinstance(action, Run):
                yield Named(f"shadows[{position}].on_delta.{key}.run", action.command, True)


def _uses(shadows: tuple[Shadow, ...], thing: str) -> list[Use]:
    from iotd.shadows import messages

    requests = [f"{messages.prefix(thing, shadow.name)}/{verb}" for shadow in shadows for verb in ("get", "update")]
    return [*(Use(PUBLISH, name) for name in requests),
            *(Use(SUBSCRIBE, name) for name in messages.filters(thing, shadows))]


def _size_of(tree: Json) -> int:
    return len(json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode())


def _depth(tree: Json) -> int:
    if not isinstance(tree, (dict, list)):
        return 0
    return 1 + max((_depth(child) for child in (tree.values() if isinstance(tree, dict) else tree)), default=0)


SECTIONS = {"shadows": Section(
    listed(_shadow, "- name: …"), (), check=_check, advise=_advise, filters=lambda shadows: FILTERS * len(shadows),
    settable=(period_of_an_item("shadows"),), look=_look, names=_names, uses=_uses)}
