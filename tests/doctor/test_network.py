"""Causes in the network, injected into a network namespace: named within the limit, mended by what the fix says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.running import ROOT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has network namespaces")

ROUTER = "192.0.2.1"
_UNTIL_IT_LISTENS = """
import socket, sys, time
for _ in range(200):
    try:
        sys.exit(socket.create_connection(("198.51.100.9", int(sys.argv[1])), 1).close())
    except OSError:
        time.sleep(0.05)
sys.exit(1)
"""


class Net:
    """A device in a namespace of its own, and its router with the broker behind it in another."""

    def __init__(self, tmp_path: Path) -> None:
        self.device, self.router = f"iotd-d{os.getpid()}", f"iotd-r{os.getpid()}"
        self._path = tmp_path
        self._running: list[subprocess.Popen[bytes]] = []
        self.resolver(ROUTER)

    def up(self) -> None:
        """Lay the cable, give both ends an address, and let the way out be through the router."""
        for name in (self.device, self.router):
            run("ip", "netns", "add", name)
            self.within(name, "ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "lan0", "netns", self.device, "type", "veth", "peer", "name", "lan1", "netns",
            self.router)
        self.within(self.router, "ip", "address", "add", f"{ROUTER}/24", "dev", "lan1")
        self.within(self.router, "ip", "address", "add", "198.51.100.9/32", "dev", "lo")
        self.within(self.router, "ip", "link", "set", "lan1", "up")
        self.do("ip address add 192.0.2.7/24 dev lan0")
        self.do("ip link set lan0 up")
        self.do(f"ip route add default via {ROUTER}")
        deadline = time.monotonic() + 10.0
        while "NO-CARRIER" in self.said("ip link show lan0"):  # the kernel tells a carrier up to a second late
            assert time.monotonic() < deadline

    def down(self) -> None:
        """Take all of it away."""
        for process in self._running:
            process.kill()
            process.wait()
        for name in (self.device, self.router):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)

    def do(self, command: str) -> None:
        """Run a command on the device."""
        self.within(self.device, *command.split())

    def said(self, command: str) -> str:
        """Return what a command on the device says."""
        return subprocess.run(["ip", "netns", "exec", self.device, *command.split()], capture_output=True, text=True,
                              timeout=30).stdout

    def within(self, name: str, *command: str) -> None:
        run("ip", "netns", "exec", name, *command)

    def broker(self, port: int = 1883) -> None:
        """Start a mosquitto behind the router, and wait until it listens."""
        file = self._path / f"broker-{port}.conf"
        file.write_text(f"listener {port} 198.51.100.9\nallow_anonymous true\nuser root\n")
        self._running.append(subprocess.Popen(
            ["ip", "netns", "exec", self.router, "/usr/sbin/mosquitto", "-c", str(file)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL))
        self.within(self.router, sys.executable, "-c", _UNTIL_IT_LISTENS, str(port))

    def resolver(self, *servers: str) -> None:
        (self._path / "resolv.conf").write_text("".join(f"nameserver {server}\n" for server in servers))

    def doctor(self, host: str = "198.51.100.9", port: int = 1883) -> dict[str, Any]:
        """Return what `iotd doctor --json` says on the device, with the layer that is to blame beside the daemon's."""
        file = self._path / "iotd.yaml"
        file.write_text(f"thing: t\nmqtt: {{host: {host}, port: {port}}}\n")
        for name in ("state", "runtime"):
            (self._path / name).mkdir(exist_ok=True)
        started = time.monotonic()
        result = subprocess.run(
            ["ip", "netns", "exec", self.device, "unshare", "--mount", "sh", "-c",
             f"mount --bind {self._path}/resolv.conf /etc/resolv.conf && exec {sys.executable} -m iotd doctor --json "
             f"-c {file}"], capture_output=True, text=True, timeout=30, cwd="/", env={
                "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "STATE_DIRECTORY": f"{self._path}/state",
                "RUNTIME_DIRECTORY": f"{self._path}/runtime"})
        assert result.stderr == "" and time.monotonic() - started < 11.0
        body: dict[str, Any] = json.loads(result.stdout)
        failed = [finding["layer"] for finding in body["findings"]
                  if finding["level"] == "failed" and finding["consequence_of"] is None]
        cause = next((layer for layer in failed if layer != "daemon"), None)
        return {"cause": cause, "took": time.monotonic() - started,
                **{finding["layer"]: finding for finding in body["findings"]}}


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, (command, done.stderr)


@contextmanager
def laid(tmp_path: Path) -> Iterator[Net]:
    net = Net(tmp_path)
    try:
        net.up()
        yield net
    finally:
        net.down()


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    with laid(tmp_path) as laid_net:
        laid_net.broker()
        yield laid_net


def test_a_network_that_is_well_has_no_cause_and_answers_at_once(net: Net) -> None:
    found = net.doctor()
    assert found["cause"] is None and found["took"] < 5.0
    assert found["mqtt"]["finding"] == "the broker takes this device (seen by this look)"


@pytest.mark.parametrize("broken, mended, layer, limit_s", [
    ("ip route del default", "ip route add default via 192.0.2.1", "gateway", 5.0),
    ("ip address flush dev lan0", "ip address add 192.0.2.7/24 dev lan0", "address", 5.0),
    ("ip link set lan0 down", "ip link set lan0 up", "interface", 5.0),
    ("ip neighbour replace 192.0.2.1 lladdr 02:00:00:00:00:99 dev lan0 nud permanent",
     "ip neighbour del 192.0.2.1 dev lan0", "tcp", 11.0),
    ("ip route replace default via 192.0.2.99", "ip route replace default via 192.0.2.1", "gateway", 11.0),
    ("ip route add blackhole 198.51.100.9", "ip route del blackhole 198.51.100.9", "tcp", 5.0),
    ("ip route add unreachable 198.51.100.9", "ip route del unreachable 198.51.100.9", "tcp", 5.0),
])
def test_a_cause_in_the_network_is_named_and_gone_once_it_is_mended(
    net: Net, broken: str, mended: str, layer: str, limit_s: float
) -> None:
    net.do(broken)
    found = net.doctor()
    assert (found["cause"], bool(found[layer]["fix"])) == (layer, True) and found["took"] < limit_s, found
    net.do(mended)
    if layer in ("address", "interface"):  # the kernel takes the route along
        net.do("ip route replace default via 192.0.2.1")
    assert net.doctor()["cause"] is None


def test_a_port_where_nobody_listens(net: Net) -> None:
    found = net.doctor(port=1884)
    assert found["cause"] == "tcp" and "refused" in found["tcp"]["finding"] and found["took"] < 5.0
    net.broker(1884)
    assert net.doctor(port=1884)["cause"] is None


def test_no_name_server(net: Net) -> None:
    net.resolver()
    found = net.doctor("broker.example")
    assert found["cause"] == "dns" and found["took"] < 5.0, found
    assert "no name server is configured" in found["dns"]["finding"]


def test_a_name_server_that_is_silent(net: Net) -> None:
    net.resolver("203.0.113.5")
    net.within(net.router, "ip", "route", "add", "blackhole", "203.0.113.5")
    found = net.doctor("broker.example")
    assert found["cause"] == "dns" and found["took"] < 11.0, found


def test_a_name_server_that_refuses(net: Net) -> None:
    found = net.doctor("broker.example")  # nobody listens on the router's port 53
    assert found["cause"] == "dns" and found["took"] < 11.0, found
