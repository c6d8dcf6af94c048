"""The root side of jobs: what it takes for a request, and that it brings each to one result, wherever it is cut off."""

from __future__ import annotations

import io
import json
import os
import pwd
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from iotd.helper import allowed, apt
from iotd.helper.allowed import Refused
from iotd.helper.job import Request, Server, judge, request_of
from iotd.helper.recover import Outcome, run_command
from iotd.host import log
from iotd.jobs.section import SECTIONS, Jobs

US = os.getuid()
OPEN = Jobs(reboot=True, restart=("kiosk.service",), upgrade=("iotd", "kiosk*"))
BODY: dict[str, Any] = {"job": "one", "claim": "run-1", "step": 0, "names": ["iotd", "kiosk"]}


class Killed(BaseException):
    """The helper was killed, or the power was cut."""


class Host:
    """A host with packages, as apt and dpkg show it. `dies_at` is the number of the command that is not survived.

    A command that changes something has done it, or has not, by `half`.
    """

    def __init__(self, path: Path) -> None:
        log.start("info", "json", under_journald=False, stream=io.StringIO())
        self.installed = {"iotd": "1", "kiosk": "7"}
        self.sources = {"iotd": "2", "kiosk": "8", "nmap": "5"}
        self.in_sources = {"1", "2"}  # the versions of iotd
        self.breaks_off = False  # a download, in the midst of it
        self.copies = True  # what is downloaded, as from sources that are not on its own disk
        self.broken = ""  # half-configured
        self.connects = {"1", "2"}
        self.failing: dict[str, str] = {}  # a word of a command, and what it says
        self.installs: list[str] = []
        self.ran: list[str] = []
        self.dies_at, self.half = -1, False
        self.waited_s = 0.0
        self.state = path / "state"
        self.state.mkdir(exist_ok=True)
        self.requests = path / "jobs"
        self.requests.mkdir(exist_ok=True)
        self.archives = path / "archives"
        self.archives.mkdir(exist_ok=True)

    def run(self, command: Sequence[str], limit_s: float) -> Outcome:
        """Do what the command asks for."""
        text = " ".join(command)
        if len(self.ran) == self.dies_at and not self.half:
            raise Killed
        self.ran.append(text)
        outcome = self._answer(command, text)
        if len(self.ran) - 1 == self.dies_at:
            raise Killed
        return outcome

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.waited_s += seconds

    def _answer(self, command: Sequence[str], text: str) -> Outcome:
        for word, said in self.failing.items():
            if word in text:
                return Outcome("ended with status 100", said)
        names = [word for word in command[command.index("--") + 1:]] if "--" in command else []
        if command[0] == "dpkg-query":
            return Outcome(None, "\n".join(f"installed {name} {self.installed[name]}" for name in names
                                           if name in self.installed))
        if text == "dpkg --audit":
            return Outcome(None, self.broken)
        if "--configure" in command:
            self.broken = ""
        elif command[0] == "apt-cache":
            version = self.sources.get(names[0])
            return Outcome(None, f"{names[0]}:\n  Installed: x\n  Candidate: {version}\n" if version else "")
        elif "--simulate" in command:
            return Outcome(None, "".join(f"Inst {name} [0] ({version} here)\n" for name, version in map(
                lambda word: word.split("="), names)))
        elif "download" in command:
            [(name, version)] = [word.split("=") for word in names]
            if self.breaks_off:
                (Path(command[1].removeprefix("--chdir=")) / f"{name}_{version}_all.deb").write_text("half")
                return Outcome("ended with status 100", "E: Failed to fetch")
            if version in self.in_sources:
                (Path(command[1].removeprefix("--chdir=")) / f"{name}_{version}_all.deb").write_text(version)
        elif "--download-only" in command:
            for name, version in (word.split("=") for word in names):
                if self.copies:
                    (self.archives / f"{name}_{version}_all.deb").write_text(version)
        elif command[0] == "apt-get" and "install" in command:
            self.installs.append(" ".join(names))
            self.installed.update(dict(word.split("=") for word in names))
        elif command[0] == "dpkg" and "--install" in command:
            self.installs.append(Path(command[-1]).name)
            self.installed["iotd"] = Path(command[-1]).read_text()
        return Outcome(None, "")

    def ask(self, verb: str, **changes: Any) -> Path:
        """Leave a request."""
        path = self.requests / verb
        path.write_text(json.dumps({**BODY, **changes}))
        return path

    def start(self, verb: str, allow: Callable[[Request], None] | None = None) -> bool:
        """Start the helper, as the path unit does; tell whether all went well."""
        server = Server(verb, self.state, apt.Host(
            self.run, self.wait, lambda version: version in self.connects and version == self.installed["iotd"],
            self.state / "kept", self.archives))
        may = allow or (lambda request: judge(verb, request, OPEN, Path("f")))
        return all([server.resume(), server.serve(str(self.requests), US, may)])

    def result(self, key: str = "one:run-1:0") -> Any:
        """Return what was written down."""
        file = self.state / "results.json"
        return json.loads(file.read_text()).get(key) if file.exists() else None

    def wants_a_start(self, verb: str) -> bool:
        """Tell whether the path unit would start the helper."""
        return (self.requests / verb).exists() or (self.state / f"{verb}.json").exists()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_packages_are_upgraded_and_the_result_is_written_down(host: Host) -> None:
    host.ask("upgrade")
    assert host.start("upgrade") and host.installs == ["iotd=2 kiosk=8"]
    assert host.result() == {"succeeded": True, "reason": "", "details": {
        "before": "iotd 1, kiosk 7", "after": "iotd 2, kiosk 8"}}
    assert not host.wants_a_start("upgrade")
    assert sorted(path.name for path in (host.state / "kept").glob("*.deb")) == ["iotd_1_all.deb", "iotd_2_all.deb"]
    assert (host.state / "results.json").stat().st_mode & 0o777 == 0o644
    [install] = [text for text in host.ran if text.startswith("apt-get") and "--" in text and "=" in text.split()[-1]
                 and "--simulate" not in text and "--download-only" not in text]
    assert "--no-remove" in install and "--force-confold" in install and "DPkg::Lock::Timeout=600" in install


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("step", range(14))
def test_wherever_it_is_killed_there_is_one_result_and_nothing_is_done_twice(
    host: Host, step: int, half: bool
) -> None:
    host.ask("upgrade")
    host.dies_at, host.half = step, half
    try:
        host.start("upgrade")
    except Killed:
        host.broken = "a package is half-configured"
        assert host.wants_a_start("upgrade") and host.result() is None
    host.dies_at = -1
    while host.wants_a_start("upgrade"):
        host.start("upgrade")
    assert host.result()["succeeded"] and host.installs == ["iotd=2 kiosk=8"] and host.broken == ""
    assert host.result()["details"]["before"] == "iotd 1, kiosk 7"


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("step", range(20))
def test_wherever_it_is_killed_a_bad_iotd_goes_back(host: Host, step: int, half: bool) -> None:
    host.connects = {"1"}
    host.ask("upgrade")
    host.dies_at, host.half = step, half
    try:
        host.start("upgrade")
    except Killed:
        assert host.wants_a_start("upgrade")
    host.dies_at = -1
    while host.wants_a_start("upgrade"):
        host.start("upgrade")
    assert not host.result()["succeeded"] and host.installed["iotd"] == "1"
    assert host.result()["reason"] == "iotd 2 did not connect within 10 minutes; 1 is installed again"
    assert host.installs == ["iotd=2 kiosk=8", "iotd_1_all.deb"] and host.waited_s >= 600


