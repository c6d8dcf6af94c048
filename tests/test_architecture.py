"""The shape of the program: ranks of modules, and rules that know no thread, socket, file or clock."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "iotd"
RANKS = [
    {"typed", "__init__"},
    {"errors", "settings", "model", "reading", "deferred"},
    {"log", "template", "topics", "document", "finding", "override"},
    {"config", "schedule", "outbox", "presence", "shadow", "recovery", "reconnect", "subscription", "denial",
     "health", "desired"},
    {"places", "line", "journal", "wifi", "credentials", "host", "worker", "routes", "budget",
     "facts", "command", "jobs", "bridge"},
    {"store"},
    {"spool"},
    {"session", "outgoing", "rescue", "checks", "ears"},
    {"values", "voice"},
    {"daemon"},
    {"cli", "recover"},
    {"__main__"},
]
ADAPTERS = 4  # the first rank that may touch the world
WORLD = {"threading", "socket", "subprocess", "sqlite3", "time", "paho", "queue", "select", "ssl", "os", "random",
         "signal", "pathlib", "multiprocessing", "asyncio"}


def imports(module: str) -> set[str]:
    """Return the names of what the module imports, those of iotd as `iotd.NAME`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / f"{module}.py").read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "iotd":
            found.update(f"iotd.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def rank(module: str) -> int:
    return next(number for number, names in enumerate(RANKS) if module in names)


def test_every_module_has_a_rank() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == set().union(*RANKS)


@pytest.mark.parametrize("module", sorted(set().union(*RANKS)))
def test_a_module_imports_only_from_ranks_below_its_own(module: str) -> None:
    below = {name.split(".")[1] for name in imports(module) if name.startswith("iotd.") and "__" not in name}
    assert {other for other in below if rank(other) >= rank(module)} == set()


@pytest.mark.parametrize("module", sorted(set().union(*RANKS[:ADAPTERS]) - {"log"}))
def test_a_rule_does_not_touch_the_world(module: str) -> None:
    assert {name.split(".")[0] for name in imports(module)} & WORLD == set()


@pytest.mark.parametrize("module", sorted(set().union(*RANKS) - {"typed"}))
def test_typing_is_there_for_the_type_checker_alone(module: str) -> None:
    """What is needed of it, iotd.typed gives for less of our start, and collections.abc has the rest."""
    assert "typing" not in imports(module)
