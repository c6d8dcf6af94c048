"""Each kind of check against real processes, sockets and files, and against trees laid out as on a Pi."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from iotd.host.command import Ended
from iotd.host.facts import HOST, Roots
from iotd.shadows.checks import command_finding, unit_finding
from iotd.shadows.findings import CheckResult
from iotd.shadows.gateway import arp_complete, default_gateways, finding as gateway_finding
from iotd.shadows.kinds import make
from iotd.shadows.section import Check


def made(
    kind: str, subject: object, limit: float | None = None, timeout_s: float = 5.0, roots: Roots = HOST
) -> CheckResult:
    return make(Check("it", kind, subject, limit, timeout_s=timeout_s), roots=roots)


def roots(tree: Path, **files: str) -> Roots:
    """Lay out files in `tree`; in their names __ stands for / and a leading part chooses proc or sys."""
    for name, text in files.items():
        path = tree / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Roots(tree / "proc", tree / "sys", tree / "etc", tree)


@pytest.mark.parametrize("command, outcome, value, reason", [
    (("true",), "good", 0, ""),
    (("sh", "-c", "echo no pump; exit 7"), "bad", 7, "exit status 7: no pump"),
    (("sh", "-c", "kill -15 $$"), "bad", -15, "killed by signal 15"),
    (("/nowhere",), "unknown", None, "/nowhere cannot be run: No such file or directory"),
])
def test_a_command(command: tuple[str, ...], outcome: str, value: object, reason: str) -> None:
    found = made("command", command)
    assert (found.outcome, found.value, found.reason) == (outcome, value, reason)


def test_a_command_that_hangs_is_bad_after_its_time_out() -> None:
    started = time.monotonic()
    found = made("command", ("sleep", "60"), timeout_s=0.2)
    assert (found.outcome, found.reason) == ("bad", "did not end within 0.2 s")
    assert started + 0.2 <= found.at <= time.monotonic() < started + 5


def test_a_command_killed_since_iotd_ends_says_nothing() -> None:
    assert command_finding(Ended("stopped", -9, "", "killed, since iotd ends"))[0] == "unknown"


@pytest.mark.parametrize("ended, outcome, value, reason", [
    (Ended("exited", 0, "active\n", ""), "good", "active", ""),
    (Ended("exited", 0, "reloading\n", ""), "good", "reloading", ""),
    (Ended("exited", 3, "failed\n", "exit status 3: failed"), "bad", "failed", "the unit is failed"),
    (Ended("exited", 3, "activating\n", "exit status 3: activating"), "bad", "activating", "the unit is activating"),
    (Ended("exited", 4, "Warning: old\ninactive\n", "exit status 4: inactive"), "bad", "inactive",
     "the unit is inactive"),
    (Ended("exited", 1, "Failed to connect to bus\n", "exit status 1: Failed to connect to bus"), "unknown", None,
     "exit status 1: Failed to connect to bus"),
    (Ended("exited", 0, "", ""), "unknown", None, "systemctl said ''"),
    (Ended("refused", None, "", "systemctl cannot be run: No such file or directory"), "unknown", None,
     "systemctl cannot be run: No such file or directory"),
    (Ended("late", -9, "", "did not end within 5 s"), "unknown", None, "systemd did not end within 5 s"),
])
def test_a_unit_by_what_systemctl_says(ended: Ended, outcome: str, value: object, reason: str) -> None:
    assert unit_finding(ended) == (outcome, value, reason)


def test_a_unit_that_nobody_knows_is_never_good() -> None:
    """Where there is no systemd, as in a container, nothing can be said."""
    assert made("unit", "iotd-no-such-unit.service").outcome in ("bad", "unknown")


def test_a_process_by_its_name_until_it_ends_a_zombie_is_none(tmp_path: Path) -> None:
    program = tmp_path / "iotd-test-7f3a-with-a-long-name"
    program.write_text("#!/bin/sh\necho up\nread line\n")
    program.chmod(0o755)
    same_start = program.name[:20]
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"  # its name is the program's now
        found = made("process", program.name)
        assert (found.outcome, found.value) == ("good", process.pid)
        assert made("process", same_start).outcome == "bad"
        assert made("process", program.name[:15]).outcome == "good"
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and a zombie
        found = made("process", program.name[:15])
        assert (found.outcome, found.reason) == ("bad", f"no process {program.name[:15]} runs")


def test_a_name_with_blanks_and_brackets_is_found(tmp_path: Path) -> None:
    host = roots(tmp_path, proc__7__stat="7 (a ) (b) S 1 7 7 0 -1", proc__1__stat="1 (systemd) S 0", proc__8__stat="8",
                 proc__self__stat="x")
    assert made("process", "a ) (b", roots=host).outcome == "good"
    assert made("process", "b", roots=host).outcome == "bad"


def test_where_processes_are_hidden_one_that_is_not_seen_is_unknown(tmp_path: Path) -> None:
    found = made("process", "cron", roots=roots(tmp_path, proc__77__stat="77 (python3) S 1"))
    assert found.outcome == "unknown" and "ProtectProc=default" in found.reason


def test_a_port_answers_while_somebody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert made("tcp", ("127.0.0.1", port)).outcome == "good"
    found = made("tcp", ("127.0.0.1", port))
    assert (found.outcome, found.reason) == ("bad", "Connection refused")


def test_a_port_that_keeps_silent_is_bad_after_the_time_out() -> None:
    """A full backlog drops what comes, as a hanging program's does."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, \
            socket.create_connection(server.getsockname()), socket.socket() as second:
        second.setblocking(False)
        second.connect_ex(server.getsockname())
        found = made("tcp", server.getsockname(), timeout_s=0.3)
    assert (found.outcome, found.reason) == ("bad", "no answer within 0.3 s")


