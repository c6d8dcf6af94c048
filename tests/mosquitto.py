"""Debian's mosquitto as a test's own broker: on loopback, in a directory of its own, under AWS IoT Core's limits."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Sequence

from tests.certificates import Certificates

HOST = "127.0.0.1"
PATIENCE_S = 20.0

_CONFIG = """\
user root
per_listener_settings false
persistence true
persistence_location {directory}/
autosave_interval 0
log_dest stderr
log_type all
log_timestamp_format %H:%M:%S
sys_interval 0
set_tcp_nodelay true
max_inflight_messages 100
max_queued_messages 0
message_size_limit 131072
persistent_client_expiration 1h
listener {port} {host}
max_qos 1
"""
_PLAIN = "allow_anonymous true\n"
_TLS = """\
allow_anonymous false
cafile {ca}
certfile {cert}
keyfile {key}
require_certificate true
use_identity_as_username true
"""


class Mosquitto:
    """A mosquitto that keeps its port, sessions and retained messages over a restart.

    With `certificates` it asks for mutual TLS, without it is plain. `settings` are further lines of
    mosquitto.conf; they stand last, in the listener's section. `log` is the file to read after a failure.
    """

    def __init__(
        self,
        directory: Path,
        certificates: Certificates | None = None,
        *,
        port: int | None = None,
        settings: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.certificates = certificates
        self.log = directory / "mosquitto.log"
        self.host = HOST
        self._port = port
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Mosquitto:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def port(self) -> int:
        """The port it listens on, known from the first start on."""
        assert self._port is not None, "mosquitto has no port before its first start"
        return self._port

    @property
    def pid(self) -> int:
        """The process id while it runs."""
        assert self._process is not None, "mosquitto is not running"
        return self._process.pid

    def start(self) -> None:
        """Return once it accepts connections; raises RuntimeError with its log when it does not.

        A port that somebody took between the choice and the start is chosen anew, unless it was asked for.
        """
        if self._port is not None:
            self._run(self._port)
            return
        for attempt in range(5):
            port = free_port()
            with suppress(PortTaken):
                self._run(port)
                self._port = port
                return
        raise RuntimeError("mosquitto found five ports taken in a row; look for something that listens on all of them")

    def stop(self) -> None:
        """End it as systemd would (SIGTERM): sessions and retained messages are saved."""
        if self._process is not None:
            self._process.terminate()
            self._end()

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL): what was not saved before is lost."""
        if self._process is not None:
            self._process.kill()
            self._end()

    def restart(self) -> None:
        """Stop it and start it again on the same port."""
        self.stop()
        self.start()

    def _end(self) -> None:
        assert self._process is not None
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._process = None

    def _run(self, port: int) -> None:
        assert self._process is None, "mosquitto is running already"
        if not _is_free(port):  # whoever listens there would be taken for ours, while ours is yet to fail
            raise PortTaken(f"mosquitto cannot listen on {self.host}:{port}, the port is taken")
        config = self.directory / "mosquitto.conf"
        config.write_text(self._config(port))
        command = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin")
        if command is None:
            raise RuntimeError("mosquitto is not installed; run script/bootstrap")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [command, "-c", str(config)], stdin=subprocess.DEVNULL, stderr=log, process_group=0
            )  # a group of its own: Ctrl-C at a terminal ends it when its owner says so, not before
        try:
            self._wait_until_ready(self._process, port)
        except BaseException:
            self.kill()
            raise

    def _config(self, port: int) -> str:
        text = _CONFIG.format(directory=self.directory, port=port, host=self.host)
        if self.certificates is None:
            text += _PLAIN
        else:
            server = self.certificates.server
            text += _TLS.format(ca=self.certificates.ca, cert=server.cert, key=server.key)
        return text + "".join(f"{line}\n" for line in self._settings)

    def _wait_until_ready(self, process: subprocess.Popen[bytes], port: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.01)
                log = self.log.read_text(errors="replace")
                if "Address already in use" in log:
                    raise PortTaken(f"mosquitto could not listen on {self.host}:{port}, the port is taken:\n{log}")
                raise RuntimeError(f"mosquitto ended with status {process.returncode} instead of starting:\n{log}")
            with suppress(OSError):
                socket.create_connection((self.host, port), timeout=1).close()
                return
        raise RuntimeError(f"mosquitto did not listen within {PATIENCE_S:g} s:\n{self.log.read_text(errors='replace')}")


class PortTaken(RuntimeError):
    """The port was free when it was chosen and is not any more."""


_given: set[int] = set()


def free_port() -> int:
    """Return a port of loopback that nobody listens on at this moment, never the same twice.

    It lies below the range that the kernel gives to outgoing connections: else a client that keeps trying to
    reach a stopped broker may be given the broker's own port, connect to itself, and keep the broker out.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(max(1024, lowest // 2), lowest)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
