"""What the configuration says of checks and of orders from the cloud, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union


@dataclass(frozen=True, slots=True)
class UnitActive:
    """A systemd unit is active."""

    unit: str


@dataclass(frozen=True, slots=True)
class ProcessRuns:
    """A process of this name runs, as `ps -o comm` shows it; a name beyond 15 characters is compared in full."""

    process: str


@dataclass(frozen=True, slots=True)
class PortAnswers:
    """A TCP connection can be made."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class FileFresh:
    """A file was written no longer ago than this."""

    path: str
    max_age_s: float


@dataclass(frozen=True, slots=True)
class CommandPasses:
    """A command exits with 0; its arguments, no shell."""

    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DiskHasRoom:
    """The file system that holds `path` has this much room for those who are not root."""

    path: str
    min_free_bytes: int


@dataclass(frozen=True, slots=True)
class TemperatureBelow:
    """The processor is no hotter than this."""

    max_celsius: float


@dataclass(frozen=True, slots=True)
class NotThrottled:
    """The Pi's firmware neither lacks voltage nor holds the processor back."""


@dataclass(frozen=True, slots=True)
class GatewayAnswers:
    """The default gateway is there."""


Probe = Union[UnitActive, ProcessRuns, PortAnswers, FileFresh, CommandPasses, DiskHasRoom, TemperatureBelow,
              NotThrottled, GatewayAnswers]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is watched; two shadows with an equal check share its results."""

    name: str
    probe: Probe
    every_s: float = 30.0
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Run:
    """What is desired is done by a command: its arguments, `{value}` in one of them, no shell."""

    command: tuple[str, ...]
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Set:
    """What is desired becomes the value of one of iotd's settings, such as `publish[0].every`."""

    setting: str


Action = Union[Run, Set]
