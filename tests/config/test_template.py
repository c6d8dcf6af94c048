"""Templates: what placeholders become, what stays, and what is refused."""

from __future__ import annotations

import json

import pytest

from iotd.config.template import (
    EVERYWHERE, PAYLOAD, REPORT, TemplateError, check, compile_json, compile_tree, fill_command, placeholders,
)
from iotd.vocabulary import Json

VALUES: dict[str, Json] = {
    "hostname": "pi-7", "timestamp": 1700000000, "uptime": 12.5, "essid": None, "health": "ヨシッ👉", "thing": "{run}",
    "sequence": True,
}


@pytest.mark.parametrize("text, filled", [
    ("{timestamp}", 1700000000),
    ("{uptime}", 12.5),
    ("{essid}", None),
    ("{sequence}", True),
    ("{health}", "ヨシッ👉"),
])
def test_a_string_that_is_one_placeholder_takes_the_type_of_its_value(text: str, filled: Json) -> None:
    result = compile_tree(text)(VALUES)
    assert result == filled and type(result) is type(filled)


@pytest.mark.parametrize("text, filled", [
    ("at {timestamp}", "at 1700000000"),
    ("{uptime} s", "12.5 s"),
    ("on {essid}", "on null"),
    ("{sequence}!", "true!"),
    ("{hostname}{hostname}", "pi-7pi-7"),
    ("a{hostname}b{timestamp}c", "api-7b1700000000c"),
    ("{thing} is not filled twice", "{run} is not filled twice"),
    ("{{hostname}}", "{hostname}"),
    ("{{{hostname}}}", "{pi-7}"),
    ("{hostname}}}", "pi-7}"),
    ("}}{{", "}{"),
    ("{{}}", "{}"),
    ("", ""),
    ("接続ヨシッ👉 {health}", "接続ヨシッ👉 ヨシッ👉"),
])
def test_placeholders_elsewhere_are_inserted_as_text_and_doubled_braces_are_literal(text: str, filled: str) -> None:
    assert compile_tree(text)(VALUES) == filled


def test_a_tree_keeps_its_shape_its_order_and_its_keys() -> None:
    tree = {"{hostname}": 1, "b": ["{hostname}", {"c": "{timestamp}", "d": None}], "a": 1.5, "e": "{{"}
    filled = compile_tree(tree)(VALUES)
    assert filled == {"{hostname}": 1, "b": ["pi-7", {"c": 1700000000, "d": None}], "a": 1.5, "e": "{"}
    assert list(filled) == list(tree)
    assert tree["b"] == ["{hostname}", {"c": "{timestamp}", "d": None}]


def test_each_filling_stands_by_itself_and_shares_only_what_is_constant() -> None:
    fill = compile_tree({"a": ["{hostname}"], "b": {"c": [1]}})
    first, second = fill({"hostname": "x"}), fill({"hostname": "y"})
    assert (first["a"], second["a"]) == (["x"], ["y"])
    assert first["b"] is second["b"]


def test_a_tree_without_placeholders_is_the_same_object_every_time() -> None:
    fill = compile_tree({"a": [1, "}}"]})
    assert fill({}) == {"a": [1, "}"]}
    assert fill({}) is fill({})


@pytest.mark.parametrize("tree", [
    "{timestamp}", "{essid}", "{health} \"{uptime}\"", 7, None, [], {}, [[], {}], True,
    {"{hostname}": 1, "b": ["{hostname}", {"c": "{timestamp}", "d": None}], "a": 1.5, "e": "{{", "f": "{sequence}"},
    [{"接続\n": "ヨシッ👉"}, "{thing}", ["{essid}", "{uptime}", "x{timestamp}"], "{health}"],
    {"a": {}, "b": ["{list}", "is {list}", {"c": "{list}"}]},
])
def test_as_text_it_is_the_json_of_the_filled_tree(tree: Json) -> None:
    values = {**VALUES, "list": [1, "é", {"x": None}], "health": 'ヨシッ👉 "\\'}
    known = REPORT | {"list"}
    filled = json.dumps(compile_tree(tree, known)(values), ensure_ascii=False)
    assert [compile_json(tree, known)(values) for _ in range(2)] == [filled, filled]


