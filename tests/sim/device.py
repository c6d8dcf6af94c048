"""The rest of the host: commands and checks, the Wi-Fi and whoever recovers it, and systemd."""

from __future__ import annotations

import os
import traceback
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.sim.clock import SimulatedInbox
from tests.sim.session import LATENCY_S

if TYPE_CHECKING:
    from iotd.wifi.reading import Reading
    from tests.sim.world import Simulation

FEED_S, CALM_FEED_S = 60.0, 7200.0
RIGHT_LOOKS_S = 7200.0  # in a life, while the Wi-Fi is right: the looks between would see the same
TIME_SERVICE_S = 20.0  # from the network to a clock that is set


class SimulatedTasks:
    """Commands, checks and readings. In a life that is judged how they end is chance's, in a test they are made for
    real. What a wing has done in the background is known by the first word of its key.
    """

    def __init__(self, simulation: Simulation, post: Callable[[Any], None], inbox: SimulatedInbox) -> None:
        self._simulation = simulation
        self._post = post
        self._inbox = inbox
        self._running: set[Hashable] = set()

    def start(self, key: Hashable, work: Callable[[int], Any], failed: Callable[[str], Any]) -> bool:
        """Begin the work; False while the last one under this key has not ended."""
        assert isinstance(work, partial)
        if key in self._running:
            return False
        self._running.add(key)
        if isinstance(key, tuple) and key[0] in ("job", "provision"):
            takes_s = self._simulation.jobs.begin(key[1]) if key[0] == "job" else LATENCY_S
            self._later(partial(self._do, key, work, failed), takes_s)
            return True
        if not self._simulation.judged and isinstance(key, tuple) and key[0] == "order":
            from iotd.shadows.findings import Performed  # a device without shadows does not even import them

            _, shadow, name = key
            took_s, reason = self._simulation.command(name, work.args[-1])
            self._later(lambda: self._end(key, Performed(shadow, name, reason)), took_s)
            return True
        if not self._simulation.judged:
            about = key[1] if isinstance(key, tuple) else key
            self._later(partial(self._do, key, work, failed), self._simulation.takes_s.get(about, LATENCY_S))
            return True
        kinds = {"order": self._perform, "message": self._handle, "value": self._read}
        kinds.get(key[0] if type(key) is tuple else "", self._make)(key, work)
        return True

    def close(self, limit_s: float) -> None:
        """What runs is killed."""
        self._running.clear()

    cancel = close

    def _do(self, key: Hashable, work: Callable[[int], Any], failed: Callable[[str], Any]) -> None:
        never = os.eventfd(0)  # type: ignore[attr-defined]
        try:
            event = work(never)
        except Exception:
            event = failed(traceback.format_exc())
        finally:
            os.close(never)
        self._end(key, event)

    def _read(self, key: Any, work: partial[Any]) -> None:
        hangs = self._simulation.air.moods["values hang"] > 0
        takes_s = (20.0 if hangs else 0.1) * self._simulation.chance()
        self._later(lambda: self._end(key, work(-1)), takes_s)

    def _handle(self, key: Any, work: partial[Any]) -> None:
        from iotd.incoming.handled import Handled

        simulation, (name, order) = self._simulation, work.args
        simulation.judge.handling(name, order.payload)
        fails = simulation.air.moods["commands fail"] > 0 and simulation.chance() < 0.7

        def end() -> None:
            simulation.judge.handled(name)
            self._end(key, Handled(name, order.topic, "it ended with status 1" if fails else ""))

        self._later(end, simulation.chance() * (order.timeout_s if simulation.air.moods["commands are slow"] else 0.5))

    def _perform(self, key: Any, work: partial[Any]) -> None:
        from iotd.shadows.findings import Performed

        simulation, (shadow, name, action, value) = self._simulation, work.args
        simulation.judge.performed(shadow, name, value)
        fails = simulation.air.moods["commands fail"] > 0 and simulation.chance() < 0.7
        takes_s = simulation.chance() * (action.timeout_s if simulation.air.moods["commands are slow"] else 0.5)
        reason = "it ended with status 1" if fails else ""

        def end() -> None:
            if not reason:
                simulation.judge.performed_well(shadow, name, value)
            self._end(key, Performed(shadow, name, reason))

        self._later(end, takes_s)

    def _make(self, key: Any, work: partial[Any]) -> None:
        from iotd.shadows.findings import CheckResult, Outcome

        simulation, (check,) = self._simulation, work.args
        bad, hang = simulation.air.moods["checks fail"] > 0, simulation.air.moods["checks hang"] > 0
        takes_s = (200.0 if hang else 0.1) * simulation.chance()

        def end() -> None:
            now = simulation.clock.monotonic()
            outcome: Outcome = "unknown" if hang else "bad" if bad else "good"
            self._end(key, CheckResult(check, outcome, None, "" if outcome == "good" else "as the seed has it", now))

        self._later(end, takes_s)

    def _end(self, key: Hashable, event: Any) -> None:
        self._running.discard(key)
        self._post(event)

    def _later(self, do: Callable[[], None], delay_s: float) -> None:
        self._simulation.schedule.after(delay_s, lambda: None if self._inbox.gone else do())


