"""The daemon under systemd: its life, its journal, its watchdog, its sandbox."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.mosquitto import Mosquitto
from tests.observer import Message, Observer
from tests.system.conftest import CONFIGURATION
from tests.system.machine import OUTSIDE, Machine, wait_for

WILL, COUNT = "MQTTServer/pi/will", "pi/count"
FOREVER_S = 30.0


def says(status: str, **fields: Any) -> Any:
    """Return a test for a word on the presence topic."""
    return lambda message: {"status": status, **fields}.items() <= message.json().items()


def connected(observer: Observer, since: int = 0) -> Message:
    """Return the next Connected."""
    return observer.wait_for(WILL, says("Connected"), since=since, timeout_s=FOREVER_S)


def set_watchdog(machine: Machine, seconds: int) -> None:
    """Shorten the watchdog, for a test to outlast it."""
    machine.check("mkdir", "-p", "/etc/systemd/system/iotd.service.d")
    machine.write("/etc/systemd/system/iotd.service.d/test.conf", f"[Service]\nWatchdogSec={seconds}s\n")
    machine.check("systemctl", "daemon-reload")
    machine.check("systemctl", "restart", "iotd")


def test_it_starts_with_the_host_connects_and_publishes(machine: Machine, observer: Observer) -> None:
    connected(observer)
    first = observer.wait_for(COUNT, timeout_s=FOREVER_S)
    assert observer.wait_for(COUNT, since=first.order + 1).json()["count"] > first.json()["count"]
    state = machine.show("iotd", "ActiveState", "SubState", "NRestarts", "StatusText")
    assert state == {"ActiveState": "active", "SubState": "running", "NRestarts": "0",
                     "StatusText": f"connected to {OUTSIDE}:8883"}
    assert machine.check("systemctl", "--failed", "--no-legend") == ""


def test_it_runs_without_any_privilege(machine: Machine) -> None:
    pid = machine.show("iotd", "MainPID")["MainPID"]
    status = dict(line.split(":\t", 1) for line in machine.check("cat", f"/proc/{pid}/status").splitlines()
                  if ":\t" in line)
    user, group = (machine.check("id", option, "iotd").strip() for option in ("-u", "-g"))
    assert status["Uid"].split() == [user] * 4 and status["Gid"].split() == [group] * 4 and user != "0"
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"


def test_the_sandbox_scores_at_most_one_and_a_half(machine: Machine) -> None:
    assert machine.run("systemd-analyze", "security", "--no-pager", "--threshold=15", "iotd").status == 0
    overall = machine.check("systemd-analyze", "security", "--no-pager", "iotd").splitlines()[-1]
    assert float(overall.split(":")[1].split()[0]) <= 1.5


def test_the_sandbox_lets_it_ask_whether_the_clock_is_set(machine: Machine) -> None:
    """By ctypes, without memory that is writable and executable, and by a call that ProtectClock= forbids."""
    machine.check("mkdir", "-p", "/etc/systemd/system/iotd.service.d")
    machine.write("/usr/bin/ask-the-clock", "#!/usr/bin/python3\nimport ctypes\n"
                  "print('clock state', ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024)))\n", mode=0o755)
    machine.write("/etc/systemd/system/iotd.service.d/test.conf",
                  "[Service]\nType=oneshot\nRestart=no\nExecStart=\nExecStart=/usr/bin/ask-the-clock\n")
    machine.check("systemctl", "daemon-reload")
    machine.check("systemctl", "restart", "iotd")
    [state] = machine.journal("-u", "iotd", "--grep=clock state")
    assert int(state["MESSAGE"].split()[-1]) >= 0


def test_systemd_finds_no_fault_in_the_units(machine: Machine) -> None:
    units = ("iotd.service", "iotd-recover@reboot.service", "iotd-recover@reboot.path", "iotd-recover.path",
             "iotd.socket")
    done = machine.run("systemd-analyze", "verify", "--man=no", *units)
    assert (done.status, done.err) == (0, "")
    assert [entry for entry in machine.journal("--boot", "_PID=1", "-p", "warning") if "iotd" in str(entry)] == []


def test_any_user_may_ask_how_it_is(machine: Machine, observer: Observer) -> None:
    connected(observer)
    status = wait_for("a healthy status", lambda: [
        done for done in [machine.run("runuser", "-u", "nobody", "--", "iotd", "status", "--json")] if not done.status])
    assert json.loads(status[0].out)["connected"] is True
    machine.check("systemctl", "stop", "iotd")
    assert machine.run("runuser", "-u", "nobody", "--", "iotd", "status").status == 3


def test_every_line_in_the_journal_is_json_and_has_its_priority(machine: Machine, broker: Mosquitto) -> None:
    wait_for("a connection", lambda: machine.logged("iotd", "session.connected"))
    broker.stop()
    wait_for("its loss", lambda: machine.logged("iotd", "session.disconnected"))
    lines = machine.check("journalctl", "--no-pager", "-o", "cat", "_SYSTEMD_UNIT=iotd.service").splitlines()
    entries = [json.loads(line) for line in lines]
    assert {"time", "level", "event", "message"} <= set.intersection(*(set(entry) for entry in entries))
    assert {"info", "warning"} <= {entry["level"] for entry in entries}
    warnings = machine.check(
        "journalctl", "--no-pager", "-o", "cat", "-p", "warning", "_SYSTEMD_UNIT=iotd.service").splitlines()
    assert warnings == [line for line, entry in zip(lines, entries) if entry["level"] in ("warning", "error")]


def test_stop_start_and_restart_are_told_on_the_presence_topic(machine: Machine, observer: Observer) -> None:
    first = connected(observer)
    machine.check("systemctl", "stop", "iotd")
    stopped = observer.wait_for(WILL, says("Stopped", session=first.json()["session"]))
    state = machine.show("iotd", "ActiveState", "Result", "ExecMainStatus")
    assert state == {"ActiveState": "inactive", "Result": "success", "ExecMainStatus": "0"}
    machine.check("systemctl", "start", "iotd")
    second = connected(observer, since=stopped.order)
    machine.check("systemctl", "restart", "iotd")
    observer.wait_for(WILL, says("Stopped", session=second.json()["session"]))
    third = connected(observer, since=second.order + 1)
    assert len({message.json()["session"] for message in (first, second, third)}) == 3
    assert machine.show("iotd", "NRestarts") == {"NRestarts": "0"}


def test_a_reload_takes_a_good_file_and_refuses_a_bad_one(machine: Machine, observer: Observer) -> None:
    connected(observer)
    before = machine.show("iotd", "MainPID")
    good = CONFIGURATION.format(host=OUTSIDE, port=8883)
    machine.write("/etc/iotd.yaml", good.replace("{thing}/count", "{thing}/other"))
    machine.check("systemctl", "reload", "iotd")
    observer.wait_for("pi/other")
    machine.write("/etc/iotd.yaml", good + "nonsense: 1\n")
    machine.check("systemctl", "reload", "iotd")
    failed = wait_for("its refusal", lambda: machine.logged("iotd", "daemon.reload_failed"))
    assert failed[0]["problems"][0].startswith("/etc/iotd.yaml:14: nonsense: unknown key")
    heard = len(observer.messages)
    observer.wait_for("pi/other", since=heard)
    assert machine.show("iotd", "MainPID") == before


def test_a_daemon_that_hangs_is_killed_by_the_watchdog_and_comes_back(machine: Machine, observer: Observer) -> None:
    set_watchdog(machine, 4)
    observer.wait_for(COUNT, lambda message: message.json()["count"] >= 6, timeout_s=FOREVER_S)  # it is fed, then
    assert machine.show("iotd", "NRestarts") == {"NRestarts": "0"}
    session = [message for message in observer.messages if message.topic == WILL][-1]
    machine.check("systemctl", "kill", "--signal=STOP", "--kill-whom=main", "iotd")
    lost = observer.wait_for(WILL, says("Communication lost", session=session.json()["session"]), timeout_s=FOREVER_S)
    connected(observer, since=lost.order)
    assert machine.show("iotd", "NRestarts", "ActiveState") == {"NRestarts": "1", "ActiveState": "active"}
    assert any("Watchdog timeout" in str(entry["MESSAGE"]) for entry in machine.journal("-u", "iotd"))


def test_a_daemon_that_is_killed_comes_back(machine: Machine, observer: Observer) -> None:
    session = connected(observer).json()["session"]
    machine.check("systemctl", "kill", "--signal=KILL", "--kill-whom=main", "iotd")
    lost = observer.wait_for(WILL, says("Communication lost", session=session))
    connected(observer, since=lost.order)
    assert machine.show("iotd", "NRestarts", "ActiveState") == {"NRestarts": "1", "ActiveState": "active"}


def test_however_often_it_is_killed_it_is_started_again(machine: Machine) -> None:
    """Systemd's own limit is 5 starts in 10 s; with it, a bad quarter of a minute would end iotd for good."""
    machine.check("mkdir", "-p", "/etc/systemd/system/iotd.service.d")
    machine.write("/etc/systemd/system/iotd.service.d/test.conf", "[Service]\nRestartSec=100ms\n")
    machine.check("systemctl", "daemon-reload")
    for count in range(8):
        wait_for("a start", lambda: machine.show("iotd", "SubState") == {"SubState": "running"})
        machine.check("systemctl", "kill", "--signal=KILL", "--kill-whom=main", "iotd")
        wait_for("its end", lambda: int(machine.show("iotd", "NRestarts")["NRestarts"]) > count)
    wait_for("a start", lambda: machine.show("iotd", "SubState") == {"SubState": "running"})


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        ("echo 'publish: {every: 5 minuts}' >/etc/iotd.yaml", "/etc/iotd.yaml: mqtt.host: is required"),
        ("echo 'mqtt: [' >/etc/iotd.yaml", "/etc/iotd.yaml:1: is no YAML"),
        ("sed -i 's/keepalive: 5s/keepalive: 5 minuts/' /etc/iotd.yaml", "/etc/iotd.yaml:4: mqtt.keepalive:"),
        ("rm /etc/iotd.yaml", "/etc/iotd.yaml: No such file or directory"),
        ("chmod 600 /etc/iotd.yaml", "/etc/iotd.yaml: Permission denied"),
        ("rm /etc/iotd/certs/private.pem.key",
         "/etc/iotd.yaml:6: mqtt.tls.key: /etc/iotd/certs/private.pem.key does not exist"),
        ("chmod 700 /etc/iotd/certs",
         "chown root:iotd /etc/iotd/certs && chmod 0750 /etc/iotd/certs"),
    ],
)
def test_a_bad_configuration_is_said_and_fails_once_where_no_earlier_one_can_be_used(
    machine: Machine, broker: Mosquitto, spoil: str, told: str
) -> None:
    wait_for("a connection", lambda: machine.logged("iotd", "session.connected"))
    machine.check("systemctl", "stop", "iotd")
    machine.check("sh", "-c", spoil)
    machine.check("systemctl", "start", "iotd")
    wait_for("the problem in the status", lambda: told in machine.run("iotd", "status").out)
    machine.check("systemctl", "stop", "iotd")
    machine.check("rm", "/var/lib/iotd/accepted.yaml")
    assert machine.run("systemctl", "start", "iotd").status != 0
    state = machine.show("iotd", "ActiveState", "ExecMainStatus", "NRestarts")
    assert state == {"ActiveState": "failed", "ExecMainStatus": "78", "NRestarts": "0"}
    status = machine.run("systemctl", "status", "--no-pager", "--full", "iotd").out
    assert told in status and "Traceback" not in status, status


