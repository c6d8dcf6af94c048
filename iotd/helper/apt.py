"""Packages upgraded or installed by apt, from the sources of this host, with iotd's own former version at hand.

Each step may be cut off and is then taken again from the beginning, which does nothing twice: what is installed already
in the version that is wanted is left alone.
Sources: apt-get(8), dpkg(1), apt.conf(5), deb-systemd-invoke(1p).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from iotd.helper.recover import Outcome

IOTD = "iotd"
ARCHIVES = Path("/var/cache/apt/archives")
LOCK_S = 600.0
FAST_S, DOWNLOAD_S, INSTALL_S = 120.0, 1800.0, 3600.0
CONNECT_S, LOOK_S = 600.0, 2.0

OPTIONS = ("-o", f"DPkg::Lock::Timeout={LOCK_S:.0f}", "-o", "Dpkg::Options::=--force-confdef",
           "-o", "Dpkg::Options::=--force-confold", "-o", "Acquire::Retries=3", "-o", "Acquire::http::Timeout=30",
           "-o", "Acquire::https::Timeout=30", "-o", "APT::Update::Error-Mode=any")
GET = ("apt-get", "--yes", "--quiet", *OPTIONS)
INSTALL = (*GET, "--no-remove", "--no-install-recommends", "--allow-downgrades", "install")
DPKG = ("dpkg", "--force-confdef", "--force-confold")

Run = Callable[[Sequence[str], float], Outcome]


class Failed(Exception):
    """It has not worked; the text says why."""


class CutOff(Exception):
    """The host goes down: the next boot goes on."""


@dataclass(frozen=True, slots=True)
class Host:
    """What a host is asked: `run` runs a command for so many seconds at most, `wait` lets seconds pass and raises
    CutOff where the host goes down meanwhile, `connected` tells whether iotd in this version has its line up.
    """

    run: Run
    wait: Callable[[float], None]
    connected: Callable[[str], bool]
    kept: Path
    archives: Path = ARCHIVES


@dataclass(slots=True)
class Change:
    """What is being done: the packages by name, and `before`, the versions when it began, empty for what was not there.

    iotd is always among them, since it may come along with another. `back` says why it goes back to its former version.
    """

    names: tuple[str, ...]
    only_upgrade: bool
    before: dict[str, str] = field(default_factory=dict)
    back: str = ""


def carry_out(change: Change, host: Host, keep: Callable[[Change], None]) -> dict[str, str]:
    """Bring the packages to the versions that the sources have; return what to tell of it. Raises Failed, CutOff.

    `keep` writes down the versions from before, and that it goes back, ahead of any change.
    """
    _mend(host)
    if change.back:
        _go_back(change, host)
    updated = _locked(host, (*GET, "update"), DOWNLOAD_S)
    if not change.before:
        change.before = versions((*change.names, IOTD), host)
        keep(change)
    if change.only_upgrade:
        for name in change.names:
            if not change.before[name]:
                raise Failed(f"{name} is not installed; use install")
    wanted = {name: _candidate(name, host) for name in change.names}
    todo = [f"{name}={version}" for name, version in wanted.items() if versions((name,), host)[name] != version]
    if todo:
        _install(todo, change, host, keep)
    elif updated.failure is not None and all(wanted[name] == change.before[name] for name in wanted):
        raise Failed(f"nothing newer is known, and apt-get update {updated.failure}: {last_line(updated)}")
    after = versions(change.before, host)
    if after[IOTD] != change.before[IOTD] and change.before[IOTD]:
        _watch(change, after[IOTD], host, keep)
    return {"before": _told(change.before, change.names), "after": _told(after, change.names)}


def versions(names: Sequence[str] | dict[str, str], host: Host) -> dict[str, str]:
    """Return the version of each package, empty for one that is not wholly installed."""
    found = host.run(("dpkg-query", "--show", "--showformat", r"${db:Status-Status} ${Package} ${Version}\n",
                      "--", *names), FAST_S)
    lines = [line.split() for line in found.output.splitlines()]
    there = {line[1]: line[2] for line in lines if len(line) == 3 and line[0] == "installed"}
    return {name: there.get(name, "") for name in names}


def last_line(outcome: Outcome) -> str:
    """Return what a command said last, an error of apt's where there is one."""
    lines = [line.strip() for line in outcome.output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "dpkg: error"))]
    return (errors or lines or [""])[-1][:300]


def _mend(host: Host) -> None:
    """Bring to its end what a power cut has left, else apt does nothing at all."""
    audit = host.run(("dpkg", "--audit"), FAST_S)
    if audit.failure is None and not audit.output:
        return
    _locked(host, (*DPKG, "--configure", "-a"), INSTALL_S)
    states = host.run(("dpkg-query", "--show", "--showformat",
                       r"${db:Status-Status} ${db:Status-Eflag} ${Package}\n"), FAST_S)
    lines = [line.split() for line in states.output.splitlines()]
    broken = [line[2] for line in lines if len(line) == 3 and (line[0] == "half-installed" or line[1] == "reinstreq")]
    for name in broken:
        if name == IOTD and (found := _newest_kept(host)) is not None:
            _locked(host, (*DPKG, "--install", str(found)), INSTALL_S)
        else:
            _locked(host, (*GET, "--reinstall", "install", "--", name), INSTALL_S)


