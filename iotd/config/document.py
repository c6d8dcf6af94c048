"""A YAML document read through typed readers, which know the line of every key and collect every problem.

A reader takes a Cursor and returns a value, or raises Wrong with a text that says what was found and what would be
right; the cursor above it notes that as a Problem and goes on.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import yaml

from iotd.config.mistakes import (
    blank_missing, colon_missing, explained, lacks_quotes, meant_by, misread, misread_as_text, pasted, without_comment,
)
from iotd.errors import Problem
from iotd.vocabulary import Json

MAX_BYTES = 1024 * 1024
MAX_NODES = 100_000  # also after aliases are expanded: a few lines of them can stand for billions of values
MAX_DEPTH = 32

T = TypeVar("T")
Reader = Callable[["Cursor"], T]
# A key of the file: the name of its field, and its reader; no name for one that is always wrong, as its reader says.
Schema = Mapping[str, "tuple[str, Reader[Any]]"]

_TAG = "tag:yaml.org,2002:"
_KINDS = {"map": "mapping", "seq": "list", "str": "text", "int": "number", "float": "number", "timestamp": "date",
          "merge": "merge of other keys"}


class Wrong(ValueError):
    """A value cannot be used; the text is fit for a Problem."""


class Place(NamedTuple):
    """Where something stands; the file is empty for the configuration file itself, 0 is no line."""

    line: int = 0
    file: str = ""


class Unreadable(ValueError):
    """The document as a whole cannot be used; `line` is where that shows, 0 where it shows nowhere, and `file` in what
    lies on top of it.
    """

    def __init__(self, line: int, text: str, file: str = "") -> None:
        super().__init__(text)
        self.line = line
        self.file = file


class Document:
    """What reading a document gathers: its problems and warnings, the place of every key path, and the placeholders
    that it defines.

    `defined` has these by name, and whether iotd notices by itself when what one stands for changes.

    `lacking` are the placeholders that tell this host from no other, each with what to do about it.
    """

    def __init__(self, lacking: Mapping[str, str] = {}) -> None:
        self.lacking = lacking
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.places: dict[str, Place] = {}
        self.defined: dict[str, bool] = {}
        self._wrong: set[str] = set()
        self._visits = 0

    def note(self, key: str, text: str, place: Place | None = None) -> None:
        """Note a problem at `key`, in the place of that key unless another is given."""
        self._wrong.add(key)
        self.problems.append(self.problem(key, text, place))

    def problem(self, key: str, text: str, place: Place | None = None) -> Problem:
        """Return a problem at `key`, in the place of that key unless another is given."""
        line, file = place or place_of(self.places, key)
        return Problem(line, key, text, file)

    def warn(self, key: str, text: str) -> None:
        """Warn of what works and is probably not meant."""
        self.warnings.append(self.problem(key, text))

    def note_consequence(self, key: str, text: str) -> None:
        """Note a problem between values, unless the value at `key` is wrong in itself and was left out."""
        if self._wrong.isdisjoint(_upwards(key)):
            self.note(key, text)

    def visit(self, path: str, place: Place) -> None:
        """Take down the place of a value. Raises Unreadable when aliases make them too many."""
        self.places[path] = place
        self._visits += 1
        if self._visits > MAX_NODES:
            raise Unreadable(place.line, f"its aliases stand for more than {MAX_NODES} values; write them out",
                             place.file)


class Cursor(NamedTuple):
    """One node of a document, with its key path and its depth."""

    node: yaml.Node
    path: str
    document: Document
    depth: int = 0

    def fields(self, schema: Schema, **required: Any) -> dict[str, Any]:
        """Read a mapping by its schema into the keyword arguments of a dataclass, without what the file leaves out.

        In the order of the schema: what a key defines is known to those after it, wherever they stand in the file.

        `required` gives, by key, what stands in for a required value that is missing or wrong, so that the reading
        can go on to the next problem; so does the noting of what is no mapping at all. An empty section is one
        without keys.
        """
        values = {schema[key][0]: stand_in for key, stand_in in required.items()}
        known = [key for key, (name, _) in schema.items() if name]
        try:
            entries = {} if self.is_empty() else dict(self.entries(known))
        except Wrong as error:
            self.note(str(error))
            return values
        for key in entries.keys() - schema.keys():
            entries[key].note(f"unknown key; {meant_by(key, known)}")
        for key, (name, reader) in schema.items():
            if key in entries:
                values.update((name, value) for value in entries[key].read(reader))
        for key in required.keys() - entries.keys():
            self.document.note(self._below(key), "is required")
        return values

    def entries(self, known: Sequence[str] = ()) -> Iterator[tuple[str, Cursor]]:
        """Return the keys and values of a mapping; keys that are no text, or come twice, are noted and left out.

        `known` are keys that may stand there, for what to say of something else.
        """
        if not is_mapping(self.node):
            meant = blank_missing(self.node) or colon_missing(self.node, known)
            raise Wrong(f"expected a mapping of keys, found {self.found()}{meant}")
        first_lines: dict[str, int] = {}
        for key_node, node in self.node.value:
            here = place(key_node)
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
            path = self._below(key)
            if key_node.tag != "tag:yaml.org,2002:str":
                found = Cursor(key_node, path, self.document).found()
                self.document.note(path, f"expected a key that is text, found {found}; put it in quotes", here)
            elif key in first_lines:
                text = f"duplicate key, first in line {first_lines[key]}; keep one of the two"
                self.document.note(path, text, here)
            else:
                first_lines[key] = here.line
                yield key, self._child(node, path, here)

    def items(self, reader: Reader[T], example: str) -> tuple[T, ...]:
        """Read a list item by item, without those that are wrong; `example` shows a right list."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise Wrong(f"expected a list, found {self.found()}; write {example}")
        return tuple(value for item in self._items() for value in item.read(reader))

    def tree(self, judge: Callable[[str], None]) -> Json:
        """Read any YAML as JSON; `judge` raises ValueError for a string that may not be there."""
        def branch(at: Cursor) -> Json:
            return at.tree(judge)

        if placeholder := lacks_quotes(self.node):
            raise Wrong(f"expected what JSON can say, found {self.found()}; write \"{placeholder}\"")
        if isinstance(self.node, yaml.MappingNode):
            return {key: value for key, child in self.entries() for value in child.read(branch)}
        if isinstance(self.node, yaml.SequenceNode) and self.node.tag == "tag:yaml.org,2002:seq":
            return [value for item in self._items() for value in item.read(branch)]
        value = self.scalar()
        if isinstance(value, str):
            check_text(value)
            judge(value)
        elif not isinstance(value, (int, float, type(None))):
            raise Wrong(f"expected what JSON can say, found {self.found()}; put it in quotes to send it as text")
        elif isinstance(value, float) and not math.isfinite(value):
            raise Wrong(f"expected what JSON can say, found {self.found()}; JSON has no such number")
        if misread(self.node, value):
            self.document.warn(
                self.path, f"{self.found()}, is sent as {json.dumps(value)}; put it in quotes to send the text")
        elif misread_as_text(self.node):
            self.document.warn(self.path, f"{quoted(self.node.value)}, which YAML reads as text, is sent as text; "
                               f"write {float(self.node.value):g} to send the number, or put it in quotes")
        return value

    def read(self, reader: Reader[T]) -> list[T]:
        """Return what `reader` reads, alone in a list; or note why it cannot, and return an empty one."""
        try:
            return [reader(self)]
        except Wrong as error:
            self.note(str(error))
            return []

    def note(self, text: str) -> None:
        """Note a problem of this value."""
        here = place_of(self.document.places, self.path)
        self.document.note(self.path, text, here if here.line else Place(1))

    def is_empty(self) -> bool:
        """Return whether nothing stands there, or null."""
        return bool(self.node.tag == "tag:yaml.org,2002:null")

    def is_mapping(self) -> bool:
        """Return whether a mapping stands there, or nothing, which may be read as an empty one."""
        return self.is_empty() or isinstance(self.node, yaml.MappingNode)

    def keys(self) -> set[str]:
        """Return the keys of a mapping that are text, those whose values are wrong included; none of anything else."""
        pairs = self.node.value if isinstance(self.node, yaml.MappingNode) else ()
        return {key.value for key, _ in pairs if isinstance(key, yaml.ScalarNode)}

    def scalar(self) -> Any:
        """Return what YAML makes of a value: text, number, bool, None, date or bytes; the node of a collection."""
        if not isinstance(self.node, yaml.ScalarNode):
            return self.node
        try:
            value = yaml.constructor.SafeConstructor().construct_object(self.node)
            str(value)  # Python reads 0x… of any length, and refuses to write it
            return value
        except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, ValueError):
            # PyYAML lets whatever its conversions raise through: `!!bool x` is a KeyError, a 13th month a ValueError.
            raise Wrong(f"YAML cannot read {quoted(self.node.value)} as a {_kind(self.node.tag)}; "
                        "put it in quotes, without a tag, to mean the text") from None

    def found(self) -> str:
        """Say what stands there, and what YAML made of it where that is something else."""
        kind = _kind(self.node.tag)
        if placeholder := lacks_quotes(self.node):
            return f"{placeholder} without quotes, which YAML reads as a mapping"
        if not isinstance(self.node, yaml.ScalarNode):
            return f"a {kind}"
        written: str = self.node.value
        if kind == "text" or not written:
            return f"text {quoted(written)}" if kind == "text" else "nothing"
        value = self.scalar() if kind in ("number", "bool") else None
        reading = json.dumps(value) if kind in ("number", "bool", "null") else f"a {kind}"
        return written if reading == written else f"{quoted(written)}, which YAML reads as {reading}"

    def _items(self) -> Iterator[Cursor]:
        for position, node in enumerate(self.node.value):
            yield self._child(node, f"{self.path}[{position}]", place(node))

    def _child(self, node: yaml.Node, path: str, here: Place) -> Cursor:
        if self.depth == MAX_DEPTH:
            raise Unreadable(here.line, f"nested deeper than {MAX_DEPTH} levels; does an alias contain itself?",
                             here.file)
        self.document.visit(path, here)
        if says := pasted(node):
            self.document.warn(path, says)
        return Cursor(node, path, self.document, self.depth + 1)

    def _below(self, key: str) -> str:
        step = key if key.isprintable() else quoted(key)
        return f"{self.path}.{step}" if self.path else step


