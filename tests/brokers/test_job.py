"""The main job on Debian's mosquitto; script/test-brokers has it on all."""

from __future__ import annotations

from tests.brokers.__main__ import examine, expected
from tests.brokers.brokers import Mosquitto


def test_the_main_job_is_done() -> None:
    version, found = examine(Mosquitto, 3.0)
    assert found == expected(Mosquitto) and version.startswith(("1.", "2."))
