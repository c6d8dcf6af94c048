"""Every example of docs/programs.md does what the page says: each is taken from the page, and run."""

from __future__ import annotations

import os
import pty
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.mosquitto import Mosquitto
from tests.observer import Observer
from tests.running import ROOT, Iotd, configuration

PAGE = (ROOT / "docs/programs.md").read_text("utf-8")
EXAMPLES = dict(re.findall(r"<!-- (.+?) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))
HOST = socket.gethostname()


class Device:
    """A daemon with the page's configuration, and a host on which `iotd` is a command and the socket is where it is."""

    def __init__(self, path: Path, broker: Mosquitto, example: str = "configuration", replaced: str = "") -> None:
        sections = yaml.safe_load(EXAMPLES[example].replace(*replaced.split(" ")) if replaced else EXAMPLES[example])
        settings = {**configuration(broker, None, **sections), "thing": HOST}
        self.iotd = Iotd(path / "iotd", settings)
        self._path = path
        (path / "bin").mkdir()
        (path / "bin/iotd").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m iotd "$@"\n')
        (path / "bin/jq").write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "
                                     "'import json, sys; print(json.load(sys.stdin)[\"payload\"])'\n")
        for name in ("iotd", "jq"):
            (path / "bin" / name).chmod(0o755)

    def environment(self) -> dict[str, str]:
        environment = self.iotd.environment()
        return {**environment, "PATH": f"{self._path / 'bin'}:{environment['PATH']}"}

    def write(self, name: str, example: str) -> Path:
        """Return a file with the example, whose socket is this daemon's."""
        file = self._path / name
        file.write_text(EXAMPLES[example].replace("/run/iotd.sock", str(self.iotd.directory / "runtime/iotd.sock")))
        return file

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(command, env=self.environment(), text=True, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=self._path, process_group=0)

    def run(self, *command: str) -> str:
        """Return what a command has said that ended well."""
        done = subprocess.run(command, env=self.environment(), text=True, stdin=subprocess.DEVNULL,
                              capture_output=True, cwd=self._path, timeout=30)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout


@pytest.fixture
def device(tmp_path: Path, plain_broker: Mosquitto) -> Iterator[Device]:
    device = Device(tmp_path, plain_broker)
    with device.iotd:
        device.iotd.wait_for("session.connected")
        yield device


def payloads(watcher: Observer, topic: str) -> list[bytes]:
    return [message.payload for message in watcher.messages if message.topic == topic]


def test_every_example_is_run_here_and_has_about_ten_lines() -> None:
    source = Path(__file__).read_text("utf-8")
    assert len(EXAMPLES) >= 9
    for name, text in EXAMPLES.items():
        assert f'"{name}"' in source or f'"{name.split(": ")[-1]}"' in source, name
        assert len(text.splitlines()) <= 20, name


def test_the_shell_publishes_three_ways_and_listens(device: Device, watcher: Observer) -> None:
    script = device.start("/bin/sh", str(device.write("shell", "run: shell")))
    watcher.wait_for(f"plant/{HOST}/pump/count", lambda message: message.payload == b"3")
    while script.poll() is None:  # it listens once it has published; what came before that nobody hears
        watcher.publish("plant/all/horn", "quiet")
    assert script.communicate()[0] == "quiet\n" and script.returncode == 0
    topic = f"plant/{HOST}/pump"
    assert payloads(watcher, topic) == [b'{"on": true}']
    assert payloads(watcher, f"{topic}/state") == [b"idle since noon"]
    assert payloads(watcher, f"{topic}/count") == [b"1", b"2", b"3"]


def test_python_publishes_with_nothing_but_its_standard_library(device: Device, watcher: Observer) -> None:
    assert device.run(sys.executable, "-I", str(device.write("celsius.py", "run: python"))) == (
        '{"kept": 1}\n{"kept": 2}\n')
    watcher.wait_for(f"plant/{HOST}/celsius", lambda message: message.payload == b"20.75")


def test_c_publishes(device: Device, watcher: Observer, tmp_path: Path) -> None:
    device.write("pump.c", "run: c")
    device.run("cc", "-Wall", "-Wextra", "-Werror", "-o", "pump", "pump.c")
    assert device.run("./pump", f"plant/{HOST}/pid") == '{"kept": 1}\n'
    assert int(watcher.wait_for(f"plant/{HOST}/pid").payload) > 0


def unit(name: str) -> dict[str, str]:
    """Return the keys of a unit of the page."""
    return dict(line.split("=", 1) for line in EXAMPLES[f"unit: {name}"].splitlines() if "=" in line)


def words(command: str) -> list[str]:
    """Return a command of a unit as systemd would split it."""
    return shlex.split(command.replace("%H", HOST).replace("%%", "%"))


def test_a_timer_publishes(device: Device, watcher: Observer) -> None:
    assert unit("disk-report.timer")["OnCalendar"] == "hourly"
    assert device.run(*words(unit("disk-report.service")["ExecStart"])) == ""
    assert b"Filesystem" in watcher.wait_for(f"plant/{HOST}/disk").payload


def test_a_service_listens(device: Device, watcher: Observer) -> None:
    service = device.start(*words(unit("horn.service")["ExecStart"]))
    said: list[str] = []
    assert service.stdout is not None
    reader = threading.Thread(target=lambda: said.append(service.stdout.readline()))  # type: ignore[union-attr]
    reader.start()
    while reader.is_alive():
        watcher.publish("plant/all/horn", "loud")
        reader.join(0.1)
    os.killpg(service.pid, signal.SIGTERM)
    service.communicate()
    assert said[0].startswith("horn: ") and '"payload": "loud"' in said[0]


def test_systemd_finds_no_fault_in_the_units(tmp_path: Path) -> None:
    names = ["disk-report.service", "disk-report.timer", "horn.service"]
    for name in names:
        (tmp_path / name).write_text(EXAMPLES[f"unit: {name}"])
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in names)],
                          capture_output=True, text=True, timeout=30, env={**os.environ, "SYSTEMD_UNIT_PATH": ":".join(
                              [str(tmp_path), str(ROOT / "systemd"), ""])})
    assert not [line for line in done.stderr.splitlines() if any(name in line for name in names)], done.stderr


