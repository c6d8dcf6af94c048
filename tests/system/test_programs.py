"""Programs and the socket that systemd holds: who may use it, and what becomes of them while iotd is not there."""

from __future__ import annotations

import time

import pytest

from tests.observer import Observer
from tests.system.conftest import CONFIGURATION
from tests.system.machine import OUTSIDE, Machine, wait_for

TOPIC = "pi/pump"
SOCKET = "/run/iotd.sock"

ASK = """#!/usr/bin/python3
import os, socket, struct
listener = socket.socket(fileno=3)
for _ in range(3):
    line = listener.accept()[0]
    uid = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
    print("peer", {0: "root", os.geteuid(): "iotd"}.get(uid, uid), flush=True)
    line.sendall(b"x")
"""
CONNECT = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/iotd.sock'); s.recv(1)"


@pytest.fixture(autouse=True)
def opened(machine: Machine) -> None:
    """A topic for programs, and a user who is in their group."""
    machine.write("/etc/iotd.yaml", CONFIGURATION.format(host=OUTSIDE, port=8883) +
                  "local: {publish: [pi/pump]}\nsubscribe: [{topic: pi/horn}]\n")
    machine.check("useradd", "--groups", "iotd-clients", "pump")
    machine.check("systemctl", "restart", "iotd")


def publish(machine: Machine, payload: str, user: str = "pump") -> int:
    return machine.run("runuser", "-u", user, "--", "iotd", "publish", TOPIC, payload).status


def arrived(observer: Observer, payload: bytes) -> None:
    observer.wait_for(TOPIC, lambda message: message.payload == payload, timeout_s=30)


def test_who_is_in_the_group_may_publish_and_listen_and_nobody_else(machine: Machine, observer: Observer) -> None:
    assert machine.check("stat", "-c", "%U:%G %a", SOCKET).strip() == "root:iotd-clients 660"
    assert publish(machine, "1") == 0
    arrived(observer, b"1")
    refused = machine.run("runuser", "-u", "nobody", "--", "iotd", "publish", TOPIC, "2")
    assert refused.status == 1 and "iotd-clients" in refused.err
    assert machine.run("iotd", "publish", TOPIC, "root's").status == 0


def test_a_connection_waits_while_iotd_is_killed_and_comes_back(machine: Machine, observer: Observer) -> None:
    assert publish(machine, "1") == 0
    machine.check("systemctl", "kill", "--signal=KILL", "--kill-whom=main", "iotd")
    wait_for("its end", lambda: machine.show("iotd", "SubState") == {"SubState": "auto-restart"})
    began_at = time.monotonic()
    assert publish(machine, "2") == 0
    assert time.monotonic() - began_at > 2.0, "it was not gone, nothing is tested"
    arrived(observer, b"2")
    assert machine.show("iotd", "NRestarts") == {"NRestarts": "1"}


@pytest.mark.parametrize("how", [["systemctl", "restart", "iotd"],
                                 ["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "iotd"]])
def test_lines_go_on_over_a_restart(machine: Machine, observer: Observer, how: list[str]) -> None:
    machine.write("/root/lines", "for n in $(seq 300); do echo $n; sleep 0.02; done | iotd publish pi/pump --lines\n"
                  "echo $? >/root/status\n")
    machine.check("systemd-run", "--unit=lines", "sh", "/root/lines")
    observer.wait_for(TOPIC, timeout_s=30)
    machine.check(*how)
    arrived(observer, b"300")
    assert wait_for("its end", lambda: machine.run("cat", "/root/status").out).strip() == "0"
    seen = [int(message.payload) for message in observer.messages if message.topic == TOPIC]
    assert list(dict.fromkeys(seen)) == list(range(1, 301))


def test_one_that_waits_in_the_socket_is_served_after_a_restart(machine: Machine, observer: Observer) -> None:
    """It connects while the old daemon is going, which takes no more: the new one finds it in the same socket."""
    machine.check("systemctl", "kill", "--signal=STOP", "--kill-whom=main", "iotd")
    machine.check("systemd-run", "--unit=early", "iotd", "publish", TOPIC, "early")
    machine.check("systemctl", "kill", "--signal=KILL", "--kill-whom=main", "iotd")
    machine.check("systemctl", "restart", "iotd")
    arrived(observer, b"early")


def test_when_iotd_is_stopped_the_socket_is_gone_and_no_program_starts_it(machine: Machine, observer: Observer) -> None:
    machine.check("systemctl", "stop", "iotd")
    wait_for("the end of the socket", lambda: machine.run("test", "-e", SOCKET).status == 1)
    assert publish(machine, "1") == 3
    assert machine.show("iotd", "ActiveState") == {"ActiveState": "inactive"}
    machine.check("systemctl", "start", "iotd")
    assert publish(machine, "2") == 0
    arrived(observer, b"2")


def test_a_program_does_not_start_an_iotd_that_cannot_run_again_and_again(machine: Machine) -> None:
    good = machine.check("cat", "/etc/iotd.yaml")
    machine.write("/etc/iotd.yaml", good + "nonsense: 1\n")
    machine.check("systemctl", "stop", "iotd")
    machine.check("rm", "/var/lib/iotd/accepted.yaml")  # on which it would run instead
    assert machine.run("systemctl", "start", "iotd").status != 0
    assert publish(machine, "1") == 3
    starts = [entry for entry in machine.journal("-u", "iotd") if "nonsense: unknown key" in str(entry["MESSAGE"])]
    assert 1 <= len(starts) <= 6
    machine.write("/etc/iotd.yaml", good)
    machine.check("systemctl", "start", "iotd")
    assert publish(machine, "2") == 0


def test_the_sandbox_shows_root_and_iotd_as_they_are_and_all_others_as_nobody(machine: Machine) -> None:
    """What SO_PEERCRED says under PrivateUsers=: so the mode of the socket has to decide for all but these two."""
    machine.check("mkdir", "-p", "/etc/systemd/system/iotd.service.d")
    machine.write("/usr/bin/ask-the-peers", ASK, mode=0o755)
    machine.write("/etc/systemd/system/iotd.service.d/test.conf",
                  "[Service]\nType=exec\nRestart=no\nWatchdogSec=0\nExecStart=\nExecStart=/usr/bin/ask-the-peers\n")
    machine.check("systemctl", "daemon-reload")
    machine.check("systemctl", "restart", "iotd")
    machine.check("usermod", "-aG", "iotd-clients", "iotd")
    for user in ("root", "iotd", "pump"):
        machine.check("runuser", "-u", user, "--", "python3", "-c", CONNECT)
    told = [entry["MESSAGE"] for entry in machine.journal("-u", "iotd", "--grep=^peer ")]
    assert told == ["peer root", "peer iotd", "peer 65534"]
