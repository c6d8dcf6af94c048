"""Jobs on a booted Debian: the daemon, the helper, apt and systemd, whatever is killed or cut off at whatever step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Iterator

import pytest

from tests.aws.jobs import JobsService
from tests.mosquitto import Mosquitto
from tests.system.conftest import NEWER, VERSION, booted, package, set_version, unpack
from tests.system.machine import Disk, Machine, wait_for

BAD = "0.1.2"
OPEN = """\
jobs:
  handlers:
    wait: {run: [/bin/sh, -c, "echo x >>/var/lib/iotd/done; sleep 600"]}
    note: {run: [/bin/sh, -c, "echo x >>/var/lib/iotd/done"]}
  reboot: true
  restart: [iotd.service, kiosk.service]
  upgrade: [iotd]
"""
HELPER = "/usr/lib/python3/dist-packages/iotd/helper"
FINAL_S = 180.0  # on a busy host


@pytest.fixture
def cloud(broker: Mosquitto) -> Iterator[JobsService]:
    """The Jobs service."""
    with JobsService(broker) as service:
        yield service


@pytest.fixture
def device(installed: tuple[Path, ...], tmp_path: Path, cloud: JobsService) -> Iterator[Machine]:
    """A machine whose configuration opens jobs."""
    disk = Disk(tmp_path / "machine", installed)
    with (disk.root / "etc/iotd.yaml").open("a") as file:
        file.write(OPEN)
    # nspawn mounts each boot's id over the kernel's, which is not to be seen in a unit that has a /proc of its own.
    drop_in = disk.root / "etc/systemd/system/iotd.service.d/boot_id.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\nProtectProc=default\nProtectKernelTunables=no\nProtectControlGroups=no\n"
                       "ProtectKernelLogs=no\n")
    yield from booted(disk)


@pytest.fixture(scope="session")
def bad(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a version that never connects."""
    source = unpack(dist, tmp_path_factory.mktemp("bad") / "source")
    set_version(source, BAD, "iotd/__init__.py", "debian/changelog")
    run = source / "iotd/cli/run.py"
    run.write_text(run.read_text().replace("    here = places()\n", "    raise SystemExit(1)\n    here = places()\n"))
    target = source.parent / "dist"
    done = package(source, target)
    assert done.returncode == 0, done.stdout
    return target / "apt"


def step(handler: str, *arguments: str) -> Any:
    given = {"handler": handler, "args": list(arguments)}
    return {"action": {"name": handler, "type": "runHandler", "input": given}}


def status(cloud: JobsService, job: str) -> str:
    return cloud.execution("pi", job).status


def final(cloud: JobsService, job: str) -> tuple[str, dict[str, str]]:
    """Return the final state of a job, and what is told of it."""
    wait_for(f"the end of {job}", lambda: status(cloud, job) not in ("QUEUED", "IN_PROGRESS"), FINAL_S)
    found = cloud.execution("pi", job)
    return found.status, dict(found.details)


def begun(cloud: JobsService, job: str, document: Any) -> None:
    cloud.create("pi", job, document)
    wait_for(f"the beginning of {job}", lambda: status(cloud, job) != "QUEUED", FINAL_S)


def upgrade(cloud: JobsService) -> None:
    begun(cloud, "up", {"operation": "upgrade", "args": ["iotd"]})


def version(machine: Machine) -> str:
    return machine.run("dpkg-query", "--show", "--showformat", "${Version} ${db:Status-Status}", "iotd").out


@pytest.mark.usefixtures("newer")
def test_iotd_upgrades_itself_and_tells_it(device: Machine, cloud: JobsService) -> None:
    upgrade(cloud)
    assert final(cloud, "up")[0] == "SUCCEEDED", device.run("journalctl", "--no-pager", "-n", "200").out
    details = cloud.execution("pi", "up").details
    assert (details["before"], details["after"]) == (f"iotd {VERSION}", f"iotd {NEWER}")
    assert version(device) == f"{NEWER} installed" and cloud.execution("pi", "up").history == [
        "IN_PROGRESS", "SUCCEEDED"]
    kept = device.check("sh", "-c", "cd /var/lib/iotd-job/kept; echo *.deb").split()
    assert kept == [f"iotd_{VERSION}_all.deb", f"iotd_{NEWER}_all.deb"]
    assert device.check("systemctl", "is-active", "iotd-job@upgrade.path").strip() == "active"


