"""The simulation: the real kernel and its parts on a simulated clock, disk, network and cloud.

Whatever takes time is an event on one schedule. The main loop's own wait runs that schedule on, so that a day costs
what happens in it, and no thread, no sleep and no socket is used.
"""

from __future__ import annotations

import io
import json
import random
import traceback
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, cast

from iotd.config.parse import parse
from iotd.config.settings import Checked
from iotd.daemon.configuration import ACCEPTED
from iotd.daemon.daemon import Daemon
from iotd.daemon.inbox import Inbox
from iotd.daemon.world import Places, World
from iotd.errors import ConfigError
from iotd.host.identity import Identity, given
from iotd.host.periodic import Periodic
from iotd.host.systemd import Systemd
from iotd.host.tasks import Tasks
from iotd.mqtt.session import Session
from iotd.outgoing.part import Adapters as OutgoingAdapters
from iotd.vocabulary import Json, Signalled
from tests.sim.account import Account
from tests.sim.clock import Clock, Died, Schedule, SimulatedInbox
from tests.sim.cloud import SimulatedBroker
from tests.sim.device import Air, SimulatedDoor, SimulatedLooks, SimulatedSystemd, SimulatedTasks
from tests.sim.disk import (
    RUNTIME, STATE, SimulatedDisk, SimulatedFiles, SimulatedLineFile, SimulatedSpoolDisk,
)
from tests.sim.jobs import SimulatedJobs
from tests.sim.programs import Programs
from tests.sim.session import LATENCY_S, Network, SimulatedSession
from tests.sim.watching import Watching
from tests.sim.wishes import Wishes

BOOT_S = 30.0
RESTART_S = 5.0  # RestartSec of the unit
STOP_S = 30.0  # TimeoutStopSec
SIGHUP, SIGTERM = 1, 15
LAYER = "# /etc/iotd.d/50-fleet.yaml"  # above it the text of the file, below that of the one that lies on it
NONSENSE = (None, b"", b"\xff\xfe", b"nan", b"1e400", b"null", b"[" * 3000, b"[" * 40 + b"]" * 40, b"x" * 70_000,
            b'{"at": []}', b"-", b'{"at": NaN}')  # what a file or a command may say