def test_a_name_that_nobody_can_have_is_bad_and_says_so() -> None:
    found = made("tcp", ("db..exämple.com", 80))
    assert found.outcome == "bad" and "has no address" in found.reason


def test_a_port_check_gives_up_when_it_is_told_to() -> None:
    ours, theirs = os.pipe()
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, \
            socket.create_connection(server.getsockname()):
        os.write(theirs, b"\n")
        started = time.monotonic()
        found = make(Check("a", "tcp", server.getsockname(), timeout_s=30.0), ours)
    os.close(ours)
    os.close(theirs)
    assert found.outcome == "unknown" and time.monotonic() - started < 5.0


def test_a_name_without_an_address_is_bad_and_says_so() -> None:
    found = made("tcp", ("no-such-host.invalid", 80))
    assert found.outcome == "bad" and "no-such-host.invalid has no address" in found.reason


@pytest.mark.parametrize("age_s, outcome", [(0, "good"), (50, "good"), (70, "bad"), (-60, "unknown")])
def test_a_file_is_fresh(tmp_path: Path, age_s: float, outcome: str) -> None:
    path = tmp_path / "last"
    path.touch()
    at = time.time() - age_s
    os.utime(path, (at, at))
    assert made("file", str(path), 60.0).outcome == outcome


def test_a_file_that_is_missing_is_bad_and_one_that_cannot_be_asked_for_is_unknown(tmp_path: Path) -> None:
    assert made("file", str(tmp_path / "no"), 60.0).outcome == "bad"
    (tmp_path / "plain").touch()
    assert made("file", str(tmp_path / "plain" / "below"), 60.0).outcome == "bad"
    (tmp_path / "circle").symlink_to("circle")
    assert made("file", str(tmp_path / "circle"), 60.0).outcome == "unknown"


def test_a_disk_has_room(tmp_path: Path) -> None:
    assert made("disk", str(tmp_path), 1).outcome == "good"
    found = made("disk", str(tmp_path), 1 << 60)
    assert found.outcome == "bad" and isinstance(found.value, int)