def test_a_missing_value_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="hostname"):
        compile_tree({"a": "{hostname}"})({})


@pytest.mark.parametrize("text, words", [
    ("{hostnam}", ["unknown placeholder {hostnam}", "did you mean {hostname}?", "{{hostnam}}"]),
    ("{ hostname }", ["did you mean {hostname}?"]),
    ("{zzz}", ["unknown placeholder {zzz}", "known here are boot_cause, boot_id"]),
    ("{}", ["unknown placeholder {}"]),
    ("{hostname", ["{hostname is not closed", "did you mean {hostname}?", "write {{"]),
    ("a {timestam b", ["did you mean {timestamp}?"]),
    ("{", ["{ is not closed", "write {{"]),
    ("a } b", ["} closes no placeholder", "write }}"]),
    ("{hostname}}", ["} closes no placeholder"]),
    ("{a{hostname}}", ["{a is not closed"]),
])
def test_what_cannot_be_filled_is_refused_with_what_would_be_right(text: str, words: list[str]) -> None:
    with pytest.raises(TemplateError) as error:
        compile_tree([{"a": text}], REPORT)
    assert all(word in str(error.value) for word in words), error.value


def test_a_placeholder_of_another_place_is_no_typing_error() -> None:
    with pytest.raises(TemplateError, match="{health} has no value here; known here are cpu_serial, hostname, "
                                            "machine_id, thing"):
        check("{health}", EVERYWHERE)


def test_placeholders_names_them_in_values_and_not_in_keys() -> None:
    tree = {"{thing}": ["a {hostname}", {"b": "{x}{y}"}], "c": 5, "d": "{{run}}"}
    assert placeholders(tree) == {"hostname", "x", "y"}


def test_a_report_knows_everything_a_payload_knows_and_its_health() -> None:
    assert EVERYWHERE < PAYLOAD < REPORT
    assert REPORT - PAYLOAD == {"health"}


DEFINED = ("pump", "level")


@pytest.mark.parametrize("text", ["{pump}", "{pump.flow}", "{pump.valves.0} {hostname}", "{level.a.b.c}"])
def test_what_the_file_defines_is_known_with_its_members(text: str) -> None:
    check(text, EVERYWHERE, DEFINED)


@pytest.mark.parametrize("text, words", [
    ("{pum.flow}", "did you mean {pump.flow}?"), ("{hostname.x}", "{hostname} has no members"),
    ("{pump.}", "expected a name behind each dot"),
    ("{zzz}", "known here are cpu_serial, hostname, level, machine_id, pump, thing"),
    ("{health.x}", "unknown placeholder {health.x}"),
])
def test_a_name_that_the_file_does_not_define_is_refused(text: str, words: str) -> None:
    with pytest.raises(TemplateError) as error:
        check(text, EVERYWHERE, DEFINED)
    assert words in str(error.value)


@pytest.mark.parametrize("command, values, filled", [
    (("a", "{x}", "{{x}}", "b{x}c{y}"), {"x": "1 2", "y": ";"}, ("a", "1 2", "{x}", "b1 2c;")),
    (("a", "--", "{x}", "{y}"), {"x": "-1", "y": "--"}, ("a", "--", "-1", "--")),
    (("a", "={x}", "-{x}"), {"x": "-1"}, ("a", "=-1", "--1")), (("a", "{x}"), {"x": "{y}"}, ("a", "{y}")),
])
def test_a_command_is_filled(command: tuple[str, ...], values: dict[str, str], filled: tuple[str, ...]) -> None:
    assert fill_command(command, values) == filled


@pytest.mark.parametrize("command, values", [
    (("a", "{x}"), {"x": "-1"}), (("a", "{x}{y}"), {"x": "", "y": "-"}), (("a", "{x}", "--"), {"x": "-"}),
    (("a", "{x}", "{y}"), {"x": "fine", "y": "-v"}),
])
def test_what_could_be_an_option_is_refused_unless_it_cannot_be_meant(
    command: tuple[str, ...], values: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match="option"):
        fill_command(command, values)
    assert fill_command(command, values, wary=False)


def test_no_argument_has_a_nul() -> None:
    with pytest.raises(ValueError, match="NUL"):
        fill_command(("a", "b{x}"), {"x": "a\0b"}, wary=False)
