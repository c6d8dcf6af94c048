"""The package itself: what Debian's own tools say to it, and that it can be built again."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from iotd.cli import COMMANDS
from tests.system.conftest import CHECKOUT, INSTALL, NEWER, VERSION, Release, must, package, set_version, unpack
from tests.system.machine import Disk, Machine


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_lintian_has_nothing_to_say(release: Release, repository: Path, tmp_path: Path) -> None:
    """The source too where its Standards-Version is known: Debian 12's lintian calls that of Debian 13 too new."""
    disk = Disk(tmp_path / "lintian", [release.root])
    must(disk, *INSTALL, "lintian")
    (disk.root / "srv/dist").mkdir()
    for path in repository.parent.glob(f"iotd_{VERSION}*"):
        (disk.root / "srv/dist" / path.name).write_bytes(path.read_bytes())
    kind = "changes" if release.name == "trixie" else "deb"
    [target] = (disk.root / "srv/dist").glob(f"*.{kind}")
    done = disk.run("lintian", "--allow-root", "--pedantic", "--fail-on=none", f"/srv/dist/{target.name}")
    disk.unmount()
    assert (done.status, done.out) == (0, "")


def test_the_same_source_makes_the_same_package(dist: Path, tmp_path: Path) -> None:
    """Another path, locale, time zone, user mask and hour change no byte."""
    source = unpack(dist, tmp_path / "somewhere" / "else")
    done = package(source, tmp_path / "again", LC_ALL="C", LANG="ja_JP.UTF-8", TZ="Asia/Tokyo", HOME="/nonexistent",
                   DEB_BUILD_OPTIONS="nocheck parallel=2")
    assert done.returncode == 0, done.stdout
    for name in (f"iotd_{VERSION}_all.deb", f"iotd_{VERSION}.tar.xz"):
        assert digest(tmp_path / "again" / name) == digest(dist / name), name


@pytest.mark.parametrize("file", ["iotd/__init__.py", "debian/changelog"])
def test_two_versions_make_no_package(file: str, dist: Path, tmp_path: Path) -> None:
    source = unpack(dist, tmp_path / "source")
    set_version(source, NEWER, file)
    done = package(source, tmp_path / "dist")
    assert done.returncode != 0 and "iotd/__init__.py says otherwise; make them agree" in done.stdout
    assert list((tmp_path / "dist").glob("*")) == []


def test_a_repository_signed_by_somebody_else_is_not_trusted(
    dependencies: tuple[Path, ...], dist: Path, tmp_path: Path
) -> None:
    built = package(unpack(dist, tmp_path / "source"), tmp_path / "other")
    assert built.returncode == 0, built.stdout
    disk = Disk(tmp_path / "disk", dependencies)
    (disk.root / "etc/apt/keyrings/iotd.asc").write_bytes((tmp_path / "other/apt/iotd.asc").read_bytes())
    done = disk.run("apt-get", "update", "-o", "APT::Update::Error-Mode=any",
                    "-o", "Dir::Etc::SourceList=sources.list.d/iotd.list", "-o", "Dir::Etc::SourceParts=-")
    disk.unmount()
    assert done.status != 0 and ("NO_PUBKEY" in done.err or "Missing key" in done.err), done.err


def test_its_autopkgtest_passes(bare: Machine) -> None:
    bare.check(*INSTALL, f"iotd={VERSION}", "mosquitto", "mosquitto-clients", "openssl")
    bare.write("/root/daemon", (CHECKOUT / "debian/tests/daemon").read_text(), mode=0o755)
    bare.check("/root/daemon")


def test_bash_completes_the_commands(bare: Machine) -> None:
    bare.check(*INSTALL, f"iotd={VERSION}")
    ask = ("source /usr/share/bash-completion/completions/iotd; compopt() {{ :; }}; COMP_WORDS=({words}); "
           "COMP_CWORD={place}; _iotd; echo ${{COMPREPLY[*]}}")
    for words, place, answer in (
        ("iotd ''", 1, " ".join([*COMMANDS, "--version --help"])),
        ("iotd st", 1, "status"),
        ("iotd publish a --o", 3, "--offline"),
        ("iotd publish a --offline ''", 4, "queue latest drop"),
        ("iotd status --j", 2, "--json"),
        ("iotd check -c /etc/iotd.y", 3, "/etc/iotd.yaml"),
    ):
        assert bare.check("bash", "-c", ask.format(words=words, place=place)).strip() == answer