class Simulation:
    """One device with its configuration, and everything around it. `judge` is told of all that happens.

    `chance` is all the chance there is in it, by the seed. Without a judge it is a test's: then all that the broker
    took is kept, checks are made for real, a bug is the test's to see, and `command` runs what an order asks for: it is
    given the key and the value, and returns how long it takes and why it failed.
    """

    def __init__(self, configuration: str, seed: int = 0, hostname: str = "pi", judge: Watching | None = None,
                 log: io.StringIO | None = None, overlay: bool = False) -> None:
        self.judge = judge or Watching()
        self.judged = judge is not None
        self.schedule = Schedule()
        self.clock = Clock(self.schedule)
        self.chance = random.Random(seed).random
        self.disk = SimulatedDisk(overlay)
        self.disk.chance, self.disk.now = self.chance, lambda: self.schedule.now
        self.disk.kept, self.disk.lost = self.judge.kept, self.judge.lost
        self.network = Network(self)
        self.air = Air(self)
        self.broker = SimulatedBroker(self, keep_seen=not self.judged)
        self.jobs = SimulatedJobs(self)
        self.account = Account(self)
        self.connected: SimulatedSession | None = None
        self.connected_at = 0.0
        self.boots = 0
        self.runs = 0
        self.dropped: Counter[str] = Counter()  # by topic, as all runs that have ended told it
        self.log = log if log is not None else io.StringIO()
        self.identity = Identity(hostname, "0" * 32)
        self.configuration = configuration
        self.configurations = [configuration]  # what reloads may bring
        self.wishes = Wishes(self)
        self.programs = Programs(self)
        self.command: Callable[[str, Json], tuple[float, str]] = lambda key, value: (LATENCY_S, "")
        self.other_route_fault: type[Exception] | None = None
        self.takes_s: dict[Hashable, float] = {}  # of a value or a topic: how long what is done for it takes
        self.readings: list[tuple[str, float]] = []  # which value was read, and when that had ended
        self.measured: dict[str, bytes | str] = {}  # of a value: what its file or command says, or why it does not
        self.notices = 0
        self.calm = False  # nothing is wrong and nothing is about to be: what would only repeat itself is left out
        self.daemon: Daemon | None = None
        self.session: SimulatedSession | None = None
        self.tasks: SimulatedTasks | None = None
        self.systemd = SimulatedSystemd(self)
        self._inbox = SimulatedInbox(self.schedule)
        self._restarts = 0
        self.judge.begin(self)

    @property
    def network_is_up(self) -> bool:
        """Whether the broker can be reached."""
        return self.network.passes

    @network_is_up.setter
    def network_is_up(self, up: bool) -> None:
        self.network.changes(up)

    @property
    def ssid(self) -> bytes | None:
        """The network that the device is associated with."""
        return self.air.ssid

    @ssid.setter
    def ssid(self, ssid: bytes | None) -> None:
        self.air.ssid = ssid
        if self.air.looks is not None:
            self.air.looks.stir()

    def start(self) -> None:
        """Start the process, as systemd does."""
        if self.daemon is not None:
            return
        self.runs += 1
        try:
            world = self._world()
            self.daemon = Daemon(self._load_or_last(), self._load_or_last, world)
            self.judge.started(self.daemon)
            self.daemon.start()
        except Died:
            self._died()
        except ConfigError:  # it ends with 78, and is started again when the file is mended
            if not self.judged:
                raise
        except Exception:
            self._failed()

    def run(self, for_s: float) -> None:
        """Let so many seconds pass."""
        schedule, end = self.schedule, self.schedule.now + for_s
        while schedule.now < end:
            daemon = self.daemon
            if daemon is None:
                if schedule.next_at() > end:
                    schedule.now = end
                else:
                    schedule.step()
                continue
            self._inbox.until = end
            try:
                daemon.turn()
                if daemon.exit_status is not None:
                    self._close(daemon)
            except Died:
                self._died()
            except Exception:
                self._failed()

    def kill(self) -> None:
        """Kill the process (SIGKILL): nothing of it happens any more, and the broker loses its line."""
        if self.daemon is None:
            return
        self._note_drops()
        self.judge.ended(killed=True)
        if self.session is not None:
            if self.network.passes:
                self.session.lose("reset")
            self.session.gone = True
        self._inbox.gone = True
        self.daemon = None

    def stop(self) -> None:
        """Ask it to end (SIGTERM), and wait for that."""
        assert self.daemon is not None
        self.daemon.post(Signalled(SIGTERM))
        end = self.schedule.now + STOP_S
        while self.daemon is not None and self.schedule.now < end:
            self.run(0.5)

    def restart(self, after_s: float = RESTART_S) -> None:
        """Have the process started in a while, unless something else comes first."""
        self._restarts += 1
        number = self._restarts
        self.schedule.after(after_s, lambda: self.start() if number == self._restarts else None)

    def reboot(self, orderly: bool, for_s: float = BOOT_S) -> None:
        """The host goes down and comes up again: in good order, or since the power fails for a while."""
        if not orderly:
            return self._go_down(False, for_s)
        if self.daemon is not None:
            self.daemon.post(Signalled(SIGTERM))
        self._restarts += 1  # whoever was to start it does not any more
        self._stop_until(self.schedule.now + STOP_S, for_s)

    def _stop_until(self, deadline: float, for_s: float) -> None:
        """Go down once the process has ended, or by the deadline."""
        if self.daemon is None or self.schedule.now >= deadline:
            self._go_down(True, for_s)
        else:
            self.schedule.after(0.5, lambda: self._stop_until(deadline, for_s))

    def cut_line(self) -> None:
        """Take the network away: a line that is up is lost, and none comes up."""
        if self.session is not None:
            self.session.lose("silent")
        self.network.passes = False

    def entries(self, event: str) -> list[dict[str, Any]]:
        """Return what was logged under this event, where the log is kept as text."""
        return [entry for entry in map(json.loads, self.log.getvalue().split("\n")[:-1]) if entry["event"] == event]

    def drops(self) -> Counter[str]:
        """Return how many messages of each topic were dropped so far, as all runs have told it."""
        return self.dropped + self._drops_of_this_run()

    def requested(self, verb: str, body: dict[str, object]) -> None:
        """A helper is asked for something, for a job or to recover."""
        if "job" in body:
            return self.jobs.requested(verb, body)
        self.judge.requested(verb)
        self.air.recover(verb)

    def _go_down(self, orderly: bool, for_s: float) -> None:
        inbox = self._inbox  # where this happens in the midst of its turn, the process ends there
        self.kill()
        inbox.gone = True
        self.judge.going_down(orderly)
        self.disk.reboot() if orderly else self.disk.cut()
        self.boots += 1
        self.clock.boot(remembers=orderly or self.chance() < 0.5)
        self.judge.rebooted()
        self.air.booted(for_s)
        self.restart(for_s)

    def _close(self, daemon: Daemon) -> None:
        daemon.close(daemon.exit_status or 0)
        self._note_drops()
        self.judge.ended(killed=False)
        if self.session is not None:
            self.session.gone = True
        self.daemon = None
        if daemon.exit_status:
            self.restart()

    def _failed(self) -> None:
        """A bug: the process ends with its traceback, and systemd starts it again."""
        if not self.judged:
            raise
        self.judge.failed(traceback.format_exc())
        self.kill()
        self.restart()

    def _died(self) -> None:
        if self.disk.dying:  # only now: what it was in the midst of is unwound
            self.disk.dying = False
            self.judge.cut_off()
            self.disk.dies()

    def _note_drops(self) -> None:
        self.dropped.update(self._drops_of_this_run())

    def _drops_of_this_run(self) -> Counter[str]:
        parts = self.daemon._parts if self.daemon is not None else []
        return sum((Counter(part.status().get("dropped")) for part in parts), Counter())

    def _load(self) -> Checked:
        return self._checked(self.configuration)

    def _load_or_last(self) -> Checked:
        """Return what the file says, or what the last one said that was accepted, as `iotd run` does."""
        try:
            return self._load()
        except ConfigError as error:
            last = self.disk.content.get(str(STATE / ACCEPTED))
            if last is None:
                raise
            return self._checked(last.decode())._replace(refused=tuple(error.lines()))

    def _checked(self, text: str) -> Checked:
        known = given(SimulatedFiles(self.disk, self.requested), STATE)
        if known is not None and not self._is_pair(known.cert, known.key):
            known = None
        base, *above = text.split(LAYER)
        loaded = parse(
            base, "iotd.yaml", self.identity, above=[("50-fleet.yaml", layer) for layer in above], given=known)
        return Checked(loaded.settings, (), loaded.text)

    def _is_pair(self, cert: str, key: str) -> bool:
        """Tell whether the certificate is the key's; its first word says whose it is."""
        return self.disk.content.get(cert, b"").split(b" ")[0] == self.disk.content.get(key)

    def _world(self) -> World:
        self._inbox = SimulatedInbox(self.schedule)
        disk, clock, bits = self.disk, self.clock, random.Random(self.chance())

        def session(post: Callable[[Any], None], backlog: Callable[[], int]) -> Session:
            self.session = SimulatedSession(self, post)
            return cast(Session, self.session)

        def tasks(post: Callable[[Any], None]) -> Tasks:
            self.tasks = SimulatedTasks(self, post, self._inbox)
            return cast(Tasks, self.tasks)

        return World(
            monotonic=clock.monotonic, wall=clock.wall, wall_is_set=lambda: clock.is_set, uptime=clock.monotonic,
            chance=self.chance, new_id=lambda: f"{bits.getrandbits(64):016x}", identity=self.identity,
            boot_id=f"boot-{self.boots}", pid=1, under_journald=False, places=Places(STATE, RUNTIME),
            files=SimulatedFiles(disk, self.requested), systemd=cast(Systemd, self.systemd),
            inbox=cast(Inbox, self._inbox), session=session, tasks=tasks,
            periodic=lambda post: cast(Periodic, SimulatedLooks(self, post, self._inbox)),
            catch_signals=lambda take: None, log_to=self.log, adapters=self._adapters())

    def _adapters(self) -> dict[str, Any]:
        adapters: dict[str, Any] = {"outgoing": OutgoingAdapters(
            lambda path: SimulatedLineFile(self.disk, path), lambda path: SimulatedSpoolDisk(self.disk, path)),
            "local": lambda post, runtime: SimulatedDoor(self, post)}
        if any("wifi" in text for text in self.configurations):  # without the section not even the wing is imported
            from iotd.wifi.part import Adapters as WifiAdapters

            adapters["wifi"] = WifiAdapters(self.air.look, self._other_route, lambda directory: self.disk.overlay)
        if any("values:" in text for text in self.configurations):
            from iotd.values.part import Adapters as ValuesAdapters

            adapters["values"] = ValuesAdapters(self._measure)
        if any("files: true" in text for text in self.configurations):
            from tests.sim.folder import SimulatedFolder

            adapters["shadows"] = lambda runtime: SimulatedFolder(self.disk, runtime)
        if any("jobs:" in text for text in self.configurations):
            adapters["jobs"] = self.jobs.adapters()
        if any("provision:" in text for text in self.configurations):
            adapters["provision"] = self.account.adapters()
        return adapters

    def measure(self) -> int:
        """Return what there is to be measured now: how many minutes have passed."""
        return int(self.schedule.now / 60.0)

    def _measure(self, value: Any, stop: int | None) -> Any:
        from iotd.values.reading import Reading, of_bytes

        if self.judged:
            return self._measure_by_moods(value)
        found = self.measured.get(value.name, "there is no such file")
        self.readings.append((value.name, self.schedule.now))
        return of_bytes(value, found) if isinstance(found, bytes) else Reading(value, None, found)

    def _measure_by_moods(self, value: Any) -> Any:
        from iotd.values.reading import Reading, of_bytes

        if self.air.moods["values fail"] and self.chance() < 0.7:
            content = NONSENSE[int(self.chance() * len(NONSENSE))]
            return Reading(value, None, "it cannot be read") if content is None else of_bytes(value, content)
        content = b"%d" % (self.measure() * (2 if value.is_scaled else 1))
        if self.air.moods["values are long"] and value.form == "text":
            content += b"#" + b"x" * 15_000
        return of_bytes(value, b'{"at": [%s]}' % content if value.form == "json" else content)

    def _other_route(self, interface: str) -> bool:
        if self.other_route_fault is not None:
            raise self.other_route_fault("a bug")
        return self.air.other_route
