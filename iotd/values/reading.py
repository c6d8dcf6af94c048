"""What becomes of the bytes of a file or a command, or of what a program tells: a value, or why there is none. Pure."""

import json
import math
import re
from typing import Any, NamedTuple, NoReturn

from iotd.values.section import Value
from iotd.vocabulary import Json

MAX_BYTES = 65536
MAX_DEPTH = 32
MAX_DIGITS = 400  # of a number as text: more than any float has
FUTURE_S = 5.0  # a file may be this much newer than a clock that is being set

_NUMBER = re.compile(r"\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\s*", re.ASCII)


class Missing(ValueError):
    """There is no value; the text says why."""


class Reading(NamedTuple):
    """One value as it was read: `data`, or why there is none in `reason`; `age_s` is how old it was then.

    `traceback` is that of a bug in iotd.
    """

    value: Value
    data: Json = None
    reason: str = ""
    age_s: float = 0.0
    traceback: str = ""


def faulty(value: Value, traceback: str) -> Reading:
    """Return what has been read where that ended in a bug: nothing."""
    return Reading(value, None, f"a bug in iotd: {traceback.strip().splitlines()[-1]}"[:120], traceback=traceback)


def of_bytes(value: Value, data: bytes, age_s: float = 0.0) -> Reading:
    """Return what the bytes of a file, or a command's output, amount to; those of a file are `age_s` old."""
    try:
        if len(data) > MAX_BYTES:
            raise Missing(f"more than {MAX_BYTES // 1024} KB")
        check_age(value, age_s)
        return Reading(value, _of_text(value, data.decode("utf-8")), "", age_s)
    except UnicodeDecodeError:
        return Reading(value, None, "no UTF-8 text", age_s)
    except Missing as why:
        return Reading(value, None, str(why), age_s)


def check_age(value: Value, age_s: float) -> None:
    """Raise Missing for what is too old."""
    if value.max_age_s is None:
        return
    if age_s > value.max_age_s:
        raise Missing(f"older than {value.max_age_s:g} s")
    if age_s < -FUTURE_S:
        raise Missing(f"from {-age_s:.0f} s in the future; is the clock set?")


def of_told(value: Value, told: Json) -> Json:
    """Return what a value becomes that a program tells. Raises Missing where its `as` or its scale cannot take it."""
    if value.form == "text" and not isinstance(told, str):
        told = None if told is None else json.dumps(told, ensure_ascii=False)
    if told is None:
        return None
    if isinstance(told, str) and value.form in ("auto", "text"):
        told = told.rstrip()
    try:
        size = len(json.dumps(told, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        raise Missing("no JSON") from None
    if size > MAX_BYTES:
        raise Missing(f"more than {MAX_BYTES // 1024} KB")
    return _finished(value, told)


def member(data: Json, names: list[str]) -> Json:
    """Return the member of an object or a list that the names lead to, None where there is none."""
    for name in names:
        if isinstance(data, dict):
            data = data.get(name)
        elif isinstance(data, list) and name.isdecimal() and len(name) < 6 and int(name) < len(data):
            data = data[int(name)]
        else:
            return None
    return data


def _of_text(value: Value, text: str) -> Json:
    if value.form == "text":
        return text.rstrip()
    if value.form == "number":
        if not _NUMBER.fullmatch(text) or len(text) > MAX_DIGITS:
            raise Missing("not a number")
        return _finished(value, int(text) if text.strip().lstrip("+-").isdecimal() else float(text))
    try:
        data = _decode(text)
    except (ValueError, RecursionError) as error:
        if value.form == "json":
            raise Missing(f"no JSON: {error}"[:120]) from None
        data = text.rstrip()
    if data is None:
        raise Missing("null")
    return _finished(value, data)


def _finished(value: Value, data: Json) -> Json:
    """Return the data scaled, where it is to be a number; anything that cannot be sent is no value."""
    if isinstance(data, (dict, list)) and _is_deep(data):
        raise Missing(f"nested deeper than {MAX_DEPTH} levels")
    if not value.is_scaled and value.form != "number":
        return data
    if isinstance(data, bool) or not isinstance(data, (int, float)):
        raise Missing("not a number")
    try:
        number = data * (1 if value.scale is None else value.scale) + (0 if value.offset is None else value.offset)
        if value.decimals is not None:
            number = round(number, value.decimals or None)
        if math.isfinite(number):
            return number
    except (OverflowError, ValueError):
        pass
    raise Missing("not a number: it is too large")


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON's")


def _finite(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise ValueError(f"{text} is too large")
    return found


_decode = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite).decode


def _is_deep(data: Json) -> bool:
    """Tell whether it is nested deeper than it may be, without recursion."""
    layer: list[Any] = [data]
    for _ in range(MAX_DEPTH):
        layer = [child for parent in layer if isinstance(parent, (dict, list))
                 for child in (parent.values() if isinstance(parent, dict) else parent)]
        if not layer:
            return False
    return any(isinstance(child, (dict, list)) for child in layer)
