"""The demonstration as it is run: it believes only what was seen, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Iterator

import pytest

from tests.aws.stage import Cable
from tests.mosquitto import HOST
from tests.running import ROOT

PATIENCE_S = 60.0


class Run:
    """One run of the demonstration, whose files stand below a directory of its own."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._directory = directory
        environment = {**os.environ, "TMPDIR": str(directory), "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.aws.demo", *options], env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, encoding="utf-8", start_new_session=True)
        assert self.process.stdout is not None
        self.output = self.process.stdout
        self._deadline = threading.Timer(PATIENCE_S, self.process.kill)
        self._deadline.start()

    def read_until(self, text: str) -> str:
        """Return what it printed up to the line that has this text."""
        printed = ""
        for line in self.output:
            printed += line
            if text in line:
                return printed
        raise AssertionError(f"{text} was not printed; what was:\n{printed}")

    def end(self) -> tuple[int, str]:
        """Return the exit status and the rest of what it printed."""
        rest = "" if self.output.closed else self.output.read()
        status = self.process.wait()
        self.output.close()
        self._deadline.cancel()
        return status, rest

    def left_behind(self) -> list[str]:
        """Return the files and processes that are still there."""
        files = [str(path) for path in self._directory.iterdir()]
        return files + [command for command in commands() if str(self._directory) in command]

    def iotd(self) -> int:
        """Return the process id of iotd."""
        [pid] = [pid for pid, command in processes() if "iotd run" in command and str(self._directory) in command]
        return pid


def processes() -> Iterator[tuple[int, str]]:
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            command = (directory / "cmdline").read_text(errors="replace")
            yield int(directory.name), command.replace("\0", " ")


def commands() -> list[str]:
    return [command for _, command in processes()]


@pytest.fixture
def cable() -> Iterator[tuple[Cable, socket.socket]]:
    """A cable to a server that listens."""
    with socket.create_server((HOST, 0)) as server, Cable(server.getsockname()[1]) as line:
        server.settimeout(PATIENCE_S)
        yield line, server


def connect(line: Cable) -> socket.socket:
    return socket.create_connection((line.host, line.port), timeout=PATIENCE_S)


def test_what_is_promised_and_was_not_seen_is_named(tmp_path: Path) -> None:
    run = Run(tmp_path, "--seconds", "0.01")
    status, printed = run.end()
    assert status == 1
    assert 'not seen: the will after the power cut, "status": "Communication lost"' in printed
    assert run.left_behind() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    run = Run(tmp_path)
    run.read_until("session.connected")
    assert len(run.left_behind()) == 3  # the directory, mosquitto, iotd
    run.process.send_signal(number)
    status, printed = run.end()
    assert (status, "Traceback" in printed, run.left_behind()) == (0, False, [])
    assert "presence  Stopped" in printed


def test_ctrl_c_at_the_very_beginning_ends_it_as_well(tmp_path: Path) -> None:
    run = Run(tmp_path)
    while not list(tmp_path.glob("iotd-demo-*/certificates/*")) and run.process.poll() is None:
        pass
    os.killpg(run.process.pid, signal.SIGINT)  # a terminal means the whole group: openssl too
    status, printed = run.end()
    assert (status, "Traceback" in printed, run.left_behind()) == (0, False, [])


def test_an_iotd_that_ends_by_itself_is_a_failure(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.read_until("session.connected")
    os.kill(run.iotd(), signal.SIGKILL)
    status, printed = run.end()
    assert (status, run.left_behind()) == (1, [])
    assert printed.endswith("iotd ended by itself with status -9\n")


def test_it_ends_when_nobody_reads_any_more(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.read_until("session.connected")
    run.output.close()
    assert (run.end(), run.left_behind()) == ((1, ""), [])


def test_a_cable_carries_both_ways(cable: tuple[Cable, socket.socket]) -> None:
    line, server = cable
    with connect(line) as near, server.accept()[0] as far:
        near.sendall(b"ping")
        assert far.recv(9) == b"ping"
        far.sendall(b"pong")
        assert near.recv(9) == b"pong"


def test_a_cut_cable_ends_what_is_connected_and_takes_nobody(cable: tuple[Cable, socket.socket]) -> None:
    line, server = cable
    with connect(line) as near, server.accept()[0] as far:
        far.settimeout(PATIENCE_S)
        line.cut()
        assert (near.recv(9), far.recv(9)) == (b"", b"")
    with pytest.raises(ConnectionRefusedError):
        connect(line)


def test_a_mended_cable_carries_again(cable: tuple[Cable, socket.socket]) -> None:
    line, server = cable
    line.cut()
    line.mend()
    with connect(line) as near, server.accept()[0] as far:
        near.sendall(b"ping")
        assert far.recv(9) == b"ping"
