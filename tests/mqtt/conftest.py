"""What every test of the session may ask for."""

from __future__ import annotations

from typing import Iterator

import pytest

from tests.mqtt.held import PATIENCE_S, Held


@pytest.fixture
def held() -> Iterator[Held]:
    one = Held()
    yield one
    assert one.session.close(PATIENCE_S), "the MQTT thread did not end"