class _Named(io.BytesIO):
    """A text whose marks have the name of its file."""

    def __init__(self, source: bytes, name: str) -> None:
        super().__init__(source)
        self.name = name


def compose(text: str, file: str = "") -> yaml.Node | None:
    """Return the root of a YAML document, None for an empty one; its marks name the file. Raises Unreadable."""
    try:
        source = text.encode()
        if len(source) > MAX_BYTES:
            raise Unreadable(0, f"is larger than {MAX_BYTES} bytes; this can be no configuration")
        # The C parser is ten times as fast, which shows on a Pi Zero; its composer recurses as deep as it is told to.
        _check_bounds(source)
        return yaml.compose(_Named(source, file), Loader=yaml.CSafeLoader)
    except Unreadable as error:
        raise Unreadable(error.line, str(error), file) from None
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise Unreadable(line, "is no UTF-8 text; save it as UTF-8", file) from None
    except yaml.reader.ReaderError as error:
        line = source.count(b"\n", 0, error.position) + 1
        raise Unreadable(line, f"is no YAML: {error.reason}: U+{error.character:04X}", file) from None
    except yaml.MarkedYAMLError as error:
        lines = list(map(without_comment, text.splitlines()))
        line, reason = explained(error, lines)
        written = "".join(lines[line - 1:line]).strip(" \t")
        raise Unreadable(line, f"is no YAML: {quoted(written)}: {_without_password(reason)}", file) from None


