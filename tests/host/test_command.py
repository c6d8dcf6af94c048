"""Commands that end, hang, flood, fork and cannot start, with real processes."""

from __future__ import annotations

import hashlib
import os
import resource
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from iotd.host import command

ROOT = Path(__file__).parents[2]
HANG_S = 60  # longer than any test waits


def ends(pid: int) -> bool:
    """Wait until a process that was sent SIGKILL has gone, which takes it a moment."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], 5)[0])
    finally:
        os.close(handle)


def shell(script: str, timeout_s: float = 20.0, stop: int | None = None) -> command.Ended:
    return command.run(("/bin/sh", "-c", script), timeout_s, stop)


@pytest.mark.parametrize("script, status, output, reason", [
    ("exit 0", 0, "", ""),
    ("echo fine", 0, "fine\n", ""),
    ("echo one; echo two >&2; exit 3", 3, "one\ntwo\n", "exit status 3: two"),
    ("exit 4", 4, "", "exit status 4"),
    ("kill -9 $$", -9, "", "killed by signal 9"),
    (r"printf 'a\033[31mb\n\n'; exit 1", 1, "a\x1b[31mb\n\n", "exit status 1: a�[31mb"),
    (r"printf '\377'; exit 1", 1, "�", "exit status 1: �"),
])
def test_a_command_tells_its_status_and_why(script: str, status: int, output: str, reason: str) -> None:
    assert shell(script) == command.Ended("exited", status, output, reason)


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    started = time.monotonic()
    ended = shell(f"sleep {HANG_S} & echo $! > {tmp_path}/child; sleep {HANG_S}", timeout_s=0.5)
    assert time.monotonic() - started < 5
    assert (ended.how, ended.status, ended.reason) == ("late", -9, "did not end within 0.5 s")
    assert ends(int((tmp_path / "child").read_text()))


def test_one_that_ends_is_not_waited_for_its_children_which_go_with_it(tmp_path: Path) -> None:
    """The child holds the pipe open, as `daemon &` in a script does."""
    started = time.monotonic()
    ended = shell(f"sleep {HANG_S} & echo $! > {tmp_path}/child; echo done")
    assert time.monotonic() - started < 5
    assert (ended.how, ended.output) == ("exited", "done\n")
    assert ends(int((tmp_path / "child").read_text()))


def test_a_child_in_a_session_of_its_own_does_not_hold_the_command_up(tmp_path: Path) -> None:
    started = time.monotonic()
    child = f"setsid sh -c 'echo $$ > {tmp_path}/child; exec sleep {HANG_S}'"
    assert shell(f"{child} & until test -s {tmp_path}/child; do sleep 0.01; done").how == "exited"
    assert time.monotonic() - started < 5
    os.kill(int((tmp_path / "child").read_text()), 9)


def test_a_flood_is_read_to_its_end_and_kept_in_bounds() -> None:
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ended = shell("head -c 100000000 /dev/zero | tr '\\0' x; echo; exit 5")
    assert (ended.how, ended.status, ended.output) == ("exited", 5, "x" * command.KEEP_BYTES)
    assert len(ended.reason) < 200
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 8192


@pytest.mark.parametrize("timeout_s", [25 * 86400.0, 3650 * 86400.0, 1e300])
def test_no_time_out_is_too_long(timeout_s: float) -> None:
    """poll(2) takes no more than 24 days."""
    assert shell("exit 3", timeout_s).status == 3


def test_a_flood_without_end_is_killed_at_its_time_out() -> None:
    ended = command.run(("yes",), 0.3)
    assert (ended.how, len(ended.output)) == ("late", command.KEEP_BYTES)


# As systemd does it: ProtectHome= lays nothing over /home, PrivateTmp= a folder of the unit's own over /var/tmp.
IN_A_UNIT = """\
import sys
from iotd.host import command
from iotd.shadows.kinds import make
from iotd.shadows.section import Check
from iotd.values.section import Value
from iotd.values.sources import read
print(command.run(("/home/pi/level",), 5.0).reason)
print(command.run(("sh", "/home/pi/level"), 5.0).reason)
print(command.run(("false", "/srv/level"), 5.0).reason)
print(read(Value("v", "file", "/var/tmp/pump/level")).reason)
print(make(Check("", "file", "/var/tmp/pump/alive", limit=60.0)).reason)
"""
PROTECTED = "/home/pi/level is not there for the daemon: the unit hides home directories (ProtectHome=yes); put it "
PRIVATE = " is not there for the daemon: the unit has a /tmp of its own (PrivateTmp=yes); put it elsewhere"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_what_the_unit_hides_is_named_in_the_error_with_what_shows_it(tmp_path: Path) -> None:
    nothing, private = tmp_path / "inaccessible/dir", tmp_path / "systemd-private-0/tmp"
    nothing.mkdir(parents=True)
    private.mkdir(parents=True)
    mounts = f"mount --bind {nothing} /home && mount --bind {private} /var/tmp"
    script = f"{mounts} && exec {sys.executable} -c '{IN_A_UNIT}'"
    said = subprocess.run(["unshare", "--mount", "sh", "-c", script], cwd=ROOT, text=True, check=True,
                          stdout=subprocess.PIPE).stdout.splitlines()
    assert said[0].startswith("/home/pi/level cannot be run: No such file or directory; " + PROTECTED)
    assert said[1].startswith("exit status 2: sh: 0: cannot open /home/pi/level: No such file; " + PROTECTED)
    assert said[2] == "exit status 1"
    assert said[3].startswith("/var/tmp/pump/level cannot be read: No such file or directory; /var/tmp/pump/level"
                              + PRIVATE)
    assert said[4].startswith("there is no /var/tmp/pump/alive; /var/tmp/pump/alive" + PRIVATE)


@pytest.mark.parametrize("arguments, why", [
    (("/nowhere/at-all",), "/nowhere/at-all cannot be run: No such file or directory"),
    (("no-such-command-anywhere",), "no-such-command-anywhere cannot be run: No such file or directory"),
    (("/etc/passwd",), "/etc/passwd cannot be run: Permission denied"),
    (("echo", "a\0b"), "echo cannot be run: embedded null byte"),
    (("echo", "x" * 200_000), "echo cannot be run: Argument list too long"),
])
def test_what_cannot_be_run_says_why(arguments: tuple[str, ...], why: str) -> None:
    assert command.run(arguments, 5.0) == command.Ended("refused", None, "", why)


def test_half_a_character_cannot_be_an_argument() -> None:
    assert command.run(("echo", "\ud800"), 5.0).how == "refused"


@pytest.mark.parametrize("argument", ["$(reboot)", "`reboot`", "; reboot", "a\nb", "'\"", "-n", "", "*", "雪👉"])
def test_an_argument_is_passed_as_it_is(argument: str) -> None:
    assert command.run(("printf", "%s|", argument), 5.0).output == f"{argument}|"


def test_a_command_has_no_input_no_environment_of_ours_and_no_file_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    try:
        ended = shell(f"cat; pwd; env; if [ -e /proc/self/fd/{writing} ]; then echo open; fi")
    finally:
        os.close(reading)
        os.close(writing)
    said = ended.output.splitlines()
    assert said[0] == "/"
    assert {line.partition("=")[0] for line in said[1:]} <= {"PATH", "LANG", "PWD", "OLDPWD", "SHLVL", "_"}


def test_a_command_is_killed_as_soon_as_iotd_ends() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"\n")
    started = time.monotonic()
    ended = shell(f"sleep {HANG_S}", stop=reading)
    os.close(reading)
    os.close(writing)
    assert (ended.how, ended.reason) == ("stopped", "killed, since iotd ends")
    assert time.monotonic() - started < 5


def test_no_descriptor_and_no_process_is_left() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for script in ("exit 0", "exit 1", "sleep 60"):
        shell(script, timeout_s=0.2)
    command.run(("/nowhere",), 1.0)
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_what_it_is_given_is_read_byte_by_byte() -> None:
    given = bytes(range(256)) * 4096  # more than any pipe holds
    ended = command.run(("sha256sum",), 20.0, given=given)
    assert ended.output.split()[0] == hashlib.sha256(given).hexdigest()


@pytest.mark.parametrize("script", ["exit 0", "exec <&-; sleep 0.1", "head -c 1; exit 0"])
def test_one_that_does_not_read_what_it_is_given_ends_all_the_same(script: str) -> None:
    assert command.run(("/bin/sh", "-c", script), 20.0, given=b"x" * 1_000_000).how == "exited"


def test_its_output_and_the_end_of_its_errors_are_kept_apart() -> None:
    script = "head -c 100000 /dev/zero; seq 100000 >&2; exit 3"
    ended = command.run(("/bin/sh", "-c", script), 20.0, keep_bytes=70000, apart=True)
    assert ended.data == bytes(70000)
    assert ended.output.endswith("99999\n100000\n") and len(ended.output) == command.KEEP_BYTES
    assert ended.reason == "exit status 3: 100000"


def test_one_that_says_why_on_its_output_alone_is_understood() -> None:
    ended = command.run(("/bin/sh", "-c", "echo no sensor; exit 1"), 20.0, apart=True)
    assert (ended.data, ended.output, ended.reason) == (b"no sensor\n", "", "exit status 1: no sensor")
