"""A fleet on three nodes of RabbitMQ behind one name, of which one is killed: script/test-brokers --cluster.

    python3 -m tests.brokers.cluster [--devices N] [--write]

In a network of its own, as script/test-brokers makes it: the nodes have an address each, the devices are processes and
ask a name server for the name. Exit status 1 where a device is not back within the bound, a message is lost or out of
order, a presence is not true, or the CONNECTs come at once. `--write` puts table and plot into docs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from math import sqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, cast

import yaml

from iotd.daemon.reconnect import SPREAD, STABLE_S
from iotd.mqtt.settings import Backoff
from tests.bench import plot
from tests.bench.figures import most_within
from tests.brokers.__main__ import PAGE, put
from tests.brokers.brokers import RabbitMQ
from tests.brokers.names import Names
from tests.certificates import Certificates, make_certificates
from tests.mosquitto import Mosquitto
from tests.observer import Observer
from tests.running import ROOT

NAME = "broker.example"
ADDRESSES = ("198.51.100.1", "198.51.100.2", "198.51.100.3")
NODES = tuple(f"node{number}@localhost" for number in (1, 2, 3))
KILLED = 2  # the last one: the first two are what the mapper of ports and the majority are left with
BOUND_S = Backoff().first_s * 2.0 ** SPREAD  # of the first wait after a stable line
PATIENCE_S = 300.0
AT_ONCE = 8  # started side by side
EVERY_S = 5
CALL, PRESENCE = "fleet/all/call", "MQTTServer/{}/will"
PLOT = "brokers-cluster.svg"
BEGIN, END = "<!-- script/test-brokers --cluster --write: begin -->\n", "<!-- end -->\n"

_CLUSTER = "".join([
    "cluster_formation.peer_discovery_backend = classic_config\n",
    *(f"cluster_formation.classic_config.nodes.{number} = {node}\n" for number, node in enumerate(NODES, 1)),
    "cluster_partition_handling = pause_minority\n",
    # What waits for a device is on all nodes; a classic queue would be gone with its node.
    "mqtt.durable_queue_type = quorum\n",
    "loopback_users = none\n"])
_LET_IN = re.compile(r"^(\S+ \S+) \[info\] \S+ [Aa]ccept(?:ing|ed) MQTT connection .*client id: (device-\d+)\)", re.M)


class Node(RabbitMQ):
    """One of three, at its own address with the usual ports."""

    settings = _CLUSTER

    def __init__(self, number: int, directory: Path, server: Certificates) -> None:
        directory.mkdir()
        super().__init__(directory, server)
        self.host, self.node = ADDRESSES[number], NODES[number]
        self.port, self.tls_port = 1883, 8883
        self._ports[2] = 4369  # one mapper for all of them

    def environment(self) -> dict[str, str]:
        # One cookie for all of them; idle schedulers of Erlang's are not to take the time of the devices.
        return {**super().environment(), "HOME": str(self.directory.parent),
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none"}

    def let_in(self) -> list[tuple[float, str]]:
        """Return when it has taken which device's CONNECT (epoch seconds), as its log says."""
        return [(datetime.fromisoformat(at).timestamp(), device)
                for at, device in _LET_IN.findall(self.log.read_text(errors="replace"))]


