"""The package as its users meet it: a repository that a web server serves, and machines that install from it."""

from __future__ import annotations

import os
import subprocess
import threading
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Iterator

import pytest

from tests.certificates import Certificates, make_certificates
from tests.mosquitto import Mosquitto
from tests.observer import Observer
from tests.system.machine import OUTSIDE, Disk, Machine

CHECKOUT = Path(__file__).parents[2]
VERSION, NEWER = "0.1.0", "0.1.1"

CONFIGURATION = """\
mqtt:
  host: {host}
  port: {port}
  keepalive: 5s
  backoff: {{first: 1s, max: 2s}}
  tls:
publish:
  - topic: "{{thing}}/count"
    every: 1s
    payload: {{count: "{{sequence}}", run: "{{run}}"}}
shadows:
  - name: device_0
    reported: {{state: "{{health}}"}}
"""

# What README.md tells the owner of a Pi.
ADD_REPOSITORY = f"""\
set -e
mkdir -p /etc/apt/keyrings
cp /srv/apt/iotd.asc /etc/apt/keyrings/iotd.asc
echo 'deb [signed-by=/etc/apt/keyrings/iotd.asc] http://{OUTSIDE} ./' >/etc/apt/sources.list.d/iotd.list
"""
# Debian's own archive is out of reach here; what is needed of it lies in the root's cache.
UPDATE = ("apt-get", "update", "-o", "Dir::Etc::SourceList=sources.list.d/iotd.list", "-o", "Dir::Etc::SourceParts=-",
          "-o", "APT::Get::List-Cleanup=0")
INSTALL = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes", "--no-install-recommends",
           "-o", "DPkg::Options::=--force-unsafe-io")


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


@dataclass(frozen=True, slots=True)
class Release:
    """A release of Debian: its root with systemd, and what the package needs in the cache of apt."""

    name: str
    root: Path


