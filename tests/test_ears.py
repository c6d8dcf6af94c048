"""What a desired value becomes as an argument of a real command."""

from __future__ import annotations

import pytest

from iotd.ears import perform
from iotd.finding import Performed
from iotd.settings import Json, Run

SAYS = Run(("sh", "-c", "printf '%s' \"$#:$1\"; exit 1", "sh", "{value}"))


@pytest.mark.parametrize("value, said", [
    ("$(reboot)", "1:$(reboot)"), ("`reboot`; reboot", "1:`reboot`; reboot"), ("two words", "1:two words"),
    ("", "1:"), ("a\tb", "1:a�b"), (3, "1:3"), (False, "1:false"), ({"a": [None]}, '1:{"a": [null]}'),
    ("first\nsecond", "second"),
])
def test_a_value_reaches_the_command_as_one_inert_argument(value: Json, said: str) -> None:
    assert perform("s", "fan", SAYS, value) == Performed("s", "fan", f"exit status 1: {said}")


@pytest.mark.parametrize("action, value, reason", [
    (Run(("true", "{value}")), "x", ""),
    (Run(("true", "{value}")), "a\0b", "it has a NUL character, which no argument of a command can have"),
    (Run(("/nowhere", "{value}")), 1, "/nowhere cannot be run: No such file or directory"),
    (Run(("sleep", "{value}"), timeout_s=0.2), 60, "did not end within 0.2 s"),
])
def test_how_it_ended_is_told(action: Run, value: Json, reason: str) -> None:
    assert perform(None, "fan", action, value) == Performed(None, "fan", reason)


def test_what_looks_like_an_option_is_refused_before_anything_runs() -> None:
    assert "option" in perform(None, "fan", Run(("ls", "{value}")), "--help").reason
