"""The mistakes that everyone makes in YAML, and what was meant. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

import yaml

from iotd.errors import nearest
from iotd.vocabulary import Json

# What others call it, or what one looks for in another place.
_SYNONYMS = {"interval": "every", "period": "every", "ssid": "essid", "service": "unit", "client_id": "thing",
             "clientid": "thing", "broker": "host", "server": "host", "endpoint": "host", "user": "username"}
_PLACES = {"thing": "thing at the top of the file", "host": "host under mqtt", "essid": "essid under wifi",
           "ca": "ca under mqtt.tls", "cert": "cert under mqtt.tls", "key": "key under mqtt.tls",
           "port": "port under mqtt", "tls": "tls under mqtt", "interface": "interface under wifi"}

_ITEM = r"\s*(?:- +)*"
_VALUE = r"(?:-\s|:\s|[,\[{])\s*"  # what stands before one
_UNQUOTED = r"(?:[^\"'#]|\"[^\"]*\"|'[^']*')*?"
_WITHOUT_BLANK = rf"{_ITEM}([A-Za-z_]\w*):([^\s/].*)"  # not a URL
_WITHOUT_COLON = rf"{_ITEM}([A-Za-z_]\w*)(?:\s*[=;]\s*|\s+|$)((?:(?!: |:$)[^{{\[\"'])*(?:[{{\[\"'].*)?)"
_QUOTED_LINES = 10  # an open quote swallows what comes up to the next one, which is not far
_CURLY = "\u2018-\u201f\u00ab\u00bb"
_BLANKS = "\u00a0\u2000-\u200b\u202f\u3000\ufeff"
# What is wrong wherever it stands, and what to say of it.
_SUSPECT = (
    (r"(<{7}|={7}|>{7})(\s|$)", "a merge was left half done here; keep one side of it"),
    (r"\s*[\u2010-\u2015\u2022\u2212]\s*\w", "its dash is another character; an item of a list begins with - and a "
     "blank"),
    (rf"(?: |- )*[{_BLANKS}]|{_ITEM}[\w.]+:[{_BLANKS}]", "it has a blank that is none to YAML, as documents and web "
     "pages have; type it anew"),
    (rf"{_ITEM}([A-Za-z_]\w*)\s*[\uff1a\u2236]\s*(.*)", r"its colon is another character; write \1: \2"),
    (r" *(?:- *)?\t", "it has a tab; indent with spaces"),
    (r"\s*-([A-Za-z_]\w*:\s.*)", r"a blank is missing behind the dash; write - \1"),
    (rf"{_WITHOUT_BLANK}$", r"a blank is missing behind the colon; write \1: \2"),
    (rf"{_UNQUOTED}[{{,]\s*([A-Za-z_]\w*):[\"'{{\[]", r"a blank is missing behind the colon of \1"),
    (rf"{_UNQUOTED}{_VALUE}(\{{[\w.]+\}}) *[^\s#,}}\]]", r'a text that begins with \1 has to stand in quotes: "\1…"'),
)
_MAP = "tag:yaml.org,2002:map"
_NULL = "tag:yaml.org,2002:null"
_TEXT = "tag:yaml.org,2002:str"
_MISREAD = {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}


def meant_by(key: str, known: Iterable[str]) -> str:
    """Return what to write in the place of a key that is not known here."""
    names = list(known)
    if (found := re.fullmatch(_WITHOUT_BLANK, key)) and found[1] in names:
        return f"write {found[1]}: {found[2]}, with a blank behind the colon"
    called = key.lower().replace("-", "_")
    synonym = _SYNONYMS.get(called, called if called in _PLACES else None)
    meant = synonym if synonym in names else None
    if synonym and not meant and synonym in _PLACES:
        return f"did you mean {_PLACES[synonym]}?"
    meant = meant or nearest(key, names)
    return f"did you mean {meant}?" if meant else f"known here are {', '.join(names)}"


def lacks_quotes(node: yaml.Node) -> str:
    """Return the placeholder that was written without quotes, so that YAML reads a mapping with one null; else nothing.
    """
    if not isinstance(node, yaml.MappingNode) or not node.flow_style or len(node.value) != 1 or node.tag != _MAP:
        return ""
    [(key, value)] = node.value
    is_bare = isinstance(key, yaml.ScalarNode) and value.tag == _NULL and not value.value
    return f"{{{key.value}}}" if is_bare and re.fullmatch(r"[\w.]+", key.value) else ""


def misread(node: yaml.Node, value: Json) -> bool:
    """Tell whether a plain scalar became something else than is written, as `off`, `1.10`, `01234` and `12:30` do."""
    return isinstance(node, yaml.ScalarNode) and node.tag in _MISREAD and json.dumps(value) != node.value


def blank_missing(node: yaml.Node) -> str:
    """Return what to say of a text in the place of a mapping whose colon has no blank behind it."""
    found = re.fullmatch(_WITHOUT_BLANK, node.value) if isinstance(node, yaml.ScalarNode) else None
    return f"; write {found[1]}: {found[2]}, with a blank behind the colon" if found else ""


def misread_as_text(node: yaml.Node) -> bool:
    """Tell whether a plain scalar is a number to everybody but YAML 1.1, as `1e3` and `08` are."""
    return isinstance(node, yaml.ScalarNode) and not node.style and node.tag == _TEXT \
        and re.fullmatch(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?", node.value) is not None


def pasted(node: yaml.Node) -> str:
    """Return what to say of a plain text that begins or ends with what documents have in the place of quotes and
    blanks, which YAML takes for a part of it; else nothing.
    """
    if not isinstance(node, yaml.ScalarNode) or node.style:
        return ""
    if found := re.search(f"^[{_CURLY}]|[{_CURLY}]$", node.value):
        return f"{found[0]} is no quote in YAML but a part of the text; write \" instead, or put \" around all of it"
    if found := re.search(f"^[{_BLANKS}]|[{_BLANKS}]$", node.value):
        return f"U+{ord(found[0]):04X} is no blank in YAML but a part of the text; take it away, or put \" around all"
    return ""


def colon_missing(node: yaml.Node, known: Iterable[str]) -> str:
    """Return what to say of a text in the place of a mapping whose key has no colon behind it."""
    found = re.fullmatch(_WITHOUT_COLON, node.value) if isinstance(node, yaml.ScalarNode) else None
    return f"; write {found[1]}: {found[2]}" if found and found[1] in known else ""


def without_comment(line: str) -> str:
    """Return a line of YAML without the comment behind what it says."""
    return re.sub(r"(\"(?:\\.|[^\"\\])*\"|'[^']*')|(?:^|\s)#.*", r"\1", line).rstrip(" ")


def explained(error: yaml.MarkedYAMLError, lines: Sequence[str]) -> tuple[int, str]:
    """Return the line in which a mistake begins, from 1, and what it is.

    The parser tells where it could not go on, which is behind the mistake: the lines there and before are looked at,
    as they are without comments.
    """
    at, problem, context = error.problem_mark.line, str(error.problem), str(error.context)
    begun = error.context_mark.line if error.context_mark is not None else at
    for pattern, says in _SUSPECT:
        for line in _before(at, lines):
            if found := re.match(pattern, lines[line]):
                return line + 1, found.expand(says).rstrip()
    written = "".join(lines[at:at + 1])
    if re.search("alias|anchor|tag|block scalar|cannot start", f"{context} {problem}") \
            and (found := re.search(rf"{_VALUE}([@`%*&!|>])", written)):
        return at + 1, f"a text that begins with {found[1]} has to stand in quotes"
    if re.search(rf"{_VALUE}[{_CURLY}]", written):
        return at + 1, "its quotes are those of a document; YAML knows \" and ' alone"
    if "escape" in problem or "hexdecimal" in problem:
        return at + 1, "a backslash in double quotes begins an escape; write single quotes around the text"
    quote = _open_quote({at, begun}, at, lines)
    if quote is not None:
        return quote + 1, "the quote that is opened here is never closed"
    if "quoted scalar" in context:
        return begun + 1, "the quote that is opened here is never closed"
    if re.search("expected ':'|mapping values|document start", problem):
        for line in [begun] if "expected ':'" in problem else _before(at, lines):
            if found := re.fullmatch(_WITHOUT_COLON, lines[line]):
                return line + 1, f"the colon is missing behind {found[1]}; write {found[1]}: {found[2]}".rstrip()
    if "expected ':'" in problem:
        return begun + 1, "no colon and blank stand behind its key; write key: value"
    if "flow" in context:
        if not "".join(lines[begun:begun + 1]).strip():  # the parser looked for what is to follow it
            begun = _previous(begun, lines)
        return begun + 1, "the bracket that is opened here is not closed, or an item is not separated by a comma"
    if "another document" in problem:
        return at + 1, "a second document begins here; leave this line out"
    if "mapping values" in problem and re.match(rf"{_ITEM}[\w.-]+:\s+[^\s\"'\[{{].*:(\s|$)", written):
        return at + 1, "a text with a colon and a blank in it has to stand in quotes"
    if "block" in context or "mapping values" in problem or "document start" in problem:
        above = _previous(at, lines)
        if _indent(at, lines) != _indent(above, lines):
            before = "".join(lines[above:above + 1])
            blanks = len(before) - len(re.sub(f"^{_ITEM}", "", before))  # of an item up to its first key
            return at + 1, "its indentation is another than that of its neighbours " \
                f"({_indent(at, lines)} blanks, after {blanks} in line {above + 1}); begin it in the same column as " \
                "the keys beside it"
        if re.match(r"\s*-\s", lines[above]) and not re.match(r"\s*-\s", written):
            return at + 1, "an item of a list stands before it and it is none; take the dash before that away, or " \
                "indent this as what belongs to the item"
    return at + 1, problem


def _open_quote(here: Iterable[int], at: int, lines: Sequence[str]) -> int | None:
    """Return the line in which a quote has no second one: any of those, or one before where a text begins with it."""
    # Where the parser stumbles in a comment, or in nothing, it takes that for the end of a text, however long.
    last = at - _QUOTED_LINES if "".join(lines[at:at + 1]).strip() else -1
    for line in range(min(at, len(lines) - 1), max(last, -1), -1):
        rest = re.sub(r"\"(\\.|[^\"\\])*\"|'[^']*'", "", lines[line])
        if line in here and '"' in rest or re.search(rf"{_VALUE}[\"']", rest):
            return line
    return None


def _before(at: int, lines: Sequence[str]) -> list[int]:
    """Return the line of an error, and the one before it that says something."""
    return [line for line in (at, _previous(at, lines)) if 0 <= line < len(lines)]


def _previous(at: int, lines: Sequence[str]) -> int:
    return next((line for line in range(min(at, len(lines)) - 1, -1, -1) if lines[line].strip()), -1)


def _indent(at: int, lines: Sequence[str]) -> int:
    return len(lines[at]) - len(lines[at].lstrip()) if 0 <= at < len(lines) else 0
