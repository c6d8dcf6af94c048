"""The manual pages say everything there is: keys, placeholders, events, options."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, Iterator

import yaml

from iotd.config import broker, template
from iotd.config.parse import parse
from iotd.host.identity import Identity
from iotd.shadows.kinds import KINDS, beside
from iotd.values import section as values

ROOT = Path(__file__).parents[1]
# Beneath these the names are the user's own.
FREE = ("publish[].payload", "shadows[].desired", "shadows[].reported")


def source(page: str) -> str:
    return (ROOT / "docs/man" / page).read_text("utf-8")


def words(page: str) -> set[str]:
    """Return the words of a page, or of a part of one, as its reader sees them."""
    return set(re.split(r'[\s",;]+', re.sub(r"\\f.", " ", page).replace("\\-", "-")))


def keys(tree: Any, path: str = "") -> Iterator[str]:
    """Return the path of every leaf of the sample configuration."""
    if isinstance(tree, dict) and path not in FREE:
        for key, value in tree.items():
            yield from keys(value, f"{path}.{key}" if path else key)
    elif isinstance(tree, list) and tree and isinstance(tree[0], dict):
        for item in tree:
            yield from keys(item, f"{path}[]")
    else:
        yield path


def events() -> Iterator[str]:
    """Return the slug of every entry that the source can log."""
    for path in (ROOT / "iotd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and re.fullmatch(r"log\.\w+|Entry", ast.unparse(node.func)):
                for argument in node.args[:2]:
                    if isinstance(argument, ast.Constant) and re.fullmatch(r"[a-z]+\.[a-z_]+", str(argument.value)):
                        yield argument.value


def test_every_broker_has_lines_that_check_is_content_with() -> None:
    page = (ROOT / "docs/brokers.md").read_text("utf-8")
    blocks = re.findall(r"(?s)```yaml\n(.+?)```", page)
    assert len(blocks) == page.count("\n## ") == 10
    for block in blocks:
        loaded = parse(block.replace("xxxxxxxxxxxxx-", "a1b2-"), "iotd.yaml", Identity("pi-7", "0123456789abcdef"))
        assert loaded.settings.mqtt.tls and broker.warnings(loaded.settings) == [] and loaded.warnings == ()


def test_every_key_has_its_entry() -> None:
    sample = set(keys(yaml.safe_load((ROOT / "etc/iotd.yaml").read_text("utf-8"))))
    assert len(sample) > 30 and sample - words(source("iotd.yaml.5")) == set()


def test_every_kind_of_check_and_its_limit_has_its_entry() -> None:
    entry = source("iotd.yaml.5").partition(".B shadows[].checks\n")[2].partition(".B shadows[].on_delta\n")[0]
    limits = {key for kind in KINDS.values() for key in beside(kind)}
    assert entry and {f"{key}:" for key in KINDS.keys() | limits} - words(entry) == set()


def test_every_key_of_a_value_has_its_entry() -> None:
    keys = {"timeout", "every", "max_age", "as", "scale", "offset", "round", *values.SOURCES}
    assert {f"values.NAME.{key}" for key in keys} - words(source("iotd.yaml.5")) == set()
    assert set(values.FORMS) - words(source("iotd.yaml.5")) == set()


def test_what_the_sample_shows_in_comments_has_its_entry() -> None:
    shown = {f"{part}.{key}" for part, keys in {
        "publish[]": ("on_change", "at_most"), "subscribe[]": ("run", "timeout", "retained", "log")}.items()
        for key in keys}
    assert shown - words(source("iotd.yaml.5")) == set()


def test_every_placeholder_has_its_entry() -> None:
    assert {f"{{{name}}}" for name in template.REPORT} - words(source("iotd.yaml.5")) == set()


def test_every_event_has_its_entry() -> None:
    found = set(events())
    assert len(found) > 30 and found - words(source("iotd.8")) == set()


def links(page: Path) -> set[Path]:
    """Return the files of the project that a page links to."""
    found = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8"))
    return {(page.parent / target).resolve() for target in found}


def test_every_link_of_a_page_leads_to_a_file() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    assert {page: gone for page in pages if (gone := [target for target in links(page) if not target.exists()])} == {}


def test_the_pages_that_come_with_the_package_link_to_no_others() -> None:
    lines = [line.split() for line in (ROOT / "debian/iotd.install").read_text("utf-8").splitlines()]
    placed = [ROOT / source for source, where in lines if where == "usr/share/doc/iotd/docs"]
    files = {file for path in placed for file in ([path] if path.is_file() else path.iterdir())}
    assert ROOT / "docs/aws/fleet.yaml" in files
    assert {page: away for page in files if page.suffix == ".md" and (away := links(page) - files)} == {}
