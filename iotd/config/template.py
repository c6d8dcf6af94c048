"""Texts with placeholders such as `{hostname}`, in a tree of JSON: parsed once, filled for every message."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from operator import itemgetter

from iotd.errors import nearest
from iotd.vocabulary import Json
from iotd.wings import WINGS

# What stands for what is looked up by `iotd.daemon.placeholders`; a wing's names stand in `iotd.wings`.
EVERYWHERE = frozenset({"hostname", "thing", "machine_id", "cpu_serial"})
FACTS = frozenset({"temperature", "load", "memory_available", "disk_free", "throttled", "cpu_serial", "model",
                   "os_release", "iotd_version", "reboot_required"})
# What those of the time say of a moment, epoch seconds.
MOMENTS: Mapping[str, Callable[[float], Json]] = {
    "timestamp": int,
    "isotime": lambda at: datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="milliseconds"),
}
PAYLOAD = EVERYWHERE | FACTS | MOMENTS.keys() | {"clock", "boot_id", "uptime", "sequence", "run", "boot_cause"} | {
    name for wing in WINGS for name in wing.placeholders}
REPORT = PAYLOAD | {"health"}

Fill = Callable[[Mapping[str, Json]], Json]

_write = json.JSONEncoder(ensure_ascii=False).encode
_TOKEN = re.compile(r"{{|}}|{([^{}]*)}|{(\w*)|}")


class TemplateError(ValueError):
    """A template cannot be read; the text says why and what would be right."""


def placeholders(tree: Json) -> frozenset[str]:
    """Return the name of every placeholder in the strings of `tree`; the keys of mappings are no templates.

    Raises TemplateError on a brace without its partner; any name is taken.
    """
    return frozenset(name for text in _strings(tree) for name in _parse(text)[1])


def check(text: str, known: frozenset[str], defined: Iterable[str] = ()) -> None:
    """Raise TemplateError if `text` has a brace without its partner or a placeholder that is not in `known`.

    `defined` are those that the file itself defines; of these, members are placeholders too: `{pump.valves.0}`.
    """
    for name in _parse(text)[1]:
        head, *members = name.split(".")
        if name not in known and not (head in defined and all(members)):
            raise TemplateError(_unknown(name, known, defined))


def compile_tree(tree: Json, known: frozenset[str] | None = None) -> Fill:
    """Return a function that takes the values of the placeholders and returns `tree` with its templates filled.

    A string that is exactly one placeholder becomes that value, of whatever type; elsewhere a value is inserted as
    text, and what is no text as JSON writes it. `{{` and `}}` are literal braces. Subtrees without placeholders are
    shared between all results, so nobody may change them. Raises TemplateError as `check` does, where `known` is given;
    the function that is returned raises KeyError for a value that is missing.
    """
    constant, fill = _compile(tree, known)
    return fill or (lambda values: constant)


def compile_json(tree: Json, known: frozenset[str] | None = None) -> Callable[[Mapping[str, Json]], str]:
    """Return a function that gives what that of `compile_tree` does as JSON text, of which only the values of the
    placeholders are written each time.
    """
    head, fills = "", list[tuple[Fill, str]]()
    for piece in _pieces(tree, known):
        if not isinstance(piece, str):
            fills.append((piece, ""))
        elif fills:
            fills[-1] = (fills[-1][0], fills[-1][1] + piece)
        else:
            head += piece

    def fill_text(values: Mapping[str, Json]) -> str:
        text = head
        for fill, tail in fills:
            value = fill(values)
            text += (str(value) if type(value) is int else _write(value)) + tail
        return text

    return fill_text


def compile_payload(tree: Json, known: frozenset[str] | None = None) -> Callable[[Mapping[str, Json]], str]:
    """Return a function that gives what `compile_json` does, but of a text the text itself, not in JSON's quotes."""
    if not isinstance(tree, str):
        return compile_json(tree, known)
    fill = compile_tree(tree, known)

    def fill_text(values: Mapping[str, Json]) -> str:
        value = fill(values)
        return value if isinstance(value, str) else _write(value)

    return fill_text


