"""What becomes of bytes, and of what programs tell, as tables."""

from __future__ import annotations

from typing import Any

import pytest

from iotd.values.reading import MAX_BYTES, MAX_DEPTH, Missing, member, of_bytes, of_told
from iotd.values.section import Value
from iotd.vocabulary import Json


def value(**fields: Any) -> Value:
    return Value("v", "file", "/v", **fields)


def same(found: Json, expected: Json) -> bool:
    return bool(found == expected) and type(found) is type(expected)


@pytest.mark.parametrize("form, data, expected", [
    ("auto", b"42\n", 42), ("auto", b" 4.5 ", 4.5), ("auto", b"true", True), ("auto", b'"a "\n', "a "),
    ("auto", b"open \n\n", "open"), ("auto", b"  open", "  open"), ("auto", b"", ""), ("auto", b"007", "007"),
    ("auto", b"NaN", "NaN"), ("auto", b"1e999", "1e999"), ("auto", b"-Infinity", "-Infinity"),
    ("auto", b'{"a": [1, {"b": null}]}', {"a": [1, {"b": None}]}), ("auto", b"{a: 1}", "{a: 1}"),
    ("auto", "接続👉\n".encode(), "接続👉"), ("auto", b"[" * 5000, "[" * 5000),
    ("text", b"42\n", "42"), ("text", b" null ", " null"), ("text", b"", ""),
    ("number", b" +42\n", 42), ("number", b"-.5", -0.5), ("number", b"5.", 5.0), ("number", b"007", 7),
    ("number", b"1e3", 1000.0), ("json", b'"x"', "x"), ("json", b"7", 7),
])
def test_bytes_become_a_value(form: str, data: bytes, expected: Json) -> None:
    found = of_bytes(value(form=form), data)
    assert found.reason == "" and same(found.data, expected)


@pytest.mark.parametrize("form, data, reason", [
    ("number", b"", "not a number"), ("number", b"12a", "not a number"), ("number", b"1_000", "not a number"),
    ("number", b"nan", "not a number"), ("number", b"0x10", "not a number"), ("number", "٣".encode(), "not a number"),
    ("number", b"1e999", "not a number: it is too large"), ("number", b"9" * 5000, "not a number"),
    ("json", b"open", "no JSON: Expecting value"), ("json", b"NaN", "no JSON: NaN is no number of JSON's"),
    ("json", b"", "no JSON"), ("auto", b"null", "null"), ("json", b" null\n", "null"),
    ("auto", b"\xff\xfe", "no UTF-8 text"), ("text", b"\x80", "no UTF-8 text"),
    ("auto", b"x" * (MAX_BYTES + 1), "more than 64 KB"), ("text", b"x" * (MAX_BYTES + 1), "more than 64 KB"),
    ("json", b"[" * 200_000, "more than 64 KB"), ("json", b"[" * 60_000, "no JSON"),
    ("json", b"[" * 33 + b"]" * 33, f"nested deeper than {MAX_DEPTH} levels"),
    ("auto", b'{"a":' * 40 + b"1" + b"}" * 40, f"nested deeper than {MAX_DEPTH} levels"),
])
def test_what_is_no_value_says_why(form: str, data: bytes, reason: str) -> None:
    found = of_bytes(value(form=form), data)
    assert found.data is None and found.reason.startswith(reason) and len(found.reason) <= 120


def test_what_is_just_not_too_much_is_taken() -> None:
    assert of_bytes(value(form="text"), b"x" * MAX_BYTES).data == "x" * MAX_BYTES
    assert of_bytes(value(), b"[" * MAX_DEPTH + b"]" * MAX_DEPTH).reason == ""


@pytest.mark.parametrize("fields, data, expected", [
    ({"scale": 0.001, "decimals": 1}, b"21437\n", 21.4), ({"scale": 2}, b"5", 10), ({"offset": -273.15}, b"300", 26.85),
    ({"decimals": 0}, b"21.5001", 22), ({"decimals": 2}, b"7", 7), ({"scale": -1, "offset": 100}, b"30", 70),
    ({"scale": 0.5, "form": "json"}, b"3", 1.5),
])
def test_a_number_is_scaled_then_shifted_then_rounded(fields: dict[str, Any], data: bytes, expected: Json) -> None:
    found = of_bytes(value(**fields), data)
    assert found.reason == "" and found.data == pytest.approx(expected) and type(found.data) is type(expected)


@pytest.mark.parametrize("data", [b"high", b"true", b'"5"', b"[1]", b"", b"1" * 400, b"1e308"])
def test_what_is_to_be_scaled_has_to_be_a_number_and_to_stay_one(data: bytes) -> None:
    found = of_bytes(value(scale=1e10), data)
    assert found.data is None and found.reason.startswith("not a number")


@pytest.mark.parametrize("age_s, reason", [
    (0.0, ""), (120.0, ""), (-4.0, ""), (121.0, "older than 120 s"),
    (-60.0, "from 60 s in the future; is the clock set?"),
])
def test_what_is_too_old_is_no_value(age_s: float, reason: str) -> None:
    assert of_bytes(value(max_age_s=120.0), b"1", age_s).reason == reason


@pytest.mark.parametrize("fields, told, expected", [
    ({}, "12", "12"), ({}, "open \n", "open"), ({}, 12, 12), ({}, {"a": [1]}, {"a": [1]}), ({}, None, None),
    ({"form": "text"}, 5, "5"), ({"form": "text"}, {"a": 1}, '{"a": 1}'), ({"form": "text"}, None, None),
    ({"form": "number"}, 5, 5), ({"form": "number"}, None, None), ({"scale": 2}, 4, 8), ({"form": "json"}, "a ", "a "),
])
def test_what_is_told_becomes_a_value(fields: dict[str, Any], told: Json, expected: Json) -> None:
    assert same(of_told(value(**fields), told), expected)


@pytest.mark.parametrize("fields, told, reason", [
    ({"form": "number"}, "5", "not a number"), ({"form": "number"}, True, "not a number"), ({"scale": 2}, "x", "not a"),
    ({}, "x" * MAX_BYTES, "more than 64 KB"), ({}, float("nan"), "no JSON"),
    ({}, [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]], "nested deeper"),
])
def test_what_cannot_be_told_says_why(fields: dict[str, Any], told: Json, reason: str) -> None:
    with pytest.raises(Missing, match=reason):
        of_told(value(**fields), told)


@pytest.mark.parametrize("names, expected", [
    ([], {"a": [1, {"b": 2}], "0": "zero"}), (["a"], [1, {"b": 2}]), (["a", "1", "b"], 2), (["a", "2"], None),
    (["a", "-1"], None), (["0"], "zero"), (["c"], None), (["a", "b"], None), (["a", "0", "x"], None),
    (["a", "9" * 5000], None),
])
def test_a_member_is_found_or_null(names: list[str], expected: Json) -> None:
    assert member({"a": [1, {"b": 2}], "0": "zero"}, names) == expected