def test_the_same_request_again_changes_nothing(host: Host) -> None:
    host.ask("upgrade")
    host.start("upgrade")
    ran = len(host.ran)
    host.ask("upgrade")
    assert host.start("upgrade") and len(host.ran) == ran and not host.wants_a_start("upgrade")


def test_what_is_the_newest_already_is_left_alone(host: Host) -> None:
    host.installed = {"iotd": "2", "kiosk": "8"}
    host.ask("upgrade")
    assert host.start("upgrade") and host.installs == [] and host.result()["succeeded"]


def test_without_new_lists_nothing_newer_is_no_success(host: Host) -> None:
    host.installed = {"iotd": "2", "kiosk": "8"}
    host.failing = {"update": "E: Failed to fetch"}
    host.ask("upgrade")
    assert not host.start("upgrade")
    assert host.result()["reason"] == (
        "nothing newer is known, and apt-get update ended with status 100: E: Failed to fetch")


@pytest.mark.parametrize("verb, changes, failing, told", [
    ("upgrade", {"names": ["kiosk-web"]}, {}, "kiosk-web is not installed; use install"),
    ("install", {"names": ["kiosk-web"]}, {}, "no source of this host has a package kiosk-web"),
    ("upgrade", {}, {"--simulate": "E: Packages need to be removed but remove is disabled."}, "cannot do it: E: Pack"),
    ("upgrade", {}, {"--download-only": "E: No space left on device"}, "No space left"),
    ("upgrade", {}, {"install -- ": "dpkg: error processing package kiosk"}, "dpkg: error processing package kiosk"),
])
def test_what_fails_is_told(host: Host, verb: str, changes: Any, failing: Any, told: str) -> None:
    host.failing = failing
    host.ask(verb, **changes)
    assert not host.start(verb) and host.installs == []
    assert told in host.result()["reason"] and not host.wants_a_start(verb)


