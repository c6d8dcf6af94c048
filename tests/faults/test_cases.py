"""The cases of the lab that a developer waits for; `python3 -m tests.faults` runs the slow ones as well."""

from __future__ import annotations

from typing import Iterator

import pytest

from tests.faults import advisor, large, lines  # they fill CASES
from tests.faults.lab import CASES, Lab

assert advisor and large and lines
FAST = [name for name in CASES if not CASES[name].slow]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """All the cases that were asked for, begun at once."""
    asked = " ".join(item.name for item in request.session.items)
    lab = Lab(tmp_path_factory.mktemp("lab"), [name for name in FAST if f"[{name}]" in asked])
    yield lab
    lab.close()


@pytest.mark.parametrize("name", FAST)
def test_the_device_passes(lab: Lab, name: str) -> None:
    verdict = lab.result(name).verdict
    assert verdict.word == "pass", verdict.seen
