"""`iotd retained` as a process, with a daemon on a real broker and without one."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.mosquitto import Mosquitto
from tests.observer import Observer
from tests.running import Iotd, configuration

PUBLISH = [{"topic": f"plant/{name}", "every": "1h", "payload": {"a": 1}} for name in ("kept", "left", "gone")]


def retained(iotd: Iotd, *words: str) -> tuple[int, list[str], str]:
    done = subprocess.run([sys.executable, "-m", "iotd", "retained", *words, "-c", str(iotd.file)],
                          env=iotd.environment(), cwd="/", capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout.splitlines(), done.stderr


def states(lines: list[str]) -> dict[str, str]:
    return {line.split()[-1]: line.split()[0] for line in lines}


def test_what_a_device_has_retained_is_listed_and_cleared(tmp_path: Path, plain_broker: Mosquitto) -> None:
    settings: dict[str, Any] = configuration(plain_broker, None, publish=PUBLISH, local={"publish": ["program"]})
    iotd = Iotd(tmp_path / "iotd", settings)
    assert retained(iotd) == (0, [], "")
    with iotd:
        with Observer(plain_broker) as watcher:
            watcher.subscribe("plant/#")
            watcher.wait_for("plant/gone")
            subprocess.run([sys.executable, "-m", "iotd", "publish", "program", "1", "--retain"],
                           env=iotd.environment(), cwd="/", check=True, timeout=30)
        settings["publish"] = PUBLISH[:1]
        iotd.configure(settings)
        iotd.signal(signal.SIGHUP)
        assert iotd.wait_for("retained.orphaned")["topics"] == ["plant/left", "plant/gone"]
        status, lines, _ = retained(iotd)
        assert status == 0 and states(lines) == {
            "MQTTServer/test-thing/will": "used", "plant/kept": "used", "plant/left": "orphaned",
            "plant/gone": "orphaned", "program": "program"}
        assert retained(iotd, "--clear", "plant/left") == (0, ["cleared plant/left"], "")
        assert retained(iotd, "--clear", "plant/#")[0] == 1
        assert retained(iotd, "--clear")[0] == retained(iotd, "--clear", "a", "--orphaned")[0] == 2
        plain_broker.stop()
        iotd.wait_for("session.disconnected")
        assert retained(iotd, "--clear", "--orphaned") == (1, [], "iotd retained: refused: the line is down\n")
        since = len(iotd.entries)
        plain_broker.start()
        iotd.wait_for("session.connected", since)
        assert retained(iotd, "--clear", "--orphaned") == (0, ["cleared plant/gone"], "")
        assert retained(iotd, "--orphaned") == (0, [], "")
        with Observer(plain_broker) as late:
            late.subscribe("#")
            for topic in ("MQTTServer/test-thing/will", "plant/kept", "program"):
                late.wait_for(topic)
            assert {message.topic for message in late.messages if message.retain} == {
                "MQTTServer/test-thing/will", "plant/kept", "program"}
        iotd.signal(signal.SIGTERM)
        assert iotd.end() == 0
        iotd.configure({**settings, "publish": []})
        assert states(retained(iotd, "--orphaned")[1]) == {"plant/kept": "orphaned"}
        iotd.file.write_text("mqtt: [", "utf-8")
        assert states(retained(iotd)[1])["plant/kept"] == "used"
        assert retained(iotd, "--clear", "--orphaned")[0] == 3