def test_without_a_way_back_iotd_is_not_upgraded(host: Host) -> None:
    host.in_sources = {"2"}
    host.ask("upgrade")
    assert not host.start("upgrade") and host.installs == []
    assert "iotd 1, to go back to, is in no source of this host any more; put its package into" in (
        host.result()["reason"])
    (host.state / "kept/iotd_1_all.deb").write_text("1")
    host.ask("upgrade", claim="run-2")
    assert host.start("upgrade") and host.installed["iotd"] == "2"


def test_half_of_a_package_is_no_way_back(host: Host) -> None:
    host.copies, host.breaks_off = False, True
    host.ask("upgrade")
    assert not host.start("upgrade") and host.installs == []
    host.breaks_off, host.in_sources = False, {"2"}
    (host.state / "kept/partial/iotd_1_all.deb").write_text("half")
    host.ask("upgrade", claim="run-2")
    assert not host.start("upgrade") and host.installs == []
    assert list((host.state / "kept").glob("*.deb")) == []


def test_the_former_package_is_kept_out_of_a_source_on_the_own_disk(host: Host) -> None:
    host.copies = False
    host.ask("upgrade")
    assert host.start("upgrade")
    assert sorted(path.name for path in (host.state / "kept").glob("*.deb")) == ["iotd_1_all.deb", "iotd_2_all.deb"]


def test_it_waits_for_the_lock_of_another(host: Host) -> None:
    host.broken = "half-configured"
    host.failing = {"--configure": "dpkg: error: dpkg frontend lock was locked by another process with pid 7"}
    host.ask("upgrade")
    host.start("upgrade")
    assert host.waited_s == 600.0


def test_a_step_that_kills_it_each_time_comes_to_an_end(host: Host) -> None:
    host.ask("upgrade")
    for _ in range(10):
        host.ran.clear()
        host.dies_at = 3
        try:
            host.start("upgrade")
        except Killed:
            continue
    assert host.result() == {"succeeded": False, "reason": "it was cut off", "details": {}}


def test_units_are_restarted_and_never_twice_for_one_step(host: Host) -> None:
    host.ask("restart", names=["kiosk.service"])
    assert host.start("restart") and host.ran == ["systemctl restart -- kiosk.service"]
    host.ask("restart", names=["kiosk.service"], claim="run-2")
    host.dies_at, host.half = 1, True
    with pytest.raises(Killed):
        host.start("restart")
    host.dies_at = -1
    assert not host.start("restart") and len(host.ran) == 2
    assert host.result("one:run-2:0")["reason"] == "it was cut off" and not host.wants_a_start("restart")


