"""A kernel for the tests of parts: it notes what a part asks for, on real files, with clocks that the test sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NoReturn

from iotd.config.settings import Presence, Settings
from iotd.daemon.inbox import Inbox
from iotd.daemon.outage import Outages
from iotd.daemon.world import Places, World
from iotd.host.files import Files
from iotd.host.identity import Identity
from iotd.host.periodic import Look, Periodic
from iotd.host.systemd import Systemd
from iotd.host.tasks import Tasks
from iotd.local.section import Local
from iotd.mqtt.settings import Mqtt
from iotd.outgoing.section import Bounds
from iotd.vocabulary import Json, Message, Offer, Taken


class Looks(Periodic):
    """Looks that are made when the test says so, on its own thread; `looks` is what was ordered last."""

    def __init__(self, post: Callable[[Any], None]) -> None:
        super().__init__(post)
        self.looks: Mapping[Any, tuple[float, Look]] = {}
        self.started = self.closed = self.is_stuck = False

    def start(self) -> None:
        """Note that it was started."""
        self.started = True

    def look(self, looks: Mapping[Any, tuple[float, Look]]) -> None:
        """Note what is to be looked at from now on."""
        self.looks = looks

    def make(self) -> None:
        """Make each look once, and post what it saw."""
        for _, look in self.looks.values():
            self._post(look())

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True

    def alive(self, now: float) -> bool:
        """Tell whether it was started and not closed since; `is_stuck` is the test's."""
        return self.started and not self.closed and not self.is_stuck


class Told(Systemd):
    """What systemd would have been told, as `words`; its watchdog does not watch."""

    def __init__(self) -> None:
        self._notifier = self
        self._status = ""
        self.feed_every_s = None
        self.words: list[str] = []

    def notify(self, word: str) -> None:
        """Note the word."""
        self.words.append(word)


