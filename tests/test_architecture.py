"""The shape of the program: which folder may import which, rules that know no world, and wings that know no other."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from iotd.wings import WINGS

PACKAGE = Path(__file__).parent.parent / "iotd"
MODULES = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
WING_FOLDERS = [wing.name for wing in WINGS]

# A module imports from its own folder and from those before it; "" is the package itself.
RANKS = ["", "host", "mqtt", "config", "daemon", "WING", "cli"]
MAY_BE_IMPORTED_BY_A_WING = {"", "host", "mqtt", "config"}  # and iotd.daemon.part
HELPER_IMPORTS = {  # of the configuration what reads YAML; of the wings their schemas, names and the count of reboots
    "iotd.helper.allowed", "iotd.helper.apt", "iotd.helper.job", "iotd.helper.recover",
    "iotd.host", "iotd.host.clock", "iotd.host.facts", "iotd.host.files", "iotd.host.log", "iotd.host.command",
    "iotd.host.identity",
    "iotd.config.document", "iotd.config.layers", "iotd.config.mistakes", "iotd.config.readers",
    "iotd.config.section", "iotd.config.settings", "iotd.config.template",
    "iotd.errors", "iotd.mqtt.settings", "iotd.vocabulary", "iotd.wings", "iotd.jobs.names", "iotd.jobs.section",
    "iotd.wifi", "iotd.wifi.budget", "iotd.wifi.reading", "iotd.wifi.recovery", "iotd.wifi.section"}

WORLD = {"asyncio", "multiprocessing", "os", "paho", "pathlib", "queue", "random", "select", "signal", "socket",
         "sqlite3", "ssl", "subprocess", "threading", "time", "uuid"}
VALUES = {"iotd.doctor.facts", "iotd.shadows.findings", "iotd.wifi.reading"}  # for rules and adapters alike
ALLOWED = {  # what the world is touched with, and where alone
    "paho": {"iotd.mqtt.client"},
    "pythonjsonlogger": {"iotd.host.log"},
    "sdnotify": {"iotd.host.systemd"},
    "sqlite3": {"iotd.outgoing.store"},
    "ssl": {"iotd.mqtt.stream", "iotd.mqtt.credentials"},
    "subprocess": {"iotd.host.command", "iotd.helper.recover"},
    "threading": {"iotd.host.tasks", "iotd.host.periodic", "iotd.local.door", "iotd.mqtt.session", "iotd.mqtt.stream"},
    "wsproto": {"iotd.mqtt.websocket"},
    "yaml": {"iotd.config.bare", "iotd.config.difference", "iotd.config.document", "iotd.config.layers",
             "iotd.config.mistakes"},
}


def folder(module: str) -> str:
    """Return the folder below iotd that a module stands in, nothing for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 2 or MODULES.get(module, Path()).name == "__init__.py" and len(parts) == 2 else ""


def rank(module: str) -> int:
    name = folder(module)
    return RANKS.index("WING" if name in WING_FOLDERS else name)