def package(source: Path, target: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run script/package of a source tree."""
    return subprocess.run([source / "script" / "package", target], env={**os.environ, **environment}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def unpack(dist: Path, target: Path) -> Path:
    """Return a fresh source tree, out of the source package."""
    target.mkdir(parents=True)
    subprocess.run(["tar", "-xf", dist / f"iotd_{VERSION}.tar.xz", "-C", target, "--strip-components=1"], check=True)
    return target


def set_version(source: Path, version: str, *files: str) -> None:
    """Write another version into files of a source tree."""
    for file in files:
        path = source / file
        path.write_text(path.read_text().replace(VERSION, version, 1))


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What script/package makes of this checkout."""
    target = tmp_path_factory.mktemp("dist")
    done = package(CHECKOUT, target)
    assert done.returncode == 0, done.stdout
    return target


@pytest.fixture(scope="session")
def repository(dist: Path) -> Iterator[Path]:
    """The apt repository, served at http://OUTSIDE/."""
    handler = partial(_Handler, directory=str(dist / "apt"))
    with ThreadingHTTPServer((OUTSIDE, 80), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield dist / "apt"
        server.shutdown()


@pytest.fixture(scope="session")
def newer(dist: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The next version in the same repository, with a key more in the sample configuration."""
    source = unpack(dist, tmp_path_factory.mktemp("newer") / "source")
    set_version(source, NEWER, "iotd/__init__.py", "debian/changelog")
    sample = source / "etc/iotd.yaml"
    sample.write_text(sample.read_text() + "# a comment that the new version brings\n")
    done = package(source, repository.parent)
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="session", params=["bookworm", "trixie"])
def release(request: pytest.FixtureRequest) -> Release:
    """Each release that iotd supports."""
    return Release(request.param, Path(os.environ["IOTD_TEST_ROOTS"], request.param))


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """The broker's, and those of the thing `pi`."""
    return make_certificates(tmp_path_factory.mktemp("certificates"), "pi", names=(f"IP:{OUTSIDE}",))


@pytest.fixture
def broker(tmp_path: Path, certificates: Certificates) -> Iterator[Mosquitto]:
    """A mosquitto outside the machine, always on the same port."""
    directory = tmp_path / "broker"
    directory.mkdir()
    mosquitto = Mosquitto(directory, certificates, port=8883)
    mosquitto.host = OUTSIDE
    with mosquitto:
        yield mosquitto


@pytest.fixture
def observer(broker: Mosquitto) -> Iterator[Observer]:
    """A second client of the broker, subscribed to what `pi` says."""
    with Observer(broker) as client:
        client.subscribe("pi/#", "MQTTServer/pi/will")
        yield client


@pytest.fixture(scope="session")
def dependencies(
    release: Release, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ...]:
    """The layers of a root that knows the repository and has what the package depends on, but not the package."""
    disk = Disk(tmp_path_factory.mktemp(f"{release.name}-dependencies"), [release.root])
    must(disk, "sh", "-c", ADD_REPOSITORY, bind=repository)
    must(disk, *UPDATE)
    needed = subprocess.run(["dpkg-deb", "--field", *repository.glob(f"*_{VERSION}_*.deb"), "Depends"], check=True,
                            capture_output=True, text=True).stdout
    must(disk, *INSTALL[:2], "apt-get", "satisfy", *INSTALL[4:], needed)
    disk.unmount()
    return disk.layers


@pytest.fixture(scope="session")
def installed(
    dependencies: tuple[Path, ...], certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ...]:
    """The layers of a root with the package installed, as an image is built, and configured for the broker."""
    disk = Disk(tmp_path_factory.mktemp("installed"), dependencies)
    must(disk, *INSTALL, f"iotd={VERSION}")
    (disk.root / "etc/iotd.yaml").write_text(CONFIGURATION.format(host=OUTSIDE, port=8883))
    place_certificates(disk.root, certificates)
    must(disk, "sh", "-c", "chown root:iotd /etc/iotd/certs/*; chmod 0640 /etc/iotd/certs/*")
    disk.unmount()
    return disk.layers


@pytest.fixture
def fresh(release: Release, repository: Path, tmp_path: Path) -> Iterator[Machine]:
    """A booted Debian that never heard of iotd, with nothing but the repository's key at hand."""
    disk = Disk(tmp_path / "fresh", [release.root])
    (disk.root / "srv/apt").mkdir()
    (disk.root / "srv/apt/iotd.asc").write_bytes((repository / "iotd.asc").read_bytes())
    yield from booted(disk)


@pytest.fixture
def bare(dependencies: tuple[Path, ...], tmp_path: Path) -> Iterator[Machine]:
    """A booted Debian with everything that the package depends on."""
    yield from booted(Disk(tmp_path / "bare", dependencies))


@pytest.fixture
def machine(installed: tuple[Path, ...], tmp_path: Path) -> Iterator[Machine]:
    """A booted Debian with iotd installed and configured."""
    yield from booted(Disk(tmp_path / "machine", installed))


def booted(disk: Disk) -> Iterator[Machine]:
    """Boot a machine named `pi`, and throw it away after use."""
    with Machine(disk, "pi") as machine:
        yield machine
        print(machine.run("journalctl", "--no-pager", "--unit=iotd*").out)  # pytest shows it where a test has failed
    disk.unmount()


def must(disk: Disk, *command: str, bind: Path | None = None) -> str:
    """Run a command that must succeed in a disk that is not booted; `bind` appears as /srv/apt."""
    done = disk.run(*command, binds=() if bind is None else (f"{bind}:/srv/apt",))
    assert done.status == 0, f"{command} ended with status {done.status}:\n{done.out}{done.err}"
    return done.out


def place_certificates(root: Path, certificates: Certificates) -> None:
    """Put the three files where the sample configuration has them."""
    certs = root / "etc/iotd/certs"
    (certs / "AmazonRootCA1.pem").write_bytes(certificates.ca.read_bytes())
    (certs / "certificate.pem.crt").write_bytes(certificates.client.cert.read_bytes())
    (certs / "private.pem.key").write_bytes(certificates.client.key.read_bytes())
