"""What several tests of the programs ask for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.mosquitto import Mosquitto
from tests.observer import Observer


@pytest.fixture
def watcher(plain_broker: Mosquitto) -> Iterator[Observer]:
    """A second client of `plain_broker`, which hears all of plant/."""
    with Observer(plain_broker) as observer:
        observer.subscribe("plant/#")
        yield observer
