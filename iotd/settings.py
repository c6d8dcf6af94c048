"""What the configuration file says, validated, as frozen values. Nobody behind `config` sees a dict.

Texts that may hold placeholders are kept as written; `template` fills them.
`thing`, topics and filters are filled already, since what they may hold does not change in a run.
"""

from __future__ import annotations

from collections.abc import Mapping

from iotd.typed import Any, NamedTuple

Json = Any  # what json.loads returns: dict, list, str, int, float, bool or None


class Identity(NamedTuple):
    """Who this host is: `hostname` up to its first dot, `machine_id` as in /etc/machine-id."""

    hostname: str
    machine_id: str


class Tls(NamedTuple):
    """The three certificates of mutual TLS, as paths."""

    ca: str = "/etc/iotd/certs/AmazonRootCA1.pem"
    cert: str = "/etc/iotd/certs/certificate.pem.crt"
    key: str = "/etc/iotd/certs/private.pem.key"


class Backoff(NamedTuple):
    """Retries wait 1 s + random(0, min(max, first x 2^n) - 1 s)."""

    first_s: float = 1.0
    max_s: float = 120.0


class Mqtt(NamedTuple):
    """The broker and how to hold a line to it. `aws_limits` is `limits` resolved against the host."""

    host: str
    port: int = 8883
    keepalive_s: int = 60
    clean_session: bool = False
    spread_s: float = 0.0
    aws_limits: bool = False
    tls: Tls | None = None
    backoff: Backoff = Backoff()


class Presence(NamedTuple):
    """The will, and its living counterpart on the same topic."""

    topic: str
    retain: bool = True
    qos: int = 1


class Publish(NamedTuple):
    """One scheduled message. `offline` is queue, latest or drop."""

    topic: str
    every_s: float
    payload: Mapping[str, Json]
    retain: bool = True
    qos: int = 1
    offline: str = "queue"


class Subscription(NamedTuple):
    """One topic filter whose messages are logged."""

    filter: str
    qos: int = 1


class UnitActive(NamedTuple):
    """A systemd unit is active."""

    unit: str
    kind: str = "unit"


class ProcessRuns(NamedTuple):
    """A process of this name runs, as `ps -o comm` shows it; a name beyond 15 characters is compared in full."""

    process: str
    kind: str = "process"


class PortAnswers(NamedTuple):
    """A TCP connection can be made."""

    host: str
    port: int
    kind: str = "port"


class FileFresh(NamedTuple):
    """A file was written no longer ago than this."""

    path: str
    max_age_s: float
    kind: str = "file"


class CommandPasses(NamedTuple):
    """A command exits with 0; its arguments, no shell."""

    command: tuple[str, ...]
    kind: str = "command"


class DiskHasRoom(NamedTuple):
    """The file system that holds `path` has this much room for those who are not root."""

    path: str
    min_free_bytes: int
    kind: str = "disk"


class TemperatureBelow(NamedTuple):
    """The processor is no hotter than this."""

    max_celsius: float
    kind: str = "temperature"


class NotThrottled(NamedTuple):
    """The Pi's firmware neither lacks voltage nor holds the processor back."""

    kind: str = "throttled"


class GatewayAnswers(NamedTuple):
    """The default gateway is there."""

    kind: str = "gateway"


# Their `kind` keeps two apart that have the same values otherwise: named tuples are equal across types.
Probe = (UnitActive | ProcessRuns | PortAnswers | FileFresh | CommandPasses | DiskHasRoom | TemperatureBelow
         | NotThrottled | GatewayAnswers)


class Check(NamedTuple):
    """One thing that is watched; two shadows with an equal check share its results."""

    name: str
    probe: Probe
    every_s: float = 30.0
    timeout_s: float = 5.0


class Run(NamedTuple):
    """What is desired is done by a command: its arguments, `{value}` in one of them, no shell."""

    command: tuple[str, ...]
    timeout_s: float = 30.0


class Set(NamedTuple):
    """What is desired becomes the value of one of iotd's settings, such as `publish[0].every`."""

    setting: str


Action = Run | Set


class Shadow(NamedTuple):
    """One shadow of the thing; `name` is None for the classic one. `files`: other programs join it by files."""

    name: str | None = None
    every_s: float = 30.0
    desired: Mapping[str, Json] = {}
    reported: Mapping[str, Json] = {}
    healthy: str = "ヨシッ👉"
    unhealthy: str = "ダメ🙅"
    checks: tuple[Check, ...] = ()
    on_delta: Mapping[str, Action] = {}
    files: bool = False


class RebootBudget(NamedTuple):
    """How often a reboot may be asked for, and never before the host has been up for `min_uptime_s`."""

    max_per_day: int = 3
    min_uptime_s: float = 600.0


class Wifi(NamedTuple):
    """The watched interface. `essid` empty: any association is right. `recover` empty: only report."""

    interface: str = "wlan0"
    essid: tuple[str, ...] = ()
    every_s: float = 10.0
    grace_s: float = 120.0
    recover: tuple[str, ...] = ("reconnect", "restart-network", "reboot")
    reboot: RebootBudget = RebootBudget()


class Spool(NamedTuple):
    """The bounds of what waits for its PUBACK. `strict` commits to disk before anything is sent."""

    strict: bool = False
    max_bytes: int = 64 * 1024 * 1024
    max_age_s: float = 7 * 86400.0


class Log(NamedTuple):
    """`level` is debug, info, warning or error; `format` json or text."""

    level: str = "info"
    format: str = "json"


class Settings(NamedTuple):
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


class Checked(NamedTuple):
    """Settings that can be used, and what is not right about them all the same."""

    settings: Settings
    warnings: tuple[str, ...]