@pytest.fixture
def serial_line(tmp_path: Path) -> Iterator[Path]:
    """A serial line with a sensor at its other end."""
    sensor, port = pty.openpty()
    (tmp_path / "serial1").symlink_to(os.ttyname(port))

    def answer() -> None:
        asked = b""
        while not asked.endswith((b"\r", b"\n")):
            asked += os.read(sensor, 100)
        os.write(sensor, b"LEVEL 12.5\r\n" if b"LEVEL?" in asked else b"ERROR\r\n")

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    yield tmp_path / "serial"
    thread.join(10)
    os.close(sensor)
    os.close(port)


def read_level(device: Device, serial_line: Path) -> Path:
    """Return the page's command, on this line."""
    script = device.write("read-level", "run: read-level")
    script.write_text(script.read_text().replace("/dev/serial", str(serial_line)))
    script.chmod(0o755)
    return script


def test_a_command_reads_a_serial_sensor(device: Device, serial_line: Path) -> None:
    assert device.run(str(read_level(device, serial_line)), "1").strip() == "12.5"


@pytest.mark.parametrize(("example", "replaced", "key", "value"), [
    ("values: water", "/sys/bus/w1/devices/28-0316a2f5c1ff/temperature {path}/temperature", "celsius", 21.1),
    ("values: level", "/usr/local/bin/read-level {path}/read-level", "cm", 12.5)])
def test_a_value_is_read_and_published(
    tmp_path: Path, plain_broker: Mosquitto, watcher: Observer, serial_line: Path, example: str, replaced: str,
    key: str, value: Any
) -> None:
    device = Device(tmp_path, plain_broker, example, replaced.format(path=tmp_path))
    (tmp_path / "temperature").write_text("21062\n")
    read_level(device, serial_line)
    with device.iotd:
        topic = f"plant/{HOST}/{example.split()[-1]}"
        assert watcher.wait_for(topic).json()[key] == value
    if key == "celsius":
        subprocess.run([str(tmp_path / "read-level"), "1"], check=True, stdout=subprocess.DEVNULL, timeout=10)