def _candidate(name: str, host: Host) -> str:
    """Return the version that apt would take of exactly this package; raises Failed where there is none."""
    found = host.run(("apt-cache", "policy", "--", name), FAST_S)
    match = re.match(rf"{re.escape(name)}:\n(?:.*\n)*?  Candidate: (\S+)", found.output)
    if match is None or match[1] == "(none)":
        raise Failed(f"no source of this host has a package {name}")
    return match[1]


def _install(todo: list[str], change: Change, host: Host, keep: Callable[[Change], None]) -> None:
    """Install the packages in these versions. Raises Failed; a former iotd is then installed again where it was hit."""
    simulated = host.run((*INSTALL, "--simulate", "--", *todo), FAST_S)
    if simulated.failure is not None:
        raise Failed(f"apt-get cannot do it: {last_line(simulated)}")
    downloaded = _locked(host, (*INSTALL, "--download-only", "--", *todo), DOWNLOAD_S)
    if downloaded.failure is not None:
        raise Failed(f"apt-get --download-only {downloaded.failure}: {last_line(downloaded)}")
    hits = re.search(rf"(?m)^Inst {IOTD} \[\S+\] \((\S+)", simulated.output)
    if hits and change.before[IOTD]:
        _keep_former(change.before[IOTD], host)
        with suppress(Failed):
            _keep_former(hits[1], host)  # the next upgrade will ask for it, when the sources may have it no more
    done = _locked(host, (*INSTALL, "--", *todo), INSTALL_S)
    if done.failure is None:
        return
    _mend(host)
    reason = f"apt-get {done.failure}: {last_line(done)}"
    if hits and change.before[IOTD] and versions((IOTD,), host)[IOTD] != change.before[IOTD]:
        change.back = reason
        keep(change)
        _go_back(change, host)
    raise Failed(reason)


def _keep_former(version: str, host: Host) -> None:
    """See to it that the package of this version of iotd is at hand, whatever the sources will have. Raises Failed."""
    target = _kept(version, host)
    if target.exists():
        return
    partial = host.kept / "partial"
    partial.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = partial / target.name
    found.unlink(missing_ok=True)  # half of it, perhaps
    if (host.archives / target.name).exists():
        try:
            shutil.copyfile(host.archives / target.name, found)
        except OSError as error:
            raise Failed(f"iotd {version}, to go back to, cannot be kept: {error.strerror}") from None
    else:
        # Not --download-only, which copies nothing from a source on this host's own disk.
        fetched = _locked(host, ("env", f"--chdir={partial}", *GET, "download", "--", f"{IOTD}={version}"), DOWNLOAD_S)
        if fetched.failure is not None:
            found.unlink(missing_ok=True)
    if not found.exists():
        raise Failed(f"iotd {version}, to go back to, is in no source of this host any more; put its package into "
                     f"{host.kept}, as {target.name}")
    with found.open("rb") as file:
        os.fsync(file.fileno())
    found.rename(target)
    for other in sorted(host.kept.glob("*.deb"), key=lambda path: path.stat().st_mtime)[:-3]:
        other.unlink()


def _watch(change: Change, version: str, host: Host, keep: Callable[[Change], None]) -> None:
    """Return once the new iotd has its line up; else install the former one again, and raise Failed."""
    for _ in range(int(CONNECT_S / LOOK_S)):
        if host.connected(version):
            return
        host.wait(LOOK_S)
    change.back = f"iotd {version} did not connect within {CONNECT_S / 60:.0f} minutes"
    keep(change)
    _go_back(change, host)


def _go_back(change: Change, host: Host) -> NoReturn:
    """Install the former iotd again, unless it is; raise Failed."""
    former = change.before[IOTD]
    if versions((IOTD,), host)[IOTD] != former:
        done = _locked(host, (*DPKG, "--install", str(_kept(former, host))), INSTALL_S)
        if done.failure is not None:
            raise Failed(f"{change.back}; {former} could not be installed again: dpkg {done.failure}: "
                         f"{last_line(done)}")
    host.run(("systemctl", "--no-block", "restart", "iotd.service"), FAST_S)
    raise Failed(f"{change.back}; {former} is installed again")


def _locked(host: Host, command: Sequence[str], limit_s: float) -> Outcome:
    """Run a command of dpkg's or apt's, again as long as another holds its lock; apt waits for most of them itself."""
    for _ in range(int(LOCK_S / 10)):
        outcome = host.run(command, limit_s)
        if outcome.failure is None or not re.search(r"locked by another process|Could not get lock|frontend lock",
                                                    outcome.output):
            break
        host.wait(10.0)
    return outcome


def _kept(version: str, host: Host) -> Path:
    return host.kept / f"{IOTD}_{version.replace(':', '%3a')}_all.deb"


def _newest_kept(host: Host) -> Path | None:
    kept = sorted(host.kept.glob("*.deb"), key=lambda path: path.stat().st_mtime)
    return kept[-1] if kept else None


def _told(found: dict[str, str], names: tuple[str, ...]) -> str:
    listed = [name for name in found if found[name] and (name in names or name == IOTD)]
    return ", ".join(f"{name} {found[name]}" for name in listed) or "not installed"
