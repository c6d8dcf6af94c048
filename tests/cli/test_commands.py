"""The commands as processes: two on the same directories, and outputs that take nothing, or not every character."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from iotd.host.clock import uptime_s
from tests.running import ROOT, Iotd

CONFIGURATION: dict[str, Any] = {"thing": "é", "mqtt": {"host": "127.0.0.1", "port": 1}}
PATIENCE_S = 20.0


def iotd(
    place: Path, *arguments: str, prefix: tuple[str, ...] = (), stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE, encoding: str = "utf-8", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command of iotd, behind `prefix`, on the directories `state` and `runtime` where the environment agrees."""
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8",
                 "STATE_DIRECTORY": str(place / "state"), "RUNTIME_DIRECTORY": str(place / "runtime"), **environment}
    return subprocess.run([*prefix, sys.executable, "-m", "iotd", *arguments], env=variables, cwd="/",
                          timeout=PATIENCE_S, stdout=stdout, stderr=stderr, encoding=encoding)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The directories, with the status of a daemon that is this process, and a good and a bad configuration."""
    Iotd(tmp_path, CONFIGURATION)
    status = {"version": "1", "pid": os.getpid(), "written_s": uptime_s(), "healthy": True, "thing": "é"}
    (tmp_path / "runtime" / "status.json").write_text(json.dumps(status))
    (tmp_path / "bad.yaml").write_text("nonsense: 1\n")
    return tmp_path


@pytest.mark.parametrize("shared", ["state", "runtime"])
def test_a_second_daemon_on_either_directory_ends_with_1_and_says_who_holds_it(tmp_path: Path, shared: str) -> None:
    with Iotd(tmp_path, CONFIGURATION) as first:
        first.wait_for("daemon.started")
        other = tmp_path / "other"
        other.mkdir()
        own = {"STATE_DIRECTORY": str(other)} if shared == "runtime" else {"RUNTIME_DIRECTORY": str(other)}
        second = iotd(tmp_path, "run", "-c", str(first.file), prefix=("env", *map("=".join, own.items())))
        assert (second.returncode, second.stdout) == (1, "")
        assert second.stderr.startswith(f"iotd: {tmp_path / shared} is held by process {first.process.pid} (")
        assert list(other.iterdir()) == [] or shared == "runtime"
    with Iotd(tmp_path, CONFIGURATION) as third:  # the first was killed
        third.wait_for("daemon.started")


@pytest.mark.parametrize("arguments, said", [
    (("stauts",), "iotd: error: there is no command stauts; did you mean status?"),
    (("help",), "iotd: error: there is no command help; see iotd --help"),
    (("-c", "/etc/passwd", "check"), "iotd: error: -c stands behind the command: iotd check -c FILE"),
    (("check", "/etc/passwd"), "iotd check: error: unrecognized arguments: /etc/passwd; a configuration is named by"),
    (("status", "--jsn"), "iotd status: error: unrecognized arguments: --jsn"),
    (("policy", "--aws", "--region", "x"), "iotd policy: error: argument --region: 'x' is none; see iotd policy"),
    (("listen", "--count", "0"), "iotd listen: error: argument --count: expected a number from 1 on, found '0'"),
    (("listen", "--count", "x"), "iotd listen: error: argument --count: expected a number from 1 on, found 'x'"),
])
def test_wrong_usage_says_what_is_wrong_of_which_command(place: Path, arguments: tuple[str, ...], said: str) -> None:
    ended = iotd(place, *arguments)
    assert ended.returncode == 2 and said in ended.stderr and ended.stdout == ""


IN_THE_JOURNAL = """\
import os, sys
os.environ["JOURNAL_STREAM"] = "{0.st_dev}:{0.st_ino}".format(os.fstat(1))
from iotd.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_start_that_is_refused_is_an_error_in_the_journal(place: Path) -> None:
    started = subprocess.run(
        [sys.executable, "-c", IN_THE_JOURNAL, "run", "-c", str(place / "bad.yaml")], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT),
                                                "STATE_DIRECTORY": str(place / "state"),
                                                "RUNTIME_DIRECTORY": str(place / "runtime")})
    assert started.returncode == 78 and len(started.stderr.splitlines()) == 2
    assert all(line.startswith(f"<3>{place / 'bad.yaml'}:") for line in started.stderr.splitlines()), started.stderr
    assert iotd(place, "run", "-c", str(place / "bad.yaml")).stderr.startswith(f"{place / 'bad.yaml'}:")