def imports(module: str) -> set[str]:
    """Return what a module imports, wherever in it: `from iotd.host import log` is iotd.host.log."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found.update(below or {node.module})
    return found


def docstring(module: str) -> str:
    return ast.get_docstring(ast.parse(MODULES[module].read_text("utf-8"))) or ""


def is_rule(module: str) -> bool:
    """A rule says in the first paragraph of its docstring that it is pure; a schema and plain values are held alike."""
    first = docstring(module).split("\n\n")[0]
    return first.endswith("Pure.") or module.endswith((".section", ".settings"))


RULES = sorted(filter(is_rule, MODULES))
PARTS = sorted(module for module in MODULES if module.endswith(".part") and folder(module) in WING_FOLDERS)
KERNEL = sorted(module for module in MODULES if folder(module) == "daemon")


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_says_what_it_is_for(module: str) -> None:
    assert len(docstring(module)) > 20


@pytest.mark.parametrize("module", sorted(module for module in MODULES if folder(module) not in ("helper", "__main__")))
def test_a_module_imports_from_its_own_folder_and_those_below(module: str) -> None:
    if module in ("iotd.__main__", "iotd"):
        return
    others = {name for name in imports(module) if name.startswith("iotd.") and folder(name) != folder(module)}
    assert {name for name in others if rank(name) >= rank(module)} == set()


@pytest.mark.parametrize("module", sorted(module for module in MODULES if folder(module) in WING_FOLDERS))
def test_a_wing_knows_no_other_wing_and_the_kernel_by_its_protocol_alone(module: str) -> None:
    others = {name for name in imports(module) if name.startswith("iotd.") and folder(name) != folder(module)}
    assert {name for name in others if folder(name) not in MAY_BE_IMPORTED_BY_A_WING} <= {"iotd.daemon.part"}


def test_there_are_rules_and_parts_to_hold() -> None:
    assert len(RULES) >= 12 and len(PARTS) == len(WINGS)


@pytest.mark.parametrize("module", RULES)
def test_a_rule_touches_nothing_of_the_world_and_imports_no_adapter(module: str) -> None:
    found = imports(module)
    assert {name.split(".")[0] for name in found} & WORLD == set()
    beside = {name for name in found if folder(name) == folder(module) and folder(module) in (*WING_FOLDERS, "daemon")}
    # The table of kinds has their looks beside how they are read.
    assert {name for name in beside if not is_rule(name)} - VALUES <= {"iotd.shadows.kinds"}


@pytest.mark.parametrize("module", sorted(set(KERNEL + PARTS) - {"iotd.daemon.world", "iotd.daemon.inbox"}))
def test_the_kernel_and_the_parts_have_the_world_handed_in(module: str) -> None:
    assert {name.split(".")[0] for name in imports(module)} & (WORLD - {"pathlib", "signal"}) == set()
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert "open" not in calls and not {name for name in calls if name.startswith("Path(")}


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_what_the_world_is_touched_with_stands_in_few_places(package: str) -> None:
    users = {module for module in MODULES if package in {name.split(".")[0] for name in imports(module)}}
    assert users == ALLOWED[package]


@pytest.mark.parametrize("module", KERNEL)
def test_the_kernel_knows_no_wing_by_name(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    constants = {node.value for node in ast.walk(tree)
                 if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    keys = {key for wing in WINGS for key in (wing.name, *wing.keys)}
    assert constants & keys == set()
    assert {name for name in imports(module) if folder(name) in WING_FOLDERS} == set()


def test_root_runs_few_modules_and_they_are_listed() -> None:
    reached, todo = set(), ["iotd.helper.__main__"]
    while todo:
        for name in imports(todo.pop()):
            if name.startswith("iotd.") and name not in reached:
                reached.add(name)
                todo.append(name)
    assert reached <= HELPER_IMPORTS


def loaded(sections: str) -> set[str]:
    """Return the modules of iotd that a daemon with these sections has loaded once its first turn is done."""
    script = f"""
import sys
from tests.sim.world import Simulation
simulation = Simulation("mqtt: {{host: broker}}\\n" + {sections!r})
simulation.start()
simulation.run(10.0)
print(*(name for name in sys.modules if name.startswith("iotd.")))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=PACKAGE.parent, capture_output=True, text=True,
                          timeout=30)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_a_wing_that_the_yaml_does_not_name_is_not_imported() -> None:
    found = {folder(name) for name in loaded("")}
    assert found & set(WING_FOLDERS) == {wing.name for wing in WINGS if wing.always}


@pytest.mark.parametrize("section, wing", [("wifi: {}", "wifi"), ("subscribe: [{topic: a}]", "incoming"),
                                           ("shadows: [{name: a}]", "shadows"),
                                           ("values: {a: {file: /a}}", "values"), ("jobs: {}", "jobs"),
                                           ("home_assistant: {}", "home_assistant")])
def test_a_section_brings_its_own_wing_and_no_other(section: str, wing: str) -> None:
    found = {folder(name) for name in loaded(section)}
    assert found & set(WING_FOLDERS) == {wing, *(wing.name for wing in WINGS if wing.always)}


def test_what_runs_no_command_loads_nothing_that_could() -> None:
    found = loaded("subscribe: [{topic: a}]\nvalues: {a: {file: /a, every: 1s}}")
    assert found & {"iotd.host.command", "iotd.incoming.runs"} == set()


def test_a_shadow_without_checks_and_orders_loads_neither() -> None:
    found = loaded("shadows: [{name: a}]")
    assert found & {f"iotd.shadows.{name}" for name in ("watch", "health", "checks", "kinds", "orders", "desired",
                                                        "bridge")} == set()
