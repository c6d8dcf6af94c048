"""The SQL of AWS IoT's rules, as far as those of docs/aws use it: read, and judged on a message. Pure.

Whatever is not known here is a ValueError, since in AWS it would be Undefined, and the rule silent for ever.
Sources: AWS IoT Core developer guide "AWS IoT SQL reference", its pages Operators, Functions, Case statements, WHERE.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

_TOKEN = re.compile(r"\s*(?:(?P<text>'[^']*')|(?P<number>\d+)|(?P<word>[A-Za-z_][A-Za-z_0-9.]*)|(?P<sign><>|[=(),*]))")
KEYWORDS = {"SELECT", "AS", "FROM", "WHERE", "AND", "OR", "CASE", "WHEN", "THEN", "ELSE", "END", "TRUE", "FALSE"}
MAX_SLASHES = 7


class _Undefined:
    def __repr__(self) -> str:
        return "Undefined"


UNDEFINED = _Undefined()


class Message(NamedTuple):
    """What was published, and where."""

    topic: str
    payload: Any


Value = Callable[[Message], Any]


class Statement(NamedTuple):
    """`filter` is that of FROM; `levels` are those of the topic that it asks for, from 1."""

    filter: str
    levels: tuple[int, ...]
    columns: Mapping[str, Value]
    where: Value

    def select(self, message: Message) -> dict[str, Any] | None:
        """Return what the actions of the rule are given, None where it is not for this message."""
        if not _matches(self.filter.split("/"), message.topic.split("/")) or self.where(message) is not True:
            return None
        found = {name: value(message) for name, value in self.columns.items()}
        return {name: value for name, value in found.items() if value is not UNDEFINED}


def parse(sql: str) -> Statement:
    """Read a statement. Raises ValueError."""
    if not sql.isascii():
        raise ValueError("letters beyond ASCII, which the SQL of AWS IoT may not know")
    return _Reader(sql).statement()


class _Reader:
    def __init__(self, sql: str) -> None:
        self.tokens = [*_tokens(sql), ("end", "")]
        self.levels: list[int] = []

    def statement(self) -> Statement:
        self.expect("SELECT")
        columns = dict([self.column()])
        while self.took(","):
            columns.update([self.column()])
        self.expect("FROM")
        topic = self.next("text")
        _check_filter(topic)
        where = self.expression() if self.took("WHERE") else lambda message: True
        self.next("end")
        for level in self.levels:
            if not 1 <= level <= len(topic.split("/")):
                raise ValueError(f"topic({level}) of '{topic}', which has no such level")
        return Statement(topic, tuple(self.levels), columns, where)

    def column(self) -> tuple[str, Value]:
        word, value = self.tokens[0][1], self.expression()
        return (self.next("word") if self.took("AS") else word), value

    def expression(self) -> Value:
        left = self.term()
        while self.tokens[0][1].upper() in _OPERATORS:
            left = _both(_OPERATORS[self.tokens.pop(0)[1].upper()], left, self.term())
        return left

    def term(self) -> Value:
        kind, text = self.tokens.pop(0)
        if kind == "text":
            return lambda message: text
        if kind == "word" and text.upper() == "CASE":
            return self.case()
        if kind == "word" and text.upper() in ("TRUE", "FALSE"):
            return lambda message: text.upper() == "TRUE"
        if kind == "word" and self.tokens[0][1] == "(":
            return self.call(text)
        if kind == "word" and text.upper() not in KEYWORDS:
            return lambda message: _member(message.payload, text.split("."))
        raise ValueError(f"expected a value, found {text or 'the end'!r}")

    def call(self, name: str) -> Value:
        self.expect("(")
        if name == "topic":
            level = int(self.next("number")) if self.tokens[0][0] == "number" else 0
            self.expect(")")
            self.levels += [level] if level else []
            return lambda message: message.topic.split("/")[level - 1] if level else message.topic
        if name == "isUndefined":
            value = self.expression()
            self.expect(")")
            return lambda message: value(message) is UNDEFINED
        raise ValueError(f"the function {name}() is not known here")

    def case(self) -> Value:
        value, cases = self.expression(), []
        self.expect("WHEN")
        while True:
            wanted = self.expression()
            self.expect("THEN")
            cases.append((wanted, self.expression()))
            if not self.took("WHEN"):
                break
        other: Value = self.expression() if self.took("ELSE") else lambda message: UNDEFINED
        self.expect("END")

        def judge(message: Message) -> Any:
            found = value(message)
            if found is UNDEFINED:
                return UNDEFINED
            return next((then for wanted, then in cases if wanted(message) == found), other)(message)
        return judge

    def took(self, text: str) -> bool:
        is_next = self.tokens[0][1].upper() == text and self.tokens[0][0] != "text"
        if is_next:
            self.tokens.pop(0)
        return is_next

    def expect(self, text: str) -> None:
        if not self.took(text):
            raise ValueError(f"expected {text}, found {self.tokens[0][1] or 'the end'!r}")

    def next(self, kind: str) -> str:
        found, text = self.tokens.pop(0)
        if found != kind:
            raise ValueError(f"expected a {kind}, found {text or 'the end'!r}")
        return text


def _tokens(sql: str) -> Iterator[tuple[str, str]]:
    end = 0
    sql = sql.rstrip()
    while end < len(sql):
        found = _TOKEN.match(sql, end)
        if found is None:
            raise ValueError(f"{sql[end:].strip()!r} begins with nothing that is known here")
        kind = str(found.lastgroup)
        yield kind, found[kind].strip("'") if kind == "text" else found[kind]
        end = found.end()


def _both(judge: Callable[[Any, Any], Any], left: Value, right: Value) -> Value:
    return lambda message: judge(left(message), right(message))


def _equal(left: Any, right: Any) -> Any:
    return UNDEFINED if UNDEFINED in (left, right) else (type(left), left) == (type(right), right)


def _differ(left: Any, right: Any) -> Any:
    return UNDEFINED if UNDEFINED in (left, right) else (type(left), left) != (type(right), right)


def _and(left: Any, right: Any) -> Any:
    return left and right if isinstance(left, bool) and isinstance(right, bool) else UNDEFINED


def _or(left: Any, right: Any) -> Any:
    return left or right if isinstance(left, bool) and isinstance(right, bool) else UNDEFINED


_OPERATORS = {"=": _equal, "<>": _differ, "AND": _and, "OR": _or}


def _member(value: Any, path: list[str]) -> Any:
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return UNDEFINED
        value = value[name]
    return value


def _check_filter(topic: str) -> None:
    levels = topic.split("/")
    if len(levels) > MAX_SLASHES + 1 or len(topic.encode()) > 256:
        raise ValueError(f"'{topic}' has more than {MAX_SLASHES} slashes or 256 bytes")
    if any(("+" in level or "#" in level) and level not in ("+", "#") for level in levels) or "#" in levels[:-1]:
        raise ValueError(f"'{topic}' is no filter")


def _matches(levels: list[str], topic: list[str]) -> bool:
    if levels[:1] == ["#"]:
        return bool(topic)
    if not levels or not topic:
        return levels == topic
    return levels[0] in ("+", topic[0]) and _matches(levels[1:], topic[1:])
