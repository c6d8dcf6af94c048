"""What every test may ask for: certificates, a broker of its own, an independent client."""

from __future__ import annotations

import gc
import io
from pathlib import Path
from typing import Iterator

import pytest

from iotd.host import log
from tests.certificates import Certificates, make_certificates
from tests.mosquitto import Mosquitto
from tests.observer import Observer


def pytest_configure(config: pytest.Config) -> None:
    """A warning is an error."""
    config.addinivalue_line("filterwarnings", "error")


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_open() -> Iterator[None]:
    """Find what a test has left open and only the garbage collector closes: its ResourceWarning is an error as well."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """One authority, a server on loopback and the client `test-thing`."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def said() -> Iterator[io.StringIO]:
    """What is logged from now on, one JSON object a line."""
    stream = io.StringIO()
    log.start("info", "json", False, stream)
    yield stream
    log.start("info", "json", False)


@pytest.fixture
def broker(tmp_path: Path, certificates: Certificates) -> Iterator[Mosquitto]:
    """A mosquitto with mutual TLS."""
    yield from _running(tmp_path / "broker", certificates)


@pytest.fixture
def plain_broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A mosquitto without TLS."""
    yield from _running(tmp_path / "plain-broker", None)


@pytest.fixture
def observer(broker: Mosquitto) -> Iterator[Observer]:
    """A second client of `broker`."""
    with Observer(broker) as client:
        yield client


def _running(directory: Path, certificates: Certificates | None) -> Iterator[Mosquitto]:
    directory.mkdir()
    with Mosquitto(directory, certificates) as mosquitto:
        yield mosquitto