@pytest.mark.usefixtures("newer")
@pytest.mark.parametrize("when", ["taken", "unpacking", "watched", "told"])
@pytest.mark.parametrize("how", ["power", "kill"])
def test_an_upgrade_that_is_cut_off_goes_on(device: Machine, cloud: JobsService, when: str, how: str) -> None:
    moments: dict[str, Callable[[], Any]] = {
        "taken": lambda: device.run("test", "-e", "/var/lib/iotd-job/upgrade.json").status == 0,
        "unpacking": lambda: version(device) != f"{VERSION} installed",
        "watched": lambda: version(device) == f"{NEWER} installed",
        "told": lambda: device.run("grep", "-q", '"up:', "/var/lib/iotd-job/results.json").status == 0,
    }
    upgrade(cloud)
    wait_for(when, moments[when], FINAL_S)
    if how == "power":
        device.pull_the_plug()
        device.boot(FINAL_S)
    else:
        device.run("systemctl", "kill", "--kill-whom=all", "--signal=KILL", "iotd-job@upgrade.service")
        device.run("systemctl", "kill", "--kill-whom=all", "--signal=KILL", "iotd.service")
    assert final(cloud, "up")[0] == "SUCCEEDED", cloud.execution("pi", "up").details
    assert version(device) == f"{NEWER} installed" and device.check("dpkg", "--audit") == ""
    assert cloud.execution("pi", "up").details["before"] == f"iotd {VERSION}"
    wait_for("the end of the helper", lambda: device.run("ls", "/var/lib/iotd-job/upgrade.json").status != 0)


