"""Sometimes-marks: each event of the log, and each way that a rule can take, is a mark that some life must reach.

The rules are instrumented as they are imported: whatever they ask (`if`, `… if … else`, a comprehension's `if`, a
`case`) notes what the answer was. So `instrument` comes before the first import of a rule.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple, TypeVar

PACKAGE = Path(__file__).parents[2] / "iotd"
# The folders that lives are about.
LIVED = ("daemon", "values", "outgoing", "incoming", "shadows", "local", "wifi", "jobs", "provision", "home_assistant")
_T = TypeVar("_T")


class Mark(NamedTuple):
    """One way at one place: the module, the line, what is asked, and the answer."""

    module: str
    line: int
    asked: str
    answer: bool


REACHED: set[int] = set()


def seen(number: int, answer: _T) -> _T:
    """Note the answer at the place whose two marks are `number` and the next one; return it."""
    REACHED.add(number if answer else number + 1)
    return answer


def instrument() -> None:
    """Have every rule that is imported from now on note the ways that it takes."""
    sys.meta_path.insert(0, _Finder())


def rules() -> list[str]:
    """Return the modules of these folders that say of themselves that they are pure."""
    found = []
    for path in _lived():
        first = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split("\n\n")[0]
        if first.endswith("Pure."):
            found.append(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
    return found


@cache
def known() -> tuple[list[Mark], dict[str, int]]:
    """Return every mark of the rules by its number, and the number of the first of each rule."""
    found: list[Mark] = []
    first = {}
    for module in rules():
        first[module] = len(found)
        marking = _Marking(module, len(found))
        marking.visit(ast.parse(_path(module).read_text("utf-8")))
        found += marking.found
    return found, first


def events() -> set[str]:
    """Return the slug of every entry that they can log."""
    return {slug for path in _lived() for slug in _events_of(path)}


def _lived() -> list[Path]:
    return sorted(path for folder in LIVED for path in (PACKAGE / folder).glob("*.py"))


def _path(module: str) -> Path:
    return PACKAGE.parent / (module.replace(".", "/") + ".py")


def _events_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and re.fullmatch(r"log\.\w+|Entry", ast.unparse(node.func)):
            for argument in node.args[:2]:
                if isinstance(argument, ast.Constant) and re.fullmatch(r"[a-z]+\.[a-z_]+", str(argument.value)):
                    yield argument.value


class _Finder(MetaPathFinder):
    """Finds the rules, and has them loaded with their marks."""

    def __init__(self) -> None:
        self._rules = set(rules())

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        if name not in self._rules:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(name, spec.origin)
        return spec


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        tree = _Marking(fullname, known()[1][fullname]).visit(ast.parse(self.get_data(path)))
        place = next(index for index, node in enumerate(tree.body) if not isinstance(node, ast.Expr) and not (
            isinstance(node, ast.ImportFrom) and node.module == "__future__"))
        tree.body.insert(place, ast.ImportFrom("tests.sim.marks", [ast.alias("seen", "_seen")], 0))
        code: CodeType = compile(ast.fix_missing_locations(tree), path, "exec")
        return code


class _Marking(ast.NodeTransformer):
    """Wraps whatever is asked."""

    def __init__(self, module: str, first: int) -> None:
        self.found: list[Mark] = []
        self._module = module
        self._first = first

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        node.test = self._asked(node.test)
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        node.test = self._asked(node.test)
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        self.generic_visit(node)
        node.ifs = [self._asked(test) for test in node.ifs]
        return node

    def _asked(self, test: ast.expr) -> ast.expr:
        number = self._first + len(self.found)
        text = re.sub(r"_seen\(\d+, ", "(", ast.unparse(test))
        self.found.extend(Mark(self._module, test.lineno, text, answer) for answer in (True, False))
        return ast.copy_location(
            ast.Call(ast.Name("_seen", ast.Load()), [ast.Constant(number), test], []), test)