class Device:
    """A process of iotd, and what its log says."""

    def __init__(self, name: str, directory: Path, ca: Path) -> None:
        for folder in ("state", "runtime"):
            (directory / folder).mkdir(parents=True)
        self.name = name
        self._log = directory / "log"
        file = directory / "iotd.yaml"
        file.write_text(yaml.safe_dump({
            "thing": name,
            "mqtt": {"host": NAME, "port": 8883, "tls": {"ca": str(ca), "cert": "none"}},
            "publish": [{"topic": "fleet/{thing}/state", "every": f"{EVERY_S}s", "payload": {"n": "{sequence}"}}],
            "subscribe": [{"topic": CALL}]}))
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "iotd", "run", "-c", str(file)], cwd="/", stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8",
                                 "STATE_DIRECTORY": f"{directory}/state", "RUNTIME_DIRECTORY": f"{directory}/runtime"})

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return its log lines of this event."""
        mark = f'"event": "{name}"'
        return [json.loads(line) for line in self._log.read_text("utf-8").splitlines() if mark in line]

    def memory_kb(self) -> int:
        """Return its share of the memory of this machine, in KB (Pss of proc(5))."""
        told = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return int(re.findall(r"^Pss: +(\d+) kB", told, re.M)[0])


class Found(NamedTuple):
    """What the run has found; times are seconds after the kill."""

    version: str
    devices: int
    lost: int  # lines that the killed node held
    memory_mb: float
    back: list[float]  # each CONNECT on another node
    failed: Counter[str]  # attempts that the devices logged, by their cause
    published: int
    missing: int
    out_of_order: int
    twice: int
    untrue: int  # presences that say something else than Connected
    not_retained: int  # as whoever asks the node of the device is told
    uncalled: int  # devices that a message has not reached that was sent while a third was away

    def at_once(self) -> int:
        """Return the most CONNECTs in any second."""
        return most_within(self.back, 1.0)

    def wrong(self) -> list[str]:
        """Return what is not as it has to be."""
        rate = self.lost / BOUND_S
        most = rate + 6 * sqrt(rate) + 1  # chance alone stays below it
        found = {
            f"{self.lost} lines on the killed node": not 0.2 < self.lost / self.devices < 0.5,
            f"{len(self.back)} are back": len(set(self.back)) < self.lost,
            f"the last after {max(self.back):.1f} s": max(self.back) > BOUND_S + 5.0,
            f"{self.at_once()} CONNECTs in a second": self.at_once() > most,
            f"{self.missing} messages lost": self.missing, f"{self.out_of_order} out of order": self.out_of_order,
            f"{self.untrue} presences untrue": self.untrue, f"{self.not_retained} not retained": self.not_retained,
            f"{self.uncalled} devices not reached": self.uncalled}
        return [what for what, is_wrong in found.items() if is_wrong]

    def table(self) -> str:
        """Return it in Markdown."""
        back = sorted(self.back)
        rows = {
            "devices, each a process; memory of all (Pss)": f"{self.devices}; {self.memory_mb:.0f} MB",
            f"nodes, RabbitMQ {self.version}": f"{len(NODES)}, behind one name",
            "lines on the node that is killed": str(self.lost),
            "back on the others after (median, 95 %, last)":
                f"{back[len(back) // 2]:.1f} s, {back[int(len(back) * 0.95)]:.1f} s, {back[-1]:.1f} s",
            "the bound of the first wait": f"{BOUND_S:.0f} s",
            "most CONNECTs in any second": str(self.at_once()),
            "attempts that failed": ", ".join(f"{count} {cause}" for cause, count in self.failed.items()) or "0",
            "messages published, lost, out of order, twice":
                f"{self.published}, {self.missing}, {self.out_of_order}, {self.twice}",
            "presences that are not true afterwards; not retained": f"{self.untrue}; {self.not_retained}",
            "devices that a message of that time has not reached": str(self.uncalled)}
        return "| what | found |\n| --- | --- |\n" + "".join(f"| {what} | {said} |\n" for what, said in rows.items())


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="script/test-brokers --cluster", description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=200, metavar="N", help="default: %(default)s")
    parser.add_argument("--write", action="store_true", help="put table and plot into docs/brokers.md")
    options = parser.parse_args()
    with TemporaryDirectory() as directory:
        found = run(Path(directory), options.devices)
    print(found.table())
    if options.write:
        put(BEGIN, f"{found.table()}\n![CONNECTs after the kill]({PLOT})\n", END)
        (PAGE.parent / PLOT).write_text(plot.spread({"the two nodes that are left": found.back}, 1.0, round(
            found.lost / BOUND_S)), "utf-8")
    wrong = found.wrong()
    print("as expected" if not wrong else f"wrong: {', '.join(wrong)}")
    return 1 if wrong else 0


def run(path: Path, count: int) -> Found:
    """Start nodes and devices, kill a node, and look."""
    certificates = make_certificates(path / "certificates", names=[f"DNS:{NAME}"])
    with ExitStack() as stack:
        nodes = [Node(number, path / f"node{number + 1}", certificates) for number in range(len(NODES))]
        for node in nodes:
            stack.enter_context(node)
            _say(f"{node.node} listens on {node.host}")
        left = [node for number, node in enumerate(nodes) if number != KILLED]
        watch = stack.enter_context(Observer(cast(Mosquitto, nodes[0]), "watch"))
        watch.subscribe("fleet/+/state", PRESENCE.format("+"))
        stack.enter_context(Names(NAME, ADDRESSES))
        devices = stack.enter_context(_fleet(path, count, certificates, nodes))
        memory_mb = sum(device.memory_kb() for device in devices) / 1024
        _say(f"all lines are up; {memory_mb:.0f} MB")
        time.sleep(STABLE_S + 5.0)

        lost = {device for _, device in nodes[KILLED].let_in()}
        nodes[KILLED].kill()
        killed_at = time.time()
        _say(f"{nodes[KILLED].node} is killed, with {len(lost)} lines")
        watch.publish(CALL, {"call": 1})
        _until(lambda: len({device for at, device in _let_in(left) if at > killed_at}) >= len(lost), "all are back")
        time.sleep(4.0 * EVERY_S)
        back = [at - killed_at for at, _ in _let_in(left) if at > killed_at]
        _say(f"all are back after {back[-1]:.1f} s")

        failed = Counter(str(entry["cause"])
                         for device in devices for entry in device.events("session.connect_failed"))
        uncalled = sum(not device.events("message.received") for device in devices)
        not_retained = _not_retained(left)
        messages = watch.messages
    words: dict[str, str] = {}
    numbers: dict[str, list[int]] = defaultdict(list)
    for message in messages:
        if message.topic.endswith("/state"):
            numbers[message.topic].append(message.json()["n"])
        else:
            words[message.topic] = message.json()["status"]
    first = [list(dict.fromkeys(seen)) for seen in numbers.values()]
    last = [max(seen) for seen in first]
    arrived = sum(map(len, first))
    return Found(
        nodes[0].version(), count, len(lost), memory_mb, back, failed, sum(last), sum(last) - arrived,
        sum(seen != sorted(seen) for seen in first), sum(map(len, numbers.values())) - arrived,
        count - sum(word == "Connected" for word in words.values()), not_retained, uncalled)


@contextmanager
def _fleet(path: Path, count: int, certificates: Certificates, nodes: list[Node]) -> Iterator[list[Device]]:
    """Start the devices, a few at a time; all have a line."""
    devices: list[Device] = []
    try:
        for number in range(count):
            _until(lambda: len(_let_in(nodes)) > number - AT_ONCE, "one more device is let in")
            devices.append(Device(f"device-{number:03}", path / f"device-{number:03}", certificates.ca))
        _until(lambda: len(_let_in(nodes)) >= count, "all devices are let in")
        yield devices
    finally:
        for device in devices:
            device.process.kill()
        for device in devices:
            device.process.wait()


def _let_in(nodes: list[Node]) -> list[tuple[float, str]]:
    return sorted(sum((node.let_in() for node in nodes), []))


def _not_retained(nodes: list[Node]) -> int:
    """Return for how many devices the node that they are on, which alone retains what they say, has no Connected."""
    of_device = {device: node for _, device, node in sorted(
        (at, device, node.host) for node in nodes for at, device in node.let_in())}
    missing = 0
    for node in nodes:
        topics = {PRESENCE.format(device) for device, host in of_device.items() if host == node.host}
        with Observer(cast(Mosquitto, node), "late") as late:
            late.subscribe(*topics)
            deadline = time.monotonic() + 10.0
            while time.monotonic() < deadline:
                kept = {message.topic for message in late.messages if message.json()["status"] == "Connected"}
                if kept == topics:
                    break
                time.sleep(0.2)
            missing += len(topics - kept)
    return missing


def _until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > deadline:
            raise RuntimeError(f"it did not come to this within {PATIENCE_S:.0f} s: {what}")
        time.sleep(0.1)


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
