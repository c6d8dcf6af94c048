"""What the configuration file says, validated, as frozen values. Nobody behind `config` sees a dict.

Texts that may hold placeholders are kept as written; `template` fills them.
`thing`, topics and filters are filled already, since what they may hold does not change in a run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Union

Json = Any  # what json.loads returns: dict, list, str, int, float, bool or None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this host is: `hostname` up to its first dot, `machine_id` as in /etc/machine-id."""

    hostname: str
    machine_id: str


@dataclass(frozen=True, slots=True)
class Tls:
    """The three certificates of mutual TLS, as paths."""

    ca: str = "/etc/iotd/certs/AmazonRootCA1.pem"
    cert: str = "/etc/iotd/certs/certificate.pem.crt"
    key: str = "/etc/iotd/certs/private.pem.key"


@dataclass(frozen=True, slots=True)
class Backoff:
    """Retries wait 1 s + random(0, min(max, first x 2^n) - 1 s)."""

    first_s: float = 1.0
    max_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Mqtt:
    """The broker and how to hold a line to it. `aws_limits` is `limits` resolved against the host."""

    host: str
    port: int = 8883
    keepalive_s: int = 60
    clean_session: bool = False
    spread_s: float = 0.0
    aws_limits: bool = False
    tls: Tls | None = None
    backoff: Backoff = Backoff()


@dataclass(frozen=True, slots=True)
class Presence:
    """The will, and its living counterpart on the same topic."""

    topic: str
    retain: bool = True
    qos: int = 1


@dataclass(frozen=True, slots=True)
class Publish:
    """One scheduled message. `offline` is queue, latest or drop."""

    topic: str
    every_s: float
    payload: Mapping[str, Json]
    retain: bool = True
    qos: int = 1
    offline: str = "queue"


@dataclass(frozen=True, slots=True)
class Subscription:
    """One topic filter whose messages are logged."""

    filter: str
    qos: int = 1


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


@dataclass(frozen=True, slots=True)
class Shadow:
    """One shadow of the thing; `name` is None for the classic one. `files`: other programs join it by files."""

    name: str | None = None
    every_s: float = 30.0
    desired: Mapping[str, Json] = field(default_factory=dict)
    reported: Mapping[str, Json] = field(default_factory=dict)
    healthy: str = "ヨシッ👉"
    unhealthy: str = "ダメ🙅"
    checks: tuple[Check, ...] = ()
    on_delta: Mapping[str, Action] = field(default_factory=dict)
    files: bool = False


@dataclass(frozen=True, slots=True)
class RebootBudget:
    """How often a reboot may be asked for, and never before the host has been up for `min_uptime_s`."""

    max_per_day: int = 3
    min_uptime_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Wifi:
    """The watched interface. `essid` empty: any association is right. `recover` empty: only report."""

    interface: str = "wlan0"
    essid: tuple[str, ...] = ()
    every_s: float = 10.0
    grace_s: float = 120.0
    recover: tuple[str, ...] = ("reconnect", "restart-network", "reboot")
    reboot: RebootBudget = RebootBudget()


@dataclass(frozen=True, slots=True)
class Spool:
    """The bounds of what waits for its PUBACK. `strict` commits to disk before anything is sent."""

    strict: bool = False
    max_bytes: int = 64 * 1024 * 1024
    max_age_s: float = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class Log:
    """`level` is debug, info, warning or error; `format` json or text."""

    level: str = "info"
    format: str = "json"


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole file."""

    thing: str
    mqtt: Mqtt
    presence: Presence
    publish: tuple[Publish, ...] = ()
    subscribe: tuple[Subscription, ...] = ()
    shadows: tuple[Shadow, ...] = ()
    wifi: Wifi | None = None
    spool: Spool = Spool()
    log: Log = Log()
