"""The machine that the scenarios run in, one after the other, and the table of times that a run leaves."""

from __future__ import annotations

import subprocess
from typing import Iterator

import pytest

from tests.vm import air
from tests.vm.device import install
from tests.vm.machine import CHECKOUT, Machine
from tests.vm.timetable import Timetable


def pytest_addoption(parser: pytest.Parser) -> None:
    """--release: which Debian the machine runs. --write: renew docs/wifi.md from the times of this run."""
    parser.addoption("--release", default="trixie", help="the release of Debian to boot (trixie)")
    parser.addoption("--write", action="store_true", help="renew docs/wifi.md from the times of this run")


@pytest.fixture(scope="session")
def machine(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with the package installed and radios in its air, for all scenarios; nothing is started."""
    dist = tmp_path_factory.mktemp("dist")
    # The package is built while the machine boots.
    with subprocess.Popen([CHECKOUT / "script/package", dist], stdout=subprocess.DEVNULL) as building, \
            Machine(pytestconfig.getoption("--release")) as booted:
        assert building.wait() == 0, "script/package failed"
        install(booted, dist)
        air.open_air(booted)
        yield booted


@pytest.fixture(scope="session")
def timetable(request: pytest.FixtureRequest) -> Iterator[Timetable]:
    """The times of this run, told at its end."""
    collected = Timetable()
    yield collected
    print(f"\n{collected.table()}")
    if request.config.getoption("--write") and not request.session.testsfailed:
        (CHECKOUT / "docs/wifi.md").write_text(collected.document(), "utf-8")