def test_a_restart_that_fails_is_told(host: Host) -> None:
    host.failing = {"restart": "Job for kiosk.service failed."}
    host.ask("restart", names=["kiosk.service"])
    assert not host.start("restart")
    assert host.result()["reason"] == "systemctl restart ended with status 100: Job for kiosk.service failed."


def test_a_reboot_is_asked_for_with_more_and_more_force(host: Host) -> None:
    path = host.ask("reboot", names=[])
    assert not host.start("reboot") and not path.exists() and host.result() is None
    assert host.ran == ["systemctl reboot", "systemctl reboot --force", "systemctl reboot --force --force"]


@pytest.mark.parametrize("verb, names, allowed_", [
    ("upgrade", ["iotd"], True), ("install", ["kiosk-web"], True), ("upgrade", [], False), ("upgrade", ["nmap"], False),
    ("upgrade", ["iotd-"], False), ("upgrade", ["kiosk=1"], False), ("upgrade", ["--help"], False),
    ("upgrade", ["kiosk web"], False), ("upgrade", ["kiosk*"], False), ("restart", ["kiosk.service"], True),
    ("restart", ["ssh.service"], False), ("restart", [], False), ("reboot", [], True)])
def test_root_itself_judges_what_is_asked(verb: str, names: list[str], allowed_: bool) -> None:
    request = Request("one", "run-1", 0, tuple(names))
    if allowed_:
        return judge(verb, request, OPEN, Path("f"))
    with pytest.raises(Refused):
        judge(verb, request, OPEN, Path("f"))
    with pytest.raises(Refused):
        judge(verb, request, Jobs(), Path("f"))


@pytest.mark.parametrize("body", [
    None, [], "x", {}, {**BODY, "job": "../x"}, {**BODY, "job": ""}, {**BODY, "names": "iotd"}, {**BODY, "names": [1]},
    {**BODY, "claim": 1}, {**BODY, "claim": "../x"}, {**BODY, "step": None}, {**BODY, "names": ["a"] * 101}])
def test_what_is_no_request_is_refused_and_removed(host: Host, body: Any) -> None:
    path = host.ask("upgrade")
    path.write_text(json.dumps(body))
    with pytest.raises(Refused):
        request_of(body)
    assert not host.start("upgrade") and not path.exists() and host.ran == [] and host.result() is None


def test_what_is_refused_has_its_result_at_once(host: Host) -> None:
    path = host.ask("upgrade", names=["nmap"])
    assert not host.start("upgrade") and not path.exists() and host.ran == []
    assert host.result()["reason"] == "refused: 'nmap' is not in jobs.upgrade of f"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"request": 1}', '{"before": {}}'])
def test_a_marker_that_is_damaged_ends_nothing(host: Host, text: str) -> None:
    (host.state / "upgrade.json").write_text(text)
    host.ask("upgrade")
    assert host.start("upgrade") and not host.wants_a_start("upgrade")


def test_the_section_is_read_whatever_else_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "iotd.yaml"
    file.write_text("mqtt: {host: [wrong]}\njobs: {upgrade: [iotd]}\n")
    text = allowed.read(file, pwd.getpwnam("nobody"))
    assert allowed.section(text, file, "jobs", SECTIONS["jobs"].read).upgrade == ("iotd",)
    with pytest.raises(Refused, match="jobs.upgrade"):
        allowed.section("jobs: {upgrade: ['*']}", file, "jobs", SECTIONS["jobs"].read)


def test_a_command_is_not_waited_for_beyond_its_end() -> None:
    """What a package's script leaves running holds whatever it was given to write to."""
    done = run_command(("/bin/sh", "-c", "sleep 30 & echo said"), 10.0)
    assert (done.failure, done.output) == (None, "said")
    assert run_command(("/bin/sh", "-c", "echo $A; exit 3"), 10.0, A="b") == Outcome("ended with status 3", "b")
    assert run_command(("/bin/sleep", "9"), 0.1).failure == "was killed after 0.1 s"