@pytest.mark.parametrize("name", ["no", "plain/below", "circle"])
def test_a_disk_whose_path_is_missing_is_bad(tmp_path: Path, name: str) -> None:
    (tmp_path / "plain").touch()
    (tmp_path / "circle").symlink_to("circle")
    found = made("disk", str(tmp_path / name), 1)
    assert found.outcome == "bad" and str(tmp_path / name) in found.reason


FSTAB = r"""# /etc/fstab
proc /proc proc defaults 0 0
LABEL=root / ext4 defaults 0 1
LABEL=data {tree}/data ext4 nofail 0 2
LABEL=usb {tree}/usb\040stick/ vfat nofail,noauto
/swap none swap sw

broken
"""
MOUNTS = r"""22 1 179:2 / / rw,noatime shared:1 - ext4 /dev/root rw
23 22 0:20 / /proc rw - proc proc rw
"""
DATA = r"""31 22 8:1 / {tree}/data rw shared:5 - ext4 /dev/sda1 rw
32 22 8:2 / {tree}/usb\040stick rw shared:6 - vfat /dev/sda2 rw
"""


@pytest.mark.parametrize("name, mounted, outcome", [
    ("data", False, "bad"), ("data/deep", False, "bad"), ("data", True, "good"), ("data/deep", True, "good"),
    ("link", False, "bad"), ("usb stick", False, "bad"), ("usb stick", True, "good"), ("database", False, "good"),
])
def test_an_empty_mount_point_is_not_judged_by_what_it_lies_on(
    tmp_path: Path, name: str, mounted: bool, outcome: str
) -> None:
    for directory in ("data/deep", "usb stick", "database"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "link").symlink_to("data/deep")
    tables = {"etc__fstab": FSTAB, "proc__self__mountinfo": MOUNTS + (DATA if mounted else "")}
    host = roots(tmp_path, **{file: text.replace("{tree}", str(tmp_path)) for file, text in tables.items()})
    found = made("disk", str(tmp_path / name), 1, roots=host)
    assert found.outcome == outcome
    if outcome == "bad":
        assert "nothing is mounted on" in found.reason and "/etc/fstab" in found.reason


def test_without_an_fstab_a_disk_is_what_holds_the_path(tmp_path: Path) -> None:
    assert made("disk", str(tmp_path), 1, roots=roots(tmp_path)).outcome == "good"


@pytest.mark.parametrize("text, outcome, value", [
    ("79999", "good", 80.0), ("80100", "bad", 80.1), ("hot", "unknown", None),
])
def test_the_temperature(tmp_path: Path, text: str, outcome: str, value: object) -> None:
    host = roots(tmp_path, sys__class__thermal__thermal_zone0__type="cpu-thermal",
                 sys__class__thermal__thermal_zone0__temp=text)
    found = made("temperature", 80.0, roots=host)
    assert (found.outcome, found.value) == (outcome, value)


@pytest.mark.parametrize("bits, outcome, reason", [
    ("0", "good", ""), ("50000", "good", ""), ("1", "bad", "under-voltage"),
    ("f000c", "bad", "throttled, soft temperature limit"), ("2", "bad", "frequency capped"),
])
def test_throttling_is_what_the_firmware_does_now_not_what_it_once_did(
    tmp_path: Path, bits: str, outcome: str, reason: str
) -> None:
    path = tmp_path / "sys/bus/platform/drivers/raspberrypi-firmware/soc:firmware/get_throttled"
    path.parent.mkdir(parents=True)
    path.write_text(bits)
    found = made("throttled", False, roots=roots(tmp_path))
    assert (found.outcome, found.value, found.reason) == (outcome, int(bits, 16), reason)


def test_where_there_is_no_pi_throttling_is_unknown(tmp_path: Path) -> None:
    assert made("throttled", False, roots=roots(tmp_path)).outcome == "unknown"


HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
LOCAL = "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
ETHERNET = "eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
WIRELESS = "wlan0\t00000000\t0101A8C0\t0003\t0\t0\t60\t00000000\t0\t0\t0\n"
DOWN = "eth1\t00000000\t010200C0\t0002\t0\t0\t0\t00000000\t0\t0\t0\n"
MODEM = "ppp0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n"
HALF = "tun0\t00000000\t0102000A\t0003\t0\t0\t0\t00000080\t0\t0\t0\n"
NONSENSE = "eth0\t00000000\tzz\t0003\t0\t0\t0\t00000000\t0\neth0\t00000000\t1F10200C0\t0003\t0\t0\t0\t00000000\t0\n"
ZERO = "0" * 32
IPV6 = f"{ZERO} 00 {ZERO} 00 fe800000000000000000000000000001 00000400 00000002 00000000 00450003     eth0\n"
IPV6_UNREACHABLE = f"{ZERO} 00 {ZERO} 00 {ZERO} ffffffff 00000001 00000000 00200200       lo\n"


@pytest.mark.parametrize("ipv4, ipv6, gateways", [
    ("", "", []),
    (HEAD + LOCAL + MODEM + DOWN + HALF + NONSENSE, IPV6_UNREACHABLE, []),
    (HEAD + ETHERNET + WIRELESS, "", [("192.168.1.1", "wlan0"), ("192.0.2.1", "eth0")]),
    (HEAD + ETHERNET, IPV6, [("192.0.2.1", "eth0"), ("fe80::1", "eth0")]),
    (HEAD, IPV6_UNREACHABLE + IPV6, [("fe80::1", "eth0")]),
])
def test_the_default_gateways_the_best_first(ipv4: str, ipv6: str, gateways: list[tuple[str, str]]) -> None:
    assert default_gateways(ipv4, ipv6) == gateways


@pytest.mark.parametrize("answer, waited_s, neighbour, outcome", [
    (0, 0.01, None, "good"),
    (errno.ECONNREFUSED, 0.01, None, "good"),
    (None, 10.0, True, "good"),  # drops the packet and answers ARP
    (None, 3.0, True, "unknown"),  # the entry may be an old one
    (None, 10.0, False, "bad"),
    (errno.EHOSTUNREACH, 3.1, False, "bad"),
    (errno.EHOSTUNREACH, 0.01, True, "good"),  # a firewall's refusal
    (errno.ENETUNREACH, 0.0, False, "bad"),
    (None, 10.0, None, "unknown"),
])
def test_a_gateway_by_what_the_kernel_learned(
    answer: int | None, waited_s: float, neighbour: bool | None, outcome: str
) -> None:
    assert gateway_finding(answer, waited_s, neighbour)[0] == outcome


def test_arp_tells_who_has_answered() -> None:
    table = ("IP address       HW type     Flags       HW address            Mask     Device\n"
             "192.0.2.1        0x1         0x2         02:00:00:00:00:01     *        eth0\n"
             "192.0.2.9        0x1         0x0         00:00:00:00:00:00     *        eth0\n")
    assert [arp_complete(table, address) for address in ("192.0.2.1", "192.0.2.9", "192.0.2.2")] == [True, False, False]


def test_a_gateway_that_refuses_answers(tmp_path: Path) -> None:
    """This host stands in for the gateway: nobody listens on its port 53, or somebody does; both are answers."""
    route = HEAD + "lo\t00000000\t0100007F\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
    found = made("gateway", True, roots=roots(tmp_path, proc__net__route=route))
    assert (found.outcome, found.value) == ("good", "127.0.0.1")


def test_without_a_gateway_none_answers_and_without_a_table_nothing_is_known(tmp_path: Path) -> None:
    assert made("gateway", True, roots=roots(tmp_path)).outcome == "unknown"
    found = made("gateway", True, roots=roots(tmp_path, proc__net__route=HEAD + LOCAL))
    assert (found.outcome, found.reason) == ("bad", "there is no default gateway")