def test_one_directory_may_be_both(tmp_path: Path) -> None:
    with Iotd(tmp_path, CONFIGURATION, RUNTIME_DIRECTORY=str(tmp_path / "state")) as daemon:
        daemon.wait_for("daemon.started")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_root_runs_nothing_in_the_directories_of_the_daemons_user_and_may_look(place: Path) -> None:
    os.chown(place / "state", 65534, 65534)
    before = sorted(place.rglob("*"))
    done = iotd(place, "run", "-c", str(place / "iotd.yaml"))
    assert done.returncode == 1 and "systemctl start iotd" in done.stderr
    assert iotd(place, "check", "-c", str(place / "iotd.yaml")).returncode == 0
    assert iotd(place, "status").returncode == 0
    assert sorted(place.rglob("*")) == before


@pytest.fixture(params=["full", "gone"])
def broken(request: pytest.FixtureRequest) -> Iterator[int]:
    """A file that takes nothing: on a full disk, or a pipe whose reader has gone."""
    if request.param == "full":
        end = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, end = os.pipe()
        os.close(reader)
    yield end
    os.close(end)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"], ["check", "-c", "iotd.yaml"], ["--help"],
                                       ["--version"]])
def test_what_cannot_be_printed_is_said_on_stderr_and_is_no_success(
    place: Path, broken: int, arguments: list[str], unbuffered: str
) -> None:
    arguments = [str(place / word) if word.endswith(".yaml") else word for word in arguments]
    done = iotd(place, *arguments, stdout=broken, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 1
    assert done.stderr.startswith("iotd: cannot write to stdout: ") and done.stderr.count("\n") == 1


def test_what_the_command_found_is_told_by_its_status_though_it_cannot_be_printed(place: Path, broken: int) -> None:
    assert iotd(place, "check", "-c", str(place / "bad.yaml"), stderr=broken).returncode == 78
    assert iotd(place, "check", "-c", str(place / "bad.yaml"), stderr=broken, stdout=broken).returncode == 78
    (place / "runtime" / "status.json").write_text(json.dumps({"pid": os.getpid(), "written_s": 0.0}))
    assert iotd(place, "status", stdout=broken).returncode == 3
    (place / "runtime" / "status.json").unlink()
    assert iotd(place, "status", stderr=broken).returncode == 3


def test_a_daemon_whose_log_cannot_be_written_goes_on_and_ends_well(place: Path, broken: int) -> None:
    daemon = Iotd(place, CONFIGURATION)
    done = iotd(place, "run", "-c", str(daemon.file), stdout=broken, prefix=("timeout", "--preserve-status", "2"))
    assert done.returncode == 0
    assert done.stderr.count("the log cannot be written") == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_name_that_the_terminal_does_not_know_is_printed_all_the_same(place: Path, encoding: str) -> None:
    text = iotd(place, "status", PYTHONIOENCODING=encoding, encoding=encoding)
    assert text.returncode == 0 and ("\\xe9" if encoding == "ascii" else "é") in text.stdout
    machine = iotd(place, "status", "--json", PYTHONIOENCODING=encoding)
    assert json.loads(machine.stdout)["thing"] == "é"


@pytest.mark.parametrize("status", ["[]", "{}", '{"pid": "1", "written_s": 0}', '{"pid": 0, "written_s": 0}',
                                    '{"pid": 1, "written_s": null}'])
def test_a_status_of_another_kind_is_none(place: Path, status: str) -> None:
    (place / "runtime" / "status.json").write_text(status)
    done = iotd(place, "status")
    assert done.returncode == 3 and "cannot be read" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_process_that_proc_hides_is_alive(place: Path) -> None:
    for folder in (place, *place.parents):
        os.chmod(folder, folder.stat().st_mode | 0o055)
    hidden = "mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid 65534 --clear-groups \"$@\""
    done = iotd(place, "status", prefix=("unshare", "--mount", "sh", "-c", hidden, "sh"))
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_runtime_directory_that_is_read_only_is_no_bug_of_iotd(tmp_path: Path) -> None:
    daemon = Iotd(tmp_path, {**CONFIGURATION, "shadows": [{"name": "a", "files": True}]})
    mount = f"mount -t tmpfs -o ro tmpfs {tmp_path / 'runtime'}"
    read_only = f'{mount} && exec timeout --foreground --preserve-status 2 "$@"'
    done = iotd(tmp_path, "run", "-c", str(daemon.file), prefix=("unshare", "--mount", "sh", "-c", read_only, "sh"))
    events = [json.loads(line)["event"] for line in done.stdout.splitlines()]
    assert done.returncode == 0 and "status.unwritable" in events and events[-1] == "daemon.stopped"
    assert "daemon.fault" not in events