def place(node: yaml.Node) -> Place:
    """Return where a node stands."""
    return Place(node.start_mark.line + 1, node.start_mark.name)


def place_of(places: Mapping[str, Place], key: str) -> Place:
    """Return the place of a key path, or of the nearest one above it that there is, else none."""
    return next((places[above] for above in _upwards(key) if above in places), Place())


def is_mapping(node: yaml.Node) -> bool:
    """Return whether a mapping of keys stands there."""
    return isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map"


def quoted(text: str) -> str:
    """Return `text` in quotes on one line, shortened where it is long, without what may be a password."""
    text = _without_password(text)
    return repr(text if len(text) <= 80 else text[:79] + "…")


def _without_password(text: str) -> str:
    return re.sub(r"(?i)(passw[\w-]*[\"']?[\s:=]+)(?!/)[^\s/].*", r"\1…", text)


def check_text(value: str) -> None:
    """Raise Wrong for a text that nothing can be done with."""
    if "\0" in value:
        raise Wrong(f"{quoted(value)} has a NUL character")


def _check_bounds(source: bytes) -> None:
    depth = 0
    for count, event in enumerate(yaml.parse(source, Loader=yaml.CSafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH or count > MAX_NODES:
            what = f"nested deeper than {MAX_DEPTH} levels" if depth > MAX_DEPTH else f"more than {MAX_NODES} values"
            raise Unreadable(event.start_mark.line + 1, f"{what}; this can be no configuration")


def _upwards(key: str) -> Iterator[str]:
    yield key
    while key:
        key = key[:max(key.rfind("."), key.rfind("["), 0)]
        yield key


def _kind(tag: str) -> str:
    name = tag.removeprefix(_TAG)
    return _KINDS.get(name, name)
