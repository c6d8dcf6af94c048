"""Who this host is: its name, its machine-id and the serial number of its board."""

import os
import pwd
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from iotd.host import facts
from iotd.host.files import Files, read_line

GIVEN = "identity"  # in the state directory: what provisioning has given the device, for nobody else to see
IDENTITY = "identity.json"  # in there: who the device is, and in which of the two places its pair lies
PLACES = ("a", "b")
NO_NAMES = ("", "localhost", "(none)")  # of the kernel before anybody has named the host, and of images


class Given(NamedTuple):
    """Who the device has been made: its thing, and the paths of its certificate and key."""

    thing: str
    cert: str
    key: str


class Identity(NamedTuple):
    """Who this host is: `hostname` up to its first dot, `machine_id` as in /etc/machine-id, empty where it has none;
    `cpu_serial` is the board's, empty where it tells none.
    """

    hostname: str
    machine_id: str
    cpu_serial: str = ""

    def lacking(self) -> dict[str, str]:
        """Return which of them tell this host from no other, and what to do about it."""
        problems = {}
        if self.hostname in NO_NAMES:
            problems["hostname"] = f"this host is called {self.hostname!r}, as any host without a name is; " \
                                   "name it: hostnamectl set-hostname NAME"
        if not self.machine_id:
            problems["machine_id"] = "this host has no machine-id yet; make one: systemd-machine-id-setup"
        if not self.cpu_serial:
            problems["cpu_serial"] = "this machine tells no serial number, neither in /proc/device-tree/" \
                                     "serial-number nor in /proc/cpuinfo; name it by {machine_id}"
        return problems


def identity() -> Identity:
    """Return what this host is called, the id it was given at its installation (machine-id(5)), and its serial."""
    return read_identity(socket.gethostname(), Path("/etc/machine-id"), facts.HOST)


def read_identity(name: str, file: Path, roots: facts.Roots) -> Identity:
    """Return the identity of a host with this name, this file of its machine-id and these files of its kernel.

    A name that is no UTF-8, which the kernel takes, has ? in the place of what is not.
    """
    machine_id = read_line(file)
    hostname = name.split(".")[0].encode("utf-8", "replace").decode("utf-8")
    serial = str(facts.read(["cpu_serial"], roots)["cpu_serial"] or "")
    # All zeros is what a board says whose maker has written none.
    return Identity(hostname, "" if machine_id == "uninitialized" else machine_id, serial * bool(serial.strip("0")))


def given(files: Files, state: Path) -> Given | None:
    """Return who the device was made by provisioning, None for nobody, and while it asks for that again."""
    body = files.read_json(state / GIVEN / IDENTITY)
    if not isinstance(body, dict) or body.get("again"):
        return None
    thing, place = body.get("thing"), body.get("place")
    if not thing or not isinstance(thing, str) or place not in PLACES:
        return None
    return Given(thing, *(str(state / GIVEN / f"{place}.{kind}") for kind in ("crt", "key")))


def user_name() -> str:
    """Return the name of the user that this process runs as."""
    return name_of(pwd.getpwuid, os.geteuid())


def name_of(look_up: Callable[[int], tuple[Any, ...]], number: int) -> str:
    """Return the name of a user or group, its number where it has none, as in a container."""
    try:
        return str(look_up(number)[0])
    except KeyError:
        return str(number)