def fill_command(command: Sequence[str], values: Mapping[str, str], wary: bool = True) -> tuple[str, ...]:
    """Return the arguments with their placeholders filled, each value a part of the one argument that it stands in.

    Raises ValueError for a value that no program can be given (NUL), or, where `wary`, that it may take for an option:
    one that begins with - at the beginning of an argument, with no -- before it.
    """
    filled: list[str] = []
    for position, argument in enumerate(command):
        literals, names = _parse(argument)
        if any("\0" in values[name] for name in names):
            raise ValueError("it has a NUL character, which no argument of a command can have")
        filled.append("".join([literals[0], *(values[name] + tail for name, tail in zip(names, literals[1:]))]))
        is_option = wary and names and not literals[0] and filled[-1].startswith("-")
        if is_option and "--" not in command[:position]:
            raise ValueError("it begins with -, which the command may take for an option; "
                             f"put \"--\" before {{{names[0]}}} where the command knows that")
    return tuple(filled)


def _pieces(tree: Json, known: frozenset[str] | None) -> Iterator[str | Fill]:
    """Yield the JSON text of `tree`, with a function in the place of each string that has placeholders."""
    if isinstance(tree, dict):
        yield "{"
        for number, (key, child) in enumerate(tree.items()):
            yield f"{', ' if number else ''}{_write(key)}: "
            yield from _pieces(child, known)
        yield "}"
    elif isinstance(tree, list):
        yield "["
        for number, child in enumerate(tree):
            yield ", " if number else ""
            yield from _pieces(child, known)
        yield "]"
    else:
        constant, fill = _compile_text(tree, known) if isinstance(tree, str) else (tree, None)
        yield fill or _write(constant)


def _strings(tree: Json) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, (dict, list)):
        for child in tree.values() if isinstance(tree, dict) else tree:
            yield from _strings(child)


def _parse(text: str) -> tuple[list[str], list[str]]:
    """Return the literal texts and the names between them: always one literal more than names."""
    literals, names, end = [""], [], 0
    for token in _TOKEN.finditer(text):
        literals[-1] += text[end:token.start()]
        end = token.end()
        if token[0] in ("{{", "}}"):
            literals[-1] += token[0][0]
        elif token[1] is not None:
            names.append(token[1])
            literals.append("")
        elif token[0] == "}":
            raise TemplateError("} closes no placeholder; write }} for a literal brace")
        else:
            raise TemplateError(f"{token[0]} is not closed; {_nearest(token[2], REPORT)}write {{{{ for a literal brace")
    literals[-1] += text[end:]
    return literals, names


def _unknown(name: str, known: frozenset[str], defined: Iterable[str]) -> str:
    here = sorted(known.union(defined))
    if name in REPORT:
        return f"{{{name}}} has no value here; known here are {', '.join(here)}"
    head, dot, members = name.partition(".")
    meant = nearest(head, here)
    if dot and head in (*known, *defined):
        hint = "expected a name behind each dot; " if head in defined else f"{{{head}}} has no members; "
    elif meant:
        hint = f"did you mean {{{meant}{dot}{members}}}? "
    else:
        hint = f"known here are {', '.join(here)}; "
    return f"unknown placeholder {{{name}}}; {hint}write {{{{{name}}}}} for literal braces"


def _nearest(name: str, known: frozenset[str]) -> str:
    meant = nearest(name, sorted(known))
    return f"did you mean {{{meant}}}? " if meant else ""


def _compile(tree: Json, known: frozenset[str] | None) -> tuple[Json, Fill | None]:
    """Return the constant that `tree` amounts to, and the function that fills it if it has placeholders."""
    if isinstance(tree, str):
        return _compile_text(tree, known)
    if not isinstance(tree, (dict, list)):
        return tree, None
    constant = tree.copy()
    fills: list[tuple[Json, Fill]] = []
    for place, child in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        constant[place], fill = _compile(child, known)
        if fill:
            fills.append((place, fill))

    def fill_container(values: Mapping[str, Json]) -> Json:
        filled = constant.copy()
        for place, fill in fills:
            filled[place] = fill(values)
        return filled

    return constant, fill_container if fills else None


def _compile_text(text: str, known: frozenset[str] | None) -> tuple[Json, Fill | None]:
    if known is not None:
        check(text, known)
    (head, *tails), names = _parse(text)
    if not names:
        return head, None
    if (head, tails) == ("", [""]):
        return None, itemgetter(names[0])
    pairs = tuple(zip(names, tails))

    def fill_text(values: Mapping[str, Json]) -> str:
        filled = head
        for name, tail in pairs:
            value = values[name]
            filled += (value if isinstance(value, str) else json.dumps(value)) + tail
        return filled

    return None, fill_text