def test_a_key_that_everybody_may_read_is_a_warning_that_names_the_chmod(machine: Machine) -> None:
    machine.check("chmod", "644", "/etc/iotd/certs/private.pem.key")
    machine.check("systemctl", "restart", "iotd")
    wait_for("the warning", lambda: [
        entry for entry in machine.journal("-u", "iotd", "-p", "warning")
        if "chmod 0640 /etc/iotd/certs/private.pem.key" in str(entry["MESSAGE"])])


def test_a_full_disk_is_said_and_survived(machine: Machine, broker: Mosquitto, observer: Observer) -> None:
    connected(observer)
    machine.check("systemctl", "stop", "iotd")
    machine.check("mount", "-t", "tmpfs", "-o", "size=64k,mode=750", "tmpfs", "/var/lib/iotd")
    machine.run("dd", "if=/dev/zero", "of=/var/lib/iotd/filler", "bs=1k", "count=64")
    broker.stop()
    machine.check("systemctl", "start", "iotd")
    wait_for("a warning about the disk", lambda: [
        entry for entry in machine.journal("-u", "iotd", "-p", "warning")
        if "full" in str(entry["MESSAGE"]) or "No space left" in str(entry["MESSAGE"])])
    assert machine.show("iotd", "ActiveState", "NRestarts") == {"ActiveState": "active", "NRestarts": "0"}
    broker.start()
    wait_for("the connection", lambda: machine.logged("iotd", "session.connected"))


