"""How this run is: told to systemd, whose watchdog is fed only where every thread lives, and written to status.json."""

from __future__ import annotations

from iotd import __version__
from iotd.config.settings import Settings
from iotd.daemon.configuration import Configuration
from iotd.daemon.fence import Fence
from iotd.daemon.line import Line
from iotd.daemon.outage import Outages
from iotd.daemon.part import Part
from iotd.daemon.retained import Ledger
from iotd.daemon.world import World
from iotd.host import log
from iotd.mqtt.session import Session
from iotd.vocabulary import HealthChanged, Json

BEAT_S = 15.0  # how often status.json is renewed where systemd's watchdog asks for nothing
SETTLED_S = 1.0  # after a change, until status.json is renewed: what came of it is told too


class Status:
    """What `iotd status` shows, and when it is told anew. A change of health is posted as HealthChanged."""

    def __init__(
        self, world: World, session: Session, settings: Settings, parts: list[Part], line: Line, fence: Fence,
        outages: Outages, ledger: Ledger, configuration: Configuration
    ) -> None:
        self.settings = settings
        self._world = world
        self._session = session
        self._parts = parts
        self._line = line
        self._fence = fence
        self._outages = outages
        self._ledger = ledger
        self._configuration = configuration
        self._file = world.places.runtime / "status.json"
        self._from = self._due_at = world.monotonic()  # due at the one, and no trouble at a turn from the other on
        self._stuck = ""
        self._healthy = False

    def next_due(self) -> float:
        """Return when it is to be told anew."""
        return self._due_at

    def keep(self, now: float) -> None:
        """Tell it anew where that is due, or nearly."""
        if now >= self._from:
            self.renew(now)

    def changed(self, now: float) -> None:
        """Have it told anew once what has changed just now has settled."""
        self._from = self._due_at = min(self._due_at, now + SETTLED_S)

    def told(self, now: float) -> dict[str, Json]:
        """Return what `iotd status` shows."""
        mqtt, up_since = self.settings.mqtt, self._line.up_since
        problems = [*filter(None, [self._configuration.problem()]), *self._line.problems(),
                    *self._fence.problems(self._parts, now),
                    *(problem for part in self._parts for problem in self._fence.ask(part, Part.problems))]
        status: dict[str, Json] = {
            "version": __version__, "pid": self._world.pid, "written_s": self._world.uptime(),
            "boot_id": self._world.boot_id, "thing": self.settings.thing, "host": mqtt.host, "port": mqtt.port,
            "connected": self._line.up, "for_s": None if up_since is None else round(now - up_since),
            "down": None if self._line.up else self._down(now), "contested": self._line.contested(),
            "healthy": not problems, "problems": problems,
            "configuration": {"problems": list(self._configuration.refused)}, "retained": self._ledger.status(),
        }
        for part in self._parts:
            status.update(self._fence.ask(part, Part.status))
        sentences = [sentence for part in self._parts for sentence in self._fence.ask(part, Part.sentences)]
        return {**status, "sentences": sentences + self._ledger.sentences()}

    def renew(self, now: float) -> None:
        """Tell it to systemd and write it to status.json."""
        systemd, every_s = self._world.systemd, self._world.systemd.feed_every_s or BEAT_S
        self._from, self._due_at = now + every_s / 2, now + every_s
        self._feed(now)
        status = self.told(now)
        if status["healthy"] != self._healthy:
            self._healthy = bool(status["healthy"])
            self._world.inbox.put(HealthChanged(self._healthy))
        self._write(status)
        mqtt = self.settings.mqtt
        line = (f"connected to {mqtt.host}:{mqtt.port}" if self._line.up else
                f"not connected to {mqtt.host}:{mqtt.port}: {self._line.down_reason}")
        doing = [self._fence.ask(part, Part.doing) for part in self._parts]
        systemd.status("; ".join(filter(None, (*doing, line, self._configuration.problem()))))

    def remove(self) -> None:
        """Remove status.json: this run is over."""
        self._world.files.remove(self._file)

    def _feed(self, now: float) -> None:
        names = ["" if self._session.alive(now) else "mqtt",
                 *(self._fence.ask(part, Part.stuck, now) for part in self._parts)]
        stuck = ", ".join(filter(None, names))
        if stuck and stuck != self._stuck:
            log.error("watchdog.withheld", f"the {stuck} thread is stuck; systemd will start iotd again",
                      reason=f"thread {stuck} is stuck")
        self._stuck = stuck
        if not stuck:
            self._world.systemd.feed()

    def _write(self, status: dict[str, Json]) -> None:
        self._world.files.keep(self._file, status, False, "status.unwritable",
                               "status.json cannot be written; iotd status will call it stale", mode=0o644)

    def _down(self, now: float) -> dict[str, Json]:
        """Return why there is no line, since when (epoch seconds; None for less than BEAT_S, and while nobody has set
        the clock), and when it is dialled next.
        """
        line, outage = self._line, self._outages.until(now, self._line.down_reason)
        # To ask whether the clock is set takes 1 MB and 3 ms the first time, which no start needs.
        wall = self._world.known_wall() if outage.for_s >= BEAT_S else None
        return {"for_s": outage.for_s, "since": None if wall is None else round(wall - outage.for_s),
                "cause": line.down_cause, "reason": line.down_reason, "layer": outage.layer,
                "retry_in_s": line.retry_in_s(now)}
