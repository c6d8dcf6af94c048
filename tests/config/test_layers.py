"""One file for the fleet, and what lies on top of it for the device."""

from __future__ import annotations

from pathlib import Path

import pytest

from iotd.cli.load import load, read
from iotd.config import layers
from iotd.config.document import MAX_NODES
from iotd.config.parse import parse
from iotd.errors import ConfigError
from iotd.host.identity import Identity

IDENTITY = Identity("pi-7", "0123456789abcdef")
FLEET = """
thing: pi
mqtt: {host: broker, port: 1883, backoff: {first: 1s, max: 2m}}
subscribe:
  - topic: a
  - topic: b
wifi: {grace: 2m}
"""


def problems(text: str, *above: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        parse(text, "f", IDENTITY, above=[(f"f.d/{number}", other) for number, other in enumerate(above)])
    return error.value.lines()


def test_mappings_merge_and_everything_else_takes_the_place() -> None:
    settings = parse(FLEET, "f", IDENTITY, above=[
        ("f.d/1", "mqtt: {port: 8883, backoff: {max: 1m}}\nsubscribe: [{topic: c}]\n"),
        ("f.d/2", ""), ("f.d/3", "# nothing\n"),
        ("f.d/4", "thing: other\nmqtt: {keepalive: 90s}\nlog: {level: debug}\n")]).settings
    assert (settings.thing, settings.log.level) == ("other", "debug")
    assert (settings.mqtt.host, settings.mqtt.port, settings.mqtt.keepalive_s) == ("broker", 8883, 90)
    assert (settings.mqtt.backoff.first_s, settings.mqtt.backoff.max_s) == (1, 60)
    assert [entry.filter for entry in settings.sections["subscribe"]] == ["c"]
    assert settings.sections["wifi"].grace_s == 120


def test_null_takes_away_what_is_below_and_is_nothing_where_there_is_none() -> None:
    settings = parse(FLEET, "f", IDENTITY, above=[
        ("f.d/1", "wifi: null\nmqtt: {backoff: ~}\nhome_assistant:\n")]).settings
    assert "wifi" not in settings.sections and "home_assistant" in settings.sections
    assert settings.mqtt.backoff == parse("mqtt: {host: h}", "f", IDENTITY).settings.mqtt.backoff
    again = parse(FLEET, "f", IDENTITY, above=[("f.d/1", "wifi: null"), ("f.d/2", "wifi: {grace: 3m}")]).settings
    assert again.sections["wifi"].grace_s == 180


def test_a_file_on_top_of_an_empty_one_is_all_there_is() -> None:
    assert parse("", "f", IDENTITY, above=[("f.d/1", "mqtt: {host: h}")]).settings.mqtt.host == "h"


def test_the_text_of_several_files_is_one_that_says_the_same() -> None:
    above = [("f.d/1", "mqtt: {port: 8883}\nsubscribe: [{topic: 'c'}]\npublish:\n"
                       "- {topic: t, every: 1s, payload: {a: 'yes', b: yes, c: \"{timestamp}\", d: '1'}}\n")]
    loaded = parse(FLEET, "f", IDENTITY, above=above)
    assert parse(loaded.text, "f", IDENTITY).settings == loaded.settings
    assert parse(FLEET, "f", IDENTITY).text == FLEET


@pytest.mark.parametrize("above, expected", [
    ("\nmqtt:\n  port: 0\n", "f.d/0:3: mqtt.port: expected a whole number from 1 to 65535, found 0"),
    ("nonsense: 1\n", "f.d/0:1: nonsense: unknown key; known here are "),
    ("mqtt: {port: 1}\nmqtt: {port: 2}\n", "f.d/0:2: mqtt: duplicate key, first in line 1; keep one of the two"),
    ("wifi: {grace: 1m, grace: 2m}\n", "f.d/0:1: wifi.grace: duplicate key, first in line 1; keep one of the two"),
    ("\n- a\n", "f.d/0:2: expected a mapping of keys, as in the file that it lies on"),
    ("just text\n", "f.d/0:1: expected a mapping of keys"),
    ("\nthing: [1\n", "f.d/0:2: is no YAML"),
    ("thing: \x01\n", "f.d/0:1: is no YAML"),
    ("---\nthing: a\n---\nthing: b\n", "f.d/0:3: is no YAML"),
    ("subscribe:\n- topic: a\n- topic: a\n", "f.d/0:3: subscribe[1].topic: 'a' is already subscribe[0]"),
    ("mqtt: {backoff: {first: 3m}}\n", "f.d/0:1: mqtt.backoff.first: 180s is above mqtt.backoff.max, 120s"),
])
def test_a_problem_names_the_file_and_the_line_that_it_stands_in(above: str, expected: str) -> None:
    [found] = problems(FLEET, above)
    assert found.startswith(expected)


def test_problems_of_several_files_come_file_by_file() -> None:
    found = problems("thing: [1]\nmqtt: {host: broker}\nlog: {level: loud}\n", "\n\nmqtt: {port: 0}", "log: {form: x}")
    assert [line.partition(": ")[0] for line in found] == ["f:1", "f:3", "f.d/0:3", "f.d/1:1"]


def test_a_duplicate_below_is_named_where_it_stands() -> None:
    [found] = problems("mqtt: {host: a}\nthing: a\nthing: b\n", "thing: c")
    assert found == "f:3: thing: duplicate key, first in line 1; keep one of the two"


@pytest.mark.parametrize("text", [
    "a: &a {a: *a}\n",
    "x0: &x0 {a: 1}\n" + "".join(
        f"x{n + 1}: &x{n + 1} {{{', '.join(f'k{i}: *x{n}' for i in range(9))}}}\n" for n in range(8)),
], ids=["within itself", "many"])
def test_aliases_that_stand_for_too_much_are_refused_at_once(text: str) -> None:
    assert len(text) < MAX_NODES
    assert "aliases" in problems(text, text)[0] or "alias" in problems(text, text)[0]


def test_files_that_are_too_large_together_are_refused() -> None:
    half = "x" * 600_000
    assert problems(f"thing: {half}\n", f"log: {{level: {half}}}\n") == [
        "f: is with what lies on top of it larger than 1048576 bytes"]


def test_what_is_read_and_in_which_order() -> None:
    assert layers.folder_of("/etc/iotd.yaml") == "/etc/iotd.d"
    assert layers.folder_of("fleet.yml") == "fleet.yml.d"
    assert layers.chosen(["b.yaml", "10.yaml", ".a.yaml", "c.yml", "9.yaml", "d.yaml~", "e.yaml.dpkg-old"]) == [
        "10.yaml", "9.yaml", "b.yaml"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "iotd.d").mkdir()
    (tmp_path / "iotd.yaml").write_text("thing: pi\nmqtt: {host: broker, limits: none}\n")
    return tmp_path / "iotd.yaml"


def test_the_folder_beside_the_file_lies_on_top_of_it(file: Path) -> None:
    (file.parent / "iotd.d/20-site.yaml").write_text("mqtt: {port: 1884}\n")
    (file.parent / "iotd.d/10-site.yaml").write_text("mqtt: {port: 1883, keepalive: 90s}\n")
    (file.parent / "iotd.d/30-site.yml").write_text("mqtt: {port: 1}\n")
    checked = load(str(file), False)
    assert (checked.settings.mqtt.port, checked.settings.mqtt.keepalive_s) == (1884, 90)
    assert checked.warnings[0] == (
        f"{file.parent}/iotd.d/30-site.yml: warning: is not read; a file that lies on {file} ends in .yaml")
    assert checked.warnings[1].startswith(f"{file.parent}/iotd.d/20-site.yaml:1: warning: mqtt.tls: ")
    assert parse(checked.text, "f", IDENTITY).settings == checked.settings._replace(hostname="pi-7")
    assert read("iotd.yaml", str(file.parent)).parsed.settings.mqtt.port == 1884


@pytest.mark.parametrize("what", ["unreadable", "not text", "too large", "a folder", "too many"])
def test_what_cannot_be_read_is_named_by_its_own_path(file: Path, what: str) -> None:
    odd = file.parent / "iotd.d/a.yaml"
    if what == "a folder":
        odd.mkdir()
    elif what == "too many":
        for number in range(layers.MAX_FILES + 1):
            (file.parent / f"iotd.d/{number}.yaml").touch()
    elif what == "unreadable":
        odd.symlink_to("nowhere")
    else:
        odd.write_bytes(b"\xff" if what == "not text" else b"# " + b"x" * 1024 * 1024)
    with pytest.raises(ConfigError) as error:
        load(str(file), True)
    [line] = error.value.lines()
    assert line.startswith(str(file.parent / "iotd.d") if what == "too many" else str(odd))


def test_without_the_folder_the_file_is_all_there_is(file: Path) -> None:
    (file.parent / "iotd.d").rmdir()
    assert load(str(file), True).text == file.read_text()