def test_a_cut_line_loses_nothing(machine: Machine, observer: Observer) -> None:
    connected(observer)
    machine.cut_link()
    lost = observer.wait_for(WILL, says("Communication lost"), timeout_s=FOREVER_S)
    wait_for("the loss to be noticed", lambda: machine.logged("iotd", "session.disconnected"))
    machine.restore_link()
    back = connected(observer, since=lost.order)
    run = observer.wait_for(COUNT).json()["run"]
    last = observer.wait_for(COUNT, since=back.order, timeout_s=FOREVER_S).json()["count"] + 10
    observer.wait_for(COUNT, lambda message: message.json()["count"] >= last, timeout_s=FOREVER_S)
    counts = [message.json()["count"] for message in observer.messages
              if message.topic == COUNT and message.json()["run"] == run]
    assert set(range(1, last + 1)) <= set(counts)


def test_without_a_network_it_is_up_all_the_same(machine: Machine) -> None:
    machine.cut_link()
    machine.check("systemctl", "restart", "iotd")
    state = machine.show("iotd", "ActiveState", "SubState", "StatusText")
    assert (state["ActiveState"], state["SubState"]) == ("active", "running")
    wait_for("what is wrong", lambda: machine.show("iotd", "StatusText")["StatusText"].startswith("not connected to"))


def test_stopped_is_still_said_when_the_host_goes_down(machine: Machine, observer: Observer) -> None:
    session = connected(observer).json()["session"]
    machine.check("systemctl", "poweroff")
    observer.wait_for(WILL, says("Stopped", session=session), timeout_s=FOREVER_S)
    assert machine.wait_for_the_end() == 0
