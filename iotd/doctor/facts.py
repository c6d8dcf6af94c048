"""What is known of each layer, as values that the rows can judge and the looks can fill; None is not seen."""

from collections.abc import Mapping
from typing import NamedTuple

from iotd.vocabulary import Json


OK, WARNING, FAILED, NOT_SEEN = "ok", "warning", "failed", "not seen"


class Configuration(NamedTuple):
    """What `iotd check` would print: each problem and each warning a line."""

    file: str
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Certificates(NamedTuple):
    """Problems of the files by key; when the certificate begins and ends (epoch seconds, None: cannot be told)."""

    problems: Mapping[str, str] = {}
    begins_at: float | None = None
    ends_at: float | None = None
    authority_ends_at: float | None = None


class Clock(NamedTuple):
    """The wall clock, whether a time service has set it (None: may not be asked), and when this iotd was built."""

    wall: float
    is_set: bool | None
    built_at: float


class Interface(NamedTuple):
    """The interface that is watched, or that leads out; `blocked` is rfkill's soft or hard, else empty.

    `state` is up, down (it is switched on and has no carrier), or off.
    """

    name: str
    exists: bool
    is_wifi: bool
    state: str = ""
    blocked: str = ""
    power_save: bool | None = None


class Association(NamedTuple):
    """The network that a Wi-Fi interface is associated with, and those that are right (none: any)."""

    outcome: str
    essid: str | None
    expected: tuple[str, ...]
    rssi_dbm: int | None
    reason: str


class Address(NamedTuple):
    """The addresses of the interface that are good for more than the link itself."""

    interface: str
    addresses: tuple[str, ...]


class Gateway(NamedTuple):
    """The best default route's gateway; `outcome` is good, bad or unknown, as a check of the gateway finds it."""

    address: str | None
    interface: str | None
    outcome: str
    reason: str


class Dns(NamedTuple):
    """What the name of the broker has become, by the name servers of the host (None: not known which)."""

    host: str
    addresses: tuple[str, ...]
    servers: tuple[str, ...] | None
    reason: str = ""


class Tcp(NamedTuple):
    """Whether an address took a connection on the broker's port, and what each of the others said."""

    port: int
    connected: str
    failures: Mapping[str, str] = {}


class Tls(NamedTuple):
    """How the handshake went: `cause` is empty, certificate, clock or tls; what the peer showed, where it did."""

    cause: str
    reason: str
    issuer: str = ""


class Mqtt(NamedTuple):
    """Whether the broker takes this device; `by` is who knows: the daemon, or this look."""

    connected: bool
    cause: str
    reason: str
    by: str
    contested: bool = False


class Policy(NamedTuple):
    """What the broker refuses to a device that it has let in."""

    denied: tuple[str, ...]


class Backlog(NamedTuple):
    """What waits for the broker, and what had to go."""

    waiting: int
    waiting_bytes: int
    dropped: int
    set_aside: int = 0


class Disk(NamedTuple):
    """The file system of the state directory, and what the spool says of it."""

    path: str
    free_bytes: int
    read_only: bool
    failures: tuple[str, ...] = ()


class Host(NamedTuple):
    """What makes a board unreliable: the firmware's bits, memory, and how some services are set up."""

    throttled: int | None
    memory_available: int | None
    journal_is_kept: bool | None
    autoconnect_retries: int | None
    runtime_watchdog: str | None


class Daemon(NamedTuple):
    """Whether iotd runs, the age of its status, and how often systemd had to start it again."""

    running: bool
    active: str
    result: str
    restarts: int
    status_age_s: float | None


class Facts(NamedTuple):
    """All layers."""

    configuration: Configuration | None = None
    certificates: Certificates | None = None
    clock: Clock | None = None
    interface: Interface | None = None
    association: Association | None = None
    address: Address | None = None
    gateway: Gateway | None = None
    dns: Dns | None = None
    tcp: Tcp | None = None
    tls: Tls | None = None
    mqtt: Mqtt | None = None
    policy: Policy | None = None
    backlog: Backlog | None = None
    disk: Disk | None = None
    host: Host | None = None
    daemon: Daemon | None = None


class Finding(NamedTuple):
    """What became of one layer: `level` is ok, warning, failed or not seen."""

    layer: str
    level: str
    finding: str
    fix: str = ""
    consequence_of: str | None = None

    def to_json(self) -> Json:
        """Return it as `iotd doctor --json` has it."""
        return self._asdict()
