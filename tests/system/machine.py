"""A booted Debian in a container, with a systemd of its own and a network cable that can be pulled."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Sequence

PATIENCE_S = 30.0
OUTSIDE, INSIDE = "198.51.100.1", "198.51.100.2"  # TEST-NET-2 (RFC 5737)
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
# To ask whether the clock is set is forbidden in a container by default, and not on a Pi.
_NSPAWN = ("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--console=pipe",
           "--system-call-filter=adjtimex clock_adjtime")


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended: its exit status, stdout and stderr."""

    status: int
    out: str
    err: str


class Disk:
    """A file system that begins as `below` (lowest last) and keeps what is written to it in a directory of its own."""

    def __init__(self, directory: Path, below: Sequence[Path]) -> None:
        self.root, self.written, work = (directory / name for name in ("root", "written", "work"))
        self.layers = (self.written, *below)
        for path in (self.root, self.written, work):
            path.mkdir(parents=True)
        lower = ":".join(str(path) for path in below)
        options = f"lowerdir={lower},upperdir={self.written},workdir={work}"
        subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", self.root], check=True)

    def unmount(self) -> None:
        """Let go of it; what was written stays."""
        subprocess.run(["umount", "--lazy", self.root], check=True)

    def run(self, *command: str, binds: Sequence[str] = ()) -> Done:
        """Run a command in it without booting it, as the builder of an image does."""
        return _run((*_NSPAWN, *(f"--bind-ro={bind}" for bind in binds), f"--directory={self.root}", *command))


class Machine:
    """A container that boots on entry and is gone on exit; its link is `host0` inside, OUTSIDE is our end of it."""

    def __init__(self, disk: Disk, name: str) -> None:
        self.disk = disk
        self._name = name
        self._cgroups: list[Path] = []
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def __enter__(self) -> Machine:
        self.boot()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pull_the_plug()

    def boot(self, patience_s: float = PATIENCE_S) -> None:
        """Return once systemd has started everything."""
        (self.disk.root / "etc/hostname").write_text(f"{self._name}\n")
        self._enter_cgroups()
        self._nspawn = subprocess.Popen(
            (*_NSPAWN, "--boot", "--network-veth", f"--machine={self._name}", f"--directory={self.disk.root}"),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=self._join_cgroups)
        pid = self._nspawn.pid
        self._leader = int(wait_for("the container's init", lambda: _run(
            ("pgrep", "-P", str(pid), "-x", "systemd")).out))
        self._connect()
        wait_for("the end of the boot", lambda: self.run("systemctl", "is-system-running").out.strip() in (
            "running", "degraded"), patience_s)

    def pull_the_plug(self) -> None:
        """End it at once, as a power cut does."""
        if self._nspawn is not None:
            with suppress(ProcessLookupError):
                os.kill(self._leader or self._nspawn.pid, signal.SIGKILL)
            self._nspawn.wait(PATIENCE_S)
            self._nspawn = None
        for group in self._cgroups:
            wait_for(f"the end of {group}", lambda: _remove_cgroup(group))
        self._cgroups.clear()

    def wait_for_the_end(self) -> int:
        """Return nspawn's exit status: 133 after a reboot, 0 after a power-off."""
        assert self._nspawn is not None
        return self._nspawn.wait(PATIENCE_S)

    def run(self, *command: str, stdin: str = "") -> Done:
        """Run a command in it as root."""
        return _run(("nsenter", "--target", str(self._leader), "--all", *command), stdin)

    def check(self, *command: str, stdin: str = "") -> str:
        """Run a command in it as root that must succeed; return its stdout."""
        done = self.run(*command, stdin=stdin)
        assert done.status == 0, f"{shlex.join(command)} ended with status {done.status}:\n{done.out}{done.err}"
        return done.out

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Put a file in its place, owned by root."""
        self.check("sh", "-c", f"cat >{shlex.quote(path)} && chmod {mode:o} {shlex.quote(path)}", stdin=text)

    def cut_link(self) -> None:
        """Take the line away without telling either end."""
        subprocess.run(["ip", "link", "set", f"ve-{self._name}", "down"], check=True)

    def restore_link(self) -> None:
        """Give the line back."""
        subprocess.run(["ip", "link", "set", f"ve-{self._name}", "up"], check=True)

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Return properties of a unit."""
        names = [f"--property={name}" for name in properties]
        return dict(line.split("=", 1) for line in self.check("systemctl", "show", unit, *names).splitlines())

    def journal(self, *options: str) -> list[dict[str, Any]]:
        """Return the journal's entries as systemd stores them."""
        out = self.check("journalctl", "--no-pager", "-o", "json", *options)
        return [json.loads(line) for line in out.splitlines()]

    def logged(self, unit: str, event: str) -> list[dict[str, Any]]:
        """Return what iotd has logged of an event."""
        lines = (entry["MESSAGE"] for entry in self.journal("-u", unit))
        entries = [json.loads(line) for line in lines if isinstance(line, str) and line.startswith("{")]
        return [entry for entry in entries if entry.get("event") == event]

    def _connect(self) -> None:
        inside = ("nsenter", "--target", str(self._leader), "--net", "ip")
        for command in (
            ("ip", "address", "add", f"{OUTSIDE}/30", "dev", f"ve-{self._name}"),
            ("ip", "link", "set", f"ve-{self._name}", "up"),
            (*inside, "address", "add", f"{INSIDE}/30", "dev", "host0"),
            (*inside, "link", "set", "host0", "up"),
        ):
            subprocess.run(command, check=True)

    def _enter_cgroups(self) -> None:
        # A group of its own, else two containers that run at once share one named `payload`.
        name = f"{os.environ['IOTD_TEST_CGROUP']}-{uuid.uuid4().hex[:8]}"
        for hierarchy in ("", "unified", "systemd"):
            group = Path("/sys/fs/cgroup", hierarchy, name)
            if (group.parent / "cgroup.procs").exists():
                group.mkdir()
                self._cgroups.append(group)

    def _join_cgroups(self) -> None:
        for group in self._cgroups:
            (group / "cgroup.procs").write_text("0")


def wait_for(what: str, look: Callable[[], Any], timeout_s: float = PATIENCE_S) -> Any:
    """Return the first true answer of `look`; raises AssertionError when none comes in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if answer := look():
            return answer
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come within {timeout_s:g} s")


def _remove_cgroup(group: Path) -> bool:
    for directory, _, _ in os.walk(group, topdown=False):
        with suppress(OSError):
            os.rmdir(directory)
    return not group.exists()


def _run(command: Sequence[str], stdin: str = "") -> Done:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, errors="replace", timeout=300,
                          env=_ENVIRONMENT)
    return Done(done.returncode, done.stdout, done.stderr)
