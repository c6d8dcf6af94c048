"""Everything that the kernel and its parts know of the world, handed in: clocks, chance, files, threads, the network.

`real` is this host. A simulation hands in another one, whose seconds cost nothing.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import iotd
from iotd.daemon.inbox import Inbox
from iotd.host import clock
from iotd.host.files import Files
from iotd.host.identity import Identity, identity
from iotd.host.periodic import Periodic
from iotd.host.systemd import Systemd
from iotd.host.tasks import Tasks
from iotd.mqtt.session import Session

Post = Callable[[Any], None]  # takes an event for the main loop, from any thread


class Places(NamedTuple):
    """The two directories: `state` is what must outlive a reboot, `runtime` what need not."""

    state: Path
    runtime: Path


class World(NamedTuple):
    """The world of one run.

    `monotonic` and `uptime` count seconds, `wall` tells the epoch seconds, right or not, and `wall_is_set` whether a
    time service has set it. `chance` draws from 0 to 1, `new_id` makes 16 hexadecimal characters. `catch_signals` has
    each signal that asks for something given to a function. The log goes to `log_to`, None for stdout; `on_terminal`
    tells that a person reads it there, so that it is text. `adapters` are,
    by the name of a wing, what it uses in the place of its own way to the world. `command_of` returns how another of
    iotd's commands is run on the same configuration and directories.
    """

    monotonic: Callable[[], float]
    wall: Callable[[], float]
    wall_is_set: Callable[[], bool]
    uptime: Callable[[], float]
    chance: Callable[[], float]
    new_id: Callable[[], str]
    identity: Identity
    boot_id: str
    pid: int
    under_journald: bool
    places: Places
    files: Files
    systemd: Systemd
    inbox: Inbox
    session: Callable[[Post, Callable[[], int]], Session]
    tasks: Callable[[Post], Tasks]
    periodic: Callable[[Post], Periodic]
    catch_signals: Callable[[Callable[[int], None]], None]
    log_to: TextIO | None = None
    adapters: Mapping[str, Any] = {}
    on_terminal: bool = False
    command_of: Callable[[str], tuple[str, ...]] = lambda name: ("iotd", name)

    def known_wall(self) -> float | None:
        """Return the wall clock, None while nobody has set it."""
        return self.wall() if self.wall_is_set() else None


def real(places: Places, under_journald: bool, file: str) -> World:
    """Return this host; `file` is the configuration's path."""
    def catch_signals(take: Callable[[int], None]) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda caught, _: take(caught))

    return World(
        monotonic=time.monotonic, wall=time.time, wall_is_set=clock.clock_is_set, uptime=clock.uptime_s,
        chance=random.random, new_id=lambda: os.urandom(8).hex(), identity=identity(), boot_id=clock.boot_id(),
        pid=os.getpid(), under_journald=under_journald, places=places, files=Files(), systemd=Systemd(),
        inbox=Inbox(), session=Session, tasks=Tasks, periodic=Periodic, catch_signals=catch_signals,
        on_terminal=sys.stdout is not None and sys.stdout.isatty(), command_of=commands(places, file))


def commands(places: Places, file: str) -> Callable[[str], tuple[str, ...]]:
    """Return how another of iotd's commands is run from wherever this one was, installed or not."""
    where = {"STATE_DIRECTORY": places.state, "RUNTIME_DIRECTORY": places.runtime,
             "PYTHONPATH": Path(iotd.__file__).parent.parent}
    environment = tuple(f"{key}={value}" for key, value in where.items())
    return lambda name: ("/usr/bin/env", *environment, sys.executable, "-m", "iotd", name, "-c", os.path.abspath(file))