@pytest.mark.parametrize("how", ["unpacked", "half-installed"])
def test_an_iotd_that_a_power_cut_left_half_unpacked_is_whole_before_its_code_runs_as_root(
    device: Machine, repository: Path, how: str
) -> None:
    kept = device.disk.root / "var/lib/iotd-job/kept"
    helper = device.disk.root / HELPER[1:] / "job.py"
    before, log = helper.read_text(), device.check("cat", "/var/log/dpkg.log")
    device.check("systemctl", "start", "iotd-job@upgrade.service")
    assert device.check("cat", "/var/log/dpkg.log") == log, "of a package that is whole nothing is touched"
    kept.mkdir(parents=True)
    shutil.copy(repository / f"iotd_{VERSION}_all.deb", kept)
    (kept / "iotd_0.0.9_all.deb").write_text("an older one, and not to be taken")
    os.utime(kept / "iotd_0.0.9_all.deb", (0.0, 0.0))
    if how == "unpacked":
        device.check("dpkg", "--unpack", f"/var/lib/iotd-job/kept/iotd_{VERSION}_all.deb")
    else:  # as dpkg writes it before the first file, and as a file may be found then
        device.check("sed", "-i", "/^Package: iotd$/,/^$/s/^Status: .*/Status: install reinstreq half-installed/",
                     "/var/lib/dpkg/status")
        helper.write_text(before[:len(before) // 2] + "(")
        assert version(device) == f"{VERSION} half-installed"
    done = device.run("systemctl", "start", "iotd-job@upgrade.service")
    assert done.status == 0, device.run("journalctl", "--no-pager", "-u", "iotd-job@upgrade.service").out
    assert version(device) == f"{VERSION} installed" and helper.read_text() == before
    assert device.check("dpkg", "--audit") == ""


def with_bad(device: Machine, bad: Path) -> None:
    """Give a machine the source of the version that never connects, and less patience."""
    shutil.copytree(bad, device.disk.root / "srv/bad")
    device.write("/etc/apt/sources.list.d/bad.list", "deb [trusted=yes] file:/srv/bad ./\n")
    device.check("sed", "-i", "s/^CONNECT_S, LOOK_S = 600.0/CONNECT_S, LOOK_S = 20.0/", f"{HELPER}/apt.py")


def test_an_iotd_that_does_not_connect_goes_back(device: Machine, cloud: JobsService, bad: Path) -> None:
    with_bad(device, bad)
    upgrade(cloud)
    state, details = final(cloud, "up")
    assert state == "FAILED" and details["reason"].endswith(f"; {VERSION} is installed again"), details
    assert details["reason"].startswith(f"iotd {BAD} did not connect within")
    assert version(device) == f"{VERSION} installed"
    assert device.check("systemctl", "is-active", "iotd").strip() == "active"


def test_an_iotd_that_does_not_connect_goes_back_after_a_power_cut_too(
    device: Machine, cloud: JobsService, bad: Path
) -> None:
    with_bad(device, bad)
    upgrade(cloud)
    wait_for("the bad version", lambda: version(device) == f"{BAD} installed", FINAL_S)
    device.pull_the_plug()
    # The new package has brought its own helper, with its ten minutes.
    file = device.disk.root / HELPER[1:] / "apt.py"
    file.write_text(file.read_text().replace("CONNECT_S, LOOK_S = 600.0", "CONNECT_S, LOOK_S = 20.0"))
    device.boot(FINAL_S)  # which ends with what the helper is at
    state, details = final(cloud, "up")
    assert state == "FAILED" and details["reason"].endswith(f"; {VERSION} is installed again"), details
    assert version(device) == f"{VERSION} installed"


def test_a_reboot_is_told_by_the_boot_that_comes_of_it(device: Machine, cloud: JobsService) -> None:
    begun(cloud, "boot", {"version": "1.0", "steps": [step("note"), step("reboot.sh"), step("note")]})
    assert device.wait_for_the_end() == 133
    device.pull_the_plug()
    device.boot()
    assert final(cloud, "boot")[0] == "SUCCEEDED"
    assert device.check("cat", "/var/lib/iotd/done") == "x\nx\n"
    assert device.run("ls", "-A", "/run/iotd/jobs").out == ""


def test_a_shutdown_that_hangs_is_forced(device: Machine, cloud: JobsService) -> None:
    device.check("sed", "-i", "s/^ESCALATE_S = 120.0/ESCALATE_S = 5.0/", f"{HELPER}/recover.py")
    device.write("/etc/systemd/system/stuck.service", "[Service]\nExecStart=/bin/sleep infinity\n"
                 "ExecStop=/bin/sleep infinity\nTimeoutStopSec=infinity\n")
    device.check("systemctl", "start", "stuck")
    begun(cloud, "boot", {"operation": "reboot"})
    assert device.wait_for_the_end() == 133
    device.pull_the_plug()
    device.boot()
    assert final(cloud, "boot")[0] == "SUCCEEDED"


def test_a_unit_is_restarted_and_iotd_too(device: Machine, cloud: JobsService) -> None:
    device.write("/etc/systemd/system/kiosk.service", "[Service]\nExecStart=/bin/sleep infinity\n")
    device.check("systemctl", "start", "kiosk")
    before = {unit: device.show(unit, "InvocationID") for unit in ("kiosk", "iotd")}
    begun(cloud, "restart", {"version": "1.0", "steps": [
        step("restart-services.sh", "kiosk.service"), step("restart-services.sh", "iotd.service")]})
    assert final(cloud, "restart")[0] == "SUCCEEDED"
    assert all(device.show(unit, "InvocationID") != invocation for unit, invocation in before.items())
    assert [len(device.logged("iotd-job@restart", event)) for event in ("job.command", "job.result")] == [2, 2]


@pytest.mark.parametrize("how", ["TERM", "KILL"])
def test_a_handler_that_is_cut_off_is_interrupted_and_not_run_again(
    device: Machine, cloud: JobsService, how: str
) -> None:
    begun(cloud, "wait", {"operation": "wait"})
    wait_for("the handler", lambda: device.run("test", "-e", "/var/lib/iotd/done").status == 0)
    device.check("systemctl", "kill", "--kill-whom=main", f"--signal={how}", "iotd")
    state, details = final(cloud, "wait")
    assert state == "FAILED" and details["reason"].startswith("interrupted")
    assert device.check("cat", "/var/lib/iotd/done") == "x\n"


def test_root_does_nothing_that_its_own_file_does_not_open(device: Machine, cloud: JobsService) -> None:
    """Not even for a daemon that has been taken over."""
    for verb, names in (("upgrade", ["nmap"]), ("upgrade", ["iotd-"]), ("restart", ["ssh.service"])):
        script = ("from pathlib import Path\nfrom iotd.host.files import Files\n"
                  f"Files().write_request(Path('/run/iotd/jobs/{verb}'), {{'job': 'x', 'execution': {len(names[0])}, "
                  f"'step': 0, 'names': {names}}})\n")
        before = len(device.logged(f"iotd-job@{verb}", "job.refused"))
        device.check("runuser", "-u", "iotd", "--", "python3", "-c", script)
        wait_for("its refusal", lambda: len(device.logged(f"iotd-job@{verb}", "job.refused")) > before)
        assert device.logged(f"iotd-job@{verb}", "job.accepted") == []
    assert device.run("runuser", "-u", "iotd", "--", "touch", "/var/lib/iotd-job/upgrade.json").status != 0
