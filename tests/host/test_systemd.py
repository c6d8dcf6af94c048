"""What systemd hears, on a real socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

SPEAKER = """
from iotd.host.systemd import Systemd
systemd = Systemd()
print(systemd.feed_every_s)
systemd.ready()
systemd.status("connected")
systemd.status("connected")
systemd.status("not connected")
systemd.feed()
systemd.stopping()
"""


def speak(environment: dict[str, str], script: str = SPEAKER) -> str:
    """Let a process of its own speak to systemd; return what it prints."""
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, env={"PATH": os.environ["PATH"], **environment},
                          capture_output=True, text=True, check=True, timeout=30).stdout


def test_systemd_hears_each_word_and_a_status_only_when_it_changes(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(10.0)
        speak({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        heard = [listener.recv(4096).decode() for _ in range(5)]
        assert heard == ["READY=1", "STATUS=connected", "STATUS=not connected", "WATCHDOG=1", "STOPPING=1"]


def test_where_systemd_does_not_listen_nothing_is_said_and_nothing_breaks(tmp_path: Path) -> None:
    assert speak({}) == speak({"NOTIFY_SOCKET": str(tmp_path / "nobody")}) == "None\n"


@pytest.mark.parametrize("environment, feed_every_s", [
    ({"WATCHDOG_USEC": "30000000"}, "7.5"),
    ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, "None"),
    ({"WATCHDOG_USEC": ""}, "None"),
    ({"WATCHDOG_USEC": "-5"}, "None"),
    ({"WATCHDOG_USEC": "30s"}, "None"),
    ({}, "None"),
])
def test_the_watchdog_is_fed_at_a_quarter_of_its_time(environment: dict[str, str], feed_every_s: str) -> None:
    assert speak(environment) == f"{feed_every_s}\n"


def test_a_watchdog_of_this_very_process_is_fed() -> None:
    script = "import os\nos.environ['WATCHDOG_PID'] = str(os.getpid())\n" + SPEAKER
    assert speak({"WATCHDOG_USEC": "1000000"}, script) == "0.25\n"
