"""Values end to end: iotd as a process, real files and commands, a broker, and what a second client sees."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator

import pytest

from tests.mosquitto import Mosquitto
from tests.observer import Observer
from tests.running import Iotd, configuration


@pytest.fixture
def cloud(plain_broker: Mosquitto) -> Iterator[Observer]:
    with Observer(plain_broker) as client:
        client.subscribe("t/#")
        yield client


def status(iotd: Iotd) -> str:
    return subprocess.run([sys.executable, "-m", "iotd", "status"], env=iotd.environment(), cwd="/",
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20).stdout


def message(topic: str, every: str = "1h", **more: Any) -> dict[str, Any]:
    return {"topic": topic, "every": every, "retain": False, **more}


def test_files_and_commands_arrive_in_payloads_and_one_that_hangs_delays_no_other(
    tmp_path: Path, plain_broker: Mosquitto, cloud: Observer
) -> None:
    (tmp_path / "water").write_text("21437\n")
    (tmp_path / "pump.json").write_text('{"flow": 2.5, "valves": [true, "shut"]}')
    os.mkfifo(tmp_path / "pipe")
    device = configuration(
        plain_broker, None,
        values={
            "water": {"file": str(tmp_path / "water"), "scale": 0.001, "round": 1},
            "pump": {"file": str(tmp_path / "pump.json"), "max_age": "1h"},
            "pipe": {"file": str(tmp_path / "pipe")},
            "level": {"command": ["/bin/sh", "-c", "echo 42; sleep 60 &"]},
            "hangs": {"command": ["sleep", "60"], "timeout": "2s"},
        },
        publish=[
            message("t/slow", payload={"hangs": "{hangs}"}),
            message("t/quick", payload={
                "water": "{water}", "flow": "{pump.flow}", "valve": "it is {pump.valves.1}", "pipe": "{pipe}",
                "level": "{level}"}),
        ])
    with Iotd(tmp_path / "iotd", device) as iotd:
        slow = cloud.wait_for("t/slow")
        quick = cloud.wait_for("t/quick")
        assert quick.order < slow.order and slow.json() == {"hangs": None}
        assert quick.json() == {"water": 21.4, "flow": 2.5, "valve": "it is shut", "pipe": None, "level": 42}
        iotd.wait_for("value.missing", value="hangs", reason="did not end within 2 s")
        iotd.wait_for("value.missing", value="pipe", reason=f"{tmp_path}/pipe is no regular file")
        iotd.signal(signal.SIGTERM)
        assert iotd.end() == 0


def test_a_file_that_changes_is_sent_and_status_shows_it(
    tmp_path: Path, plain_broker: Mosquitto, cloud: Observer
) -> None:
    (tmp_path / "level").write_text("1")
    device = configuration(
        plain_broker, None, values={"level": {"file": str(tmp_path / "level"), "every": "100ms"}},
        publish=[message("t/a", on_change={"level": 0.5}, at_most="200ms", payload={"level": "{level}"})])
    with Iotd(tmp_path / "iotd", device) as iotd:
        assert cloud.wait_for("t/a").json() == {"level": 1}
        (tmp_path / "new").write_text("2")
        (tmp_path / "new").replace(tmp_path / "level")
        assert cloud.wait_for("t/a", since=1).json() == {"level": 2}
        iotd.wait_told("connected")
        iotd.signal(signal.SIGHUP)
        iotd.wait_for("daemon.reloaded")
        (tmp_path / "level").unlink()
        assert cloud.wait_for("t/a", since=2).json() == {"level": None}
        iotd.wait_for("value.missing", value="level")
        assert "value level: " in status(iotd)
        iotd.signal(signal.SIGTERM)
        assert iotd.end() == 0


def test_a_message_has_its_command_run(tmp_path: Path, plain_broker: Mosquitto, cloud: Observer) -> None:
    script = f"cat > {tmp_path}/horn.new; echo \"$1\" >> {tmp_path}/horn.new; mv {tmp_path}/horn.new {tmp_path}/horn"
    device = configuration(
        plain_broker, None, log={"level": "debug"}, subscribe=[
            {"topic": "t/horn", "run": ["/bin/sh", "-c", script, "x", "{payload}"], "log": False}],
        publish=[message("t/up", payload={})])
    with Iotd(tmp_path / "iotd", device) as iotd:
        cloud.wait_for("t/up")
        cloud.publish("t/horn", b"; touch /tmp/x\n")
        iotd.wait_for("message.done", topic="t/horn")
        assert (tmp_path / "horn").read_text() == "; touch /tmp/x\n; touch /tmp/x\n\n"
        assert not any(entry["event"] == "message.received" for entry in iotd.entries)
        iotd.signal(signal.SIGTERM)
        assert iotd.end() == 0
