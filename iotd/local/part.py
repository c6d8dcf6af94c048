"""What the kernel drives of the programs' wing; the rest of it is loaded when the first program asks for something."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iotd.config.settings import Settings
from iotd.daemon.part import Kernel, Part
from iotd.host import log
from iotd.local.door import Asked, Door, Left
from iotd.vocabulary import Json, Received

if TYPE_CHECKING:
    from iotd.local.desk import Desk

CLOSE_S = 2.0

OpenDoor = Callable[[Callable[[Any], None], Path], Door]


def build(kernel: Kernel, open_door: OpenDoor | None) -> Programs:
    """Return the part; programs can connect from now on."""
    return Programs(kernel, open_door or Door)


class Programs(Part):
    """The door, and the desk behind it."""

    def __init__(self, kernel: Kernel, open_door: OpenDoor) -> None:
        self._kernel = kernel
        self._settings = kernel.written
        self._desk: Desk | None = None
        self._door = open_door(kernel.post, kernel.world.places.runtime)
        if self._door.problem:
            log.warning("program.kept_out", self._door.problem)

    def apply(self, settings: Settings, now: float) -> None:
        """Let the settings take effect."""
        self._settings = settings
        if self._desk is not None:
            self._desk.settings = settings

    def handlers(self) -> Mapping[type, Callable[[Any, float], None]]:
        """Return who takes what the door posts."""
        return {Asked: self._on_asked, Left: self._on_left}

    def heard(self, received: Received, now: float) -> None:
        """Hand a message on to the programs that listen to it."""
        if self._desk is not None:
            self._desk.heard(received)

    def next_due(self) -> float:
        """Return when programs that wait may go on."""
        return self._desk.held_until if self._desk is not None and self._desk.held_until else math.inf

    def keep(self, now: float) -> None:
        """Let the programs that wait go on, where they may."""
        if self._desk is not None:
            self._desk.keep(now)

    def close(self, now: float) -> None:
        """End; what was asked for and not answered will be asked for again."""
        self._door.close(CLOSE_S)

    def stuck(self, now: float) -> str:
        """Return the thread's name, where it is stuck."""
        return "" if self._door.alive(now) else "programs"

    def status(self) -> dict[str, Json]:
        """Return the filters that programs may listen to, and how many do."""
        return {"listen": list(self._kernel.shared()), "listeners": 0 if self._desk is None else self._desk.listeners}

    def problems(self) -> list[str]:
        """Return why no program can connect, where that is so."""
        return [self._door.problem] if self._door.problem else []

    def _on_asked(self, event: Asked, now: float) -> None:
        if self._desk is None:
            from iotd.local.desk import Desk

            self._desk = Desk(self._kernel, self._door, self._settings)
        self._desk.asked(event, now)

    def _on_left(self, event: Left, now: float) -> None:
        if self._desk is not None:
            self._desk.left(event.connection)