class SimulatedLooks:
    """Looks at their intervals, without a thread. `hung` is set while one does not come back."""

    def __init__(self, simulation: Simulation, post: Callable[[Any], None], inbox: SimulatedInbox) -> None:
        self._simulation = simulation
        self._post = post
        self._inbox = inbox
        self._round = 0
        self._looks: dict[Any, tuple[float, Callable[[], Any]]] = {}
        simulation.air.looks = self

    def start(self) -> None:
        """Nothing is to be started."""

    def look(self, looks: Mapping[Any, tuple[float, Callable[[], Any]]]) -> None:
        """Make these looks from now on: a new one at once, a known one at its time."""
        if {key: every_s for key, (every_s, _) in looks.items()} != {
                key: every_s for key, (every_s, _) in self._looks.items()}:
            self._round += 1
            for every_s, look in looks.values():
                self._look(self._round, every_s, look)
        self._looks = dict(looks)

    def stir(self) -> None:
        """What is to be seen may have changed: make the looks that were left out from now on."""
        self._round += 1
        for every_s, look in self._looks.values():
            self._later(self._simulation.chance() * every_s, every_s, look)

    def close(self) -> None:
        """Look no more."""
        self._round += 1

    def alive(self, now: float) -> bool:
        """Tell whether it keeps its deadlines."""
        return not self._simulation.air.moods["looks hang"]

    def _look(self, of_round: int, every_s: float, look: Callable[[], Any]) -> None:
        if of_round != self._round or self._inbox.gone:
            return
        if not self._simulation.air.moods["looks hang"]:
            reading = look()
            self._simulation.judge.looked(reading)
            self._post(reading)
        if self._simulation.judged and self._simulation.air.is_right:
            self._later(max(every_s, RIGHT_LOOKS_S), every_s, look)
        else:
            self._later((2 if self._simulation.calm else 1) * every_s, every_s, look)  # what recovery counts as whole

    def _later(self, delay_s: float, every_s: float, look: Callable[[], Any]) -> None:
        of_round = self._round
        self._simulation.schedule.after(delay_s, lambda: self._look(of_round, every_s, look))


class SimulatedDoor:
    """The door of the programs, which opens or does not for a whole run. In a test none comes but what it posts."""

    def __init__(self, simulation: Simulation, post: Callable[[Any], None]) -> None:
        self._simulation = simulation
        self.problem = "the socket cannot be made" if simulation.air.moods["door is shut"] else ""
        if self.problem:
            simulation.programs.shut_out()
        else:
            simulation.programs.connect(post)

    def order(self, order: Any) -> None:
        """Pass it on."""
        self._simulation.programs.order(order)

    def alive(self, now: float) -> bool:
        """Tell that it is."""
        return True

    def close(self, limit_s: float) -> None:
        """Nothing is open."""


class SimulatedSystemd:
    """What systemd is told. While all is calm its watchdog is patient: a feed in so many would tell it the same."""

    def __init__(self, simulation: Simulation) -> None:
        self.is_ready = False
        self._simulation = simulation

    @property
    def feed_every_s(self) -> float:
        """A quarter of the watchdog's time."""
        return CALM_FEED_S if self._simulation.calm else FEED_S

    def ready(self) -> None:
        """Take READY=1."""
        self.is_ready = True

    def stopping(self) -> None:
        """Take STOPPING=1."""

    def status(self, sentence: str) -> None:
        """Take STATUS=."""

    def feed(self) -> None:
        """Take WATCHDOG=1."""
        self._simulation.judge.fed()


class Air:
    """The Wi-Fi of the device, its clock's time service, and the helper that recovers.

    `wrong` are the faults that the access point has now: gone, other, absent, unknown. `stuck` is the step that alone
    brings a driver back that hangs. `moods` counts the faults of programs, looks and the helper.
    """

    def __init__(self, simulation: Simulation) -> None:
        self.ssid: bytes | None = b"fleet-ap"
        self.wrong: list[str] = []
        self.stuck = ""
        self.other_route = False
        self.moods: Counter[str] = Counter()
        self.looks: SimulatedLooks | None = None
        self._simulation = simulation

    @property
    def is_right(self) -> bool:
        """Whether the device is associated as it should be."""
        return not self.wrong and not self.stuck and self.ssid == b"fleet-ap" and not self.moods["looks hang"]

    def look(self, interface: str) -> Reading:
        """Return what a look sees."""
        from iotd.wifi.reading import Reading

        if "unknown" in self.wrong:
            return Reading(interface, "unknown", reason="the kernel does not answer")
        if "absent" in self.wrong:
            return Reading(interface, "absent", reason=f"there is no {interface}")
        if "gone" in self.wrong or self.stuck or self.ssid is None:
            return Reading(interface, "disconnected", reason=f"{interface} is not associated")
        return Reading(interface, "associated", b"other" if "other" in self.wrong else self.ssid)

    def carries(self) -> bool:
        """Tell whether the Wi-Fi leads out."""
        return not self.stuck and not {"gone", "absent"}.intersection(self.wrong)

    def changed(self) -> None:
        """Have the network follow what the Wi-Fi does, unless something else leads out."""
        moods = self.moods
        self._simulation.network.changes((self.carries() or self.other_route) and not moods["network is down"])
        if self.looks is not None:
            self.looks.stir()

    def recover(self, verb: str) -> None:
        """The helper carries a request out, where it does what it should."""
        self._simulation.disk.content.pop(f"/runtime/recover/{verb}", None)
        if self.moods["helper does nothing"]:
            return
        if verb == "reboot":
            self._simulation.reboot(orderly=True)
        elif verb == self.stuck:
            self._simulation.schedule.after(5.0, self._unstick)

    def booted(self, for_s: float) -> None:
        """A boot brings every driver back, and a time service once there is a network."""
        self._unstick()
        self._simulation.schedule.after(for_s, self._ask_the_time)

    def _unstick(self) -> None:
        self.stuck = ""
        self.changed()

    def _ask_the_time(self) -> None:
        simulation = self._simulation
        if simulation.clock.is_set:
            return
        if simulation.network.passes and not self.moods["no time service"]:
            simulation.schedule.after(TIME_SERVICE_S, simulation.clock.set)
        else:
            simulation.schedule.after(60.0, self._ask_the_time)