class FakeKernel:
    """A `Kernel` whose line is up where the test says so; the files lie in `path`, which may be an earlier boot's.

    `now` and `uptime` are the seconds of the clocks, `wall` is the wall clock, None while nobody has set it, `chance`
    what is drawn. `found` are the values of placeholders. What a part asks for is noted in the lists.
    """

    def __init__(self, path: Path, sections: Mapping[str, Any] | None = None, boot: str = "boot", now: float = 0.0,
                 uptime: float = 1000.0) -> None:
        self.now, self.uptime, self.chance = now, uptime, 0.5
        self.wall: float | None = None
        self.connected = self.clear = self.leaving = False
        self.run_id = "run"
        self.written = settings(sections)
        self.found: dict[str, Json] = {}
        self.posted: list[Any] = []
        self.sent: list[Message] = []
        self.retained: set[str] = set()
        self.awaited: list[Callable[[str], None]] = []
        self.to_clear: list[tuple[str | None, Callable[[list[str], str], None]]] = []
        self.handed: list[tuple[int, Message]] = []
        self.taken: list[int] = []  # the numbers that the broker has acknowledged, until they are asked for
        self.eager: bool | None = None
        self.went_past = (0, 0)
        self.offered: list[Offer] = []
        self.told: list[tuple[str, Json]] = []
        self.asked: list[str] = []
        self.full_until = 0.0
        self.open_filters: tuple[str, ...] = ()
        self.status_changes = 0
        self.shown: dict[str, Json] = {}
        self.reboots: list[tuple[str, Callable[[], None]]] = []
        self.looks: list[Looks] = []
        self._ids = 0
        places = Places(path / "state", path / "runtime")
        for place in places:
            place.mkdir(exist_ok=True)
        self.world = World(
            monotonic=lambda: self.now, wall=lambda: self.wall or 0.0, wall_is_set=lambda: self.wall is not None,
            uptime=lambda: self.uptime, chance=lambda: self.chance, new_id=self._new_id,
            identity=Identity("test-host", "0123456789abcdef0123456789abcdef"), boot_id=boot, pid=4711,
            under_journald=False, places=places, files=Files(), systemd=Told(), inbox=Inbox(), session=_no_session,
            tasks=Tasks, periodic=self._new_looks, catch_signals=lambda take: None)
        self.outages = Outages(places.state, self.world.files, boot, self.world.uptime, now)

    def rise(self) -> None:
        """The line is up, and messages may go out; what was acknowledged on an earlier one counts no more."""
        if not self.connected:
            self.taken.clear()
        self.connected = self.clear = True

    def fall(self) -> None:
        """The line is down."""
        self.connected = self.clear = False

    def post(self, event: Any) -> None:
        """Note the event."""
        self.posted.append(event)

    def send(self, message: Message, then: Callable[[str], None] | None = None) -> None:
        """Note the message, and who waits for its acknowledgement."""
        self.sent.append(message)
        if then is not None:
            self.awaited.append(then)

    def hand_over(self, messages: Sequence[tuple[int, Message]]) -> None:
        """Note the messages and their numbers."""
        self.handed += messages

    def acknowledged(self, eager: bool | None = None) -> list[int]:
        """Return what is `taken`, once."""
        self.eager = self.eager if eager is None else eager
        taken, self.taken = self.taken, []
        return taken

    def passed(self) -> tuple[int, int]:
        """Return what `went_past`, once."""
        passed, self.went_past = self.went_past, (0, 0)
        return passed

    def values(self, names: Iterable[str]) -> dict[str, Json]:
        """Return what is `found`, None for what is not."""
        return {name: self.found.get(name) for name in names}

    def status(self) -> dict[str, Json]:
        """Return what is `shown`, with whether there is a line."""
        return {"connected": self.connected, **self.shown}

    def about(self) -> dict[str, Json]:
        """Return nothing."""
        return {}

    def gather(self, names: Iterable[str], then: Callable[[dict[str, Json]], None]) -> None:
        """Give what is `found`, at once."""
        then(self.values(names))

    def publish(self, offers: Sequence[Offer], now: float) -> list[Taken]:
        """Note what is offered; all of it is kept."""
        self.offered += offers
        return [Taken(number) for number in range(len(self.offered) - len(offers) + 1, len(self.offered) + 1)]

    def crowded_until(self, now: float) -> float:
        """Return what the test says."""
        return self.full_until

    def tell(self, name: str, value: Json, now: float) -> str:
        """Note the value, and take it, where it is `known`."""
        self.told.append((name, value))
        return "" if name == "known" else "there is no such value"

    def ask(self, word: str, now: float) -> str:
        """Note the word, and do it where it is `known`."""
        self.asked.append(word)
        return "" if word == "known" else "nothing here does that"

    def shared(self) -> tuple[str, ...]:
        """Return the `open_filters`."""
        return self.open_filters

    def is_retained(self, topic: str) -> bool:
        """Tell what the test says."""
        return topic in self.retained

    def clear_retained(self, topic: str | None, then: Callable[[list[str], str], None]) -> None:
        """Note it; to answer is the test's."""
        self.to_clear.append((topic, then))

    def status_changed(self) -> None:
        """Count it."""
        self.status_changes += 1

    def reboot(self, reason: str, ask: Callable[[], None]) -> None:
        """Note it, unless the last word is being said; to go down is the test's."""
        if not self.leaving:
            self.reboots.append((reason, ask))

    def _new_id(self) -> str:
        self._ids += 1
        return f"{self._ids:016x}"

    def _new_looks(self, post: Callable[[Any], None]) -> Looks:
        self.looks.append(Looks(post))
        return self.looks[-1]


class WaitingKernel(FakeKernel):
    """A kernel whose events a test can wait for: those that other threads post."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.events: SimpleQueue[Any] = SimpleQueue()

    def post(self, event: Any) -> None:
        """Take an event, on any thread."""
        self.events.put(event)


def settings(sections: Mapping[str, Any] | None = None, **mqtt: Any) -> Settings:
    """Return settings with these sections; what always stands there is as a file that is silent has it."""
    return Settings("test-thing", Mqtt("localhost", **mqtt), Presence("t/will"),
                    sections={"publish": (), "spool": Bounds(), "local": Local(), **(sections or {})})


def _no_session(post: Callable[[Any], None], backlog: Callable[[], int]) -> NoReturn:
    raise AssertionError("the session is the kernel's own: no part asks for one")
