"""Turns of the main loop with a session that only notes what it is given, on a clock that the waiting moves on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from iotd.config.settings import Checked, Settings
from iotd.daemon.daemon import Daemon
from iotd.daemon.denial import QUIET_S, Suspicion
from iotd.daemon.inbox import Inbox
from iotd.daemon.opening import LOOK_S
from iotd.daemon.status import BEAT_S
from iotd.mqtt.session import Session
from iotd.outgoing.section import Publish
from iotd.outgoing.spool import SETTLE_S
from iotd.vocabulary import Dialled, Message
from tests.kernel import FakeKernel, Told, settings


class Waiting(Inbox):
    """An inbox whose reader's patience is spent at once, on the kernel's clock."""

    def __init__(self, clock: FakeKernel) -> None:
        super().__init__()
        self._clock = clock

    def take(self, timeout_s: float) -> list[Any]:
        found = super().take(0.0)
        if not found:
            self._clock.now += timeout_s
        return found


class Noted(Session):
    """A session without a thread or a broker."""

    def __init__(self, clock: FakeKernel) -> None:
        self.eager = self.lives = True
        self.did: list[tuple[float, str]] = []
        self._clock = clock

    def start(self) -> None:
        pass

    def go(self) -> None:
        pass

    def dial(self, dial: Any) -> None:
        pass

    def publish(self, line: int, token: int | None, message: Message) -> None:
        self.did.append((self._clock.now, f"publish to {message.topic}"))

    def subscribe(self, line: int, filters: list[tuple[str, int]]) -> None:
        self.did += [(self._clock.now, f"subscribe {name}") for name, _ in filters]

    def unsubscribe(self, line: int, filters: list[str]) -> None:
        assert filters == []

    def acknowledged(self, line: int) -> list[int]:
        return []

    def alive(self, now: float) -> bool:
        return self.lives

    def close(self, timeout_s: float, in_order: bool = True) -> bool:
        return True


def test_a_careful_line_takes_its_steps_once_it_has_been_quiet_though_nothing_happens(tmp_path: Path) -> None:
    clock = FakeKernel(tmp_path)
    session, inbox = Noted(clock), Waiting(clock)
    hourly: Settings = settings({"publish": (Publish("data", 3600.0, {}),)})
    world = clock.world._replace(inbox=inbox, session=lambda post, backlog: session)
    daemon = Daemon(Checked(hourly, ()), lambda: Checked(hourly, ()), world)
    daemon.start()
    daemon._line.opening.suspicion = Suspicion(falls=2, careful=True)
    while clock.now < 2 * SETTLE_S:  # else the spool has something to do when the line has been quiet
        daemon.turn()
    dialled_at = clock.now
    daemon.post(Dialled(1, True))
    while clock.now < dialled_at + 60.0:
        daemon.turn()
    daemon.close(0)
    presence = hourly.presence.topic
    # The message is not acknowledged: the step waits until the line is not going to end over it any more.
    assert [did for _, did in session.did] == [f"publish to {presence}", "publish to data", f"subscribe {presence}"]
    at = [round(at - dialled_at) for at, _ in session.did]
    assert at[:2] == [0, 0] and QUIET_S < at[2] <= QUIET_S + LOOK_S


def test_the_watchdog_is_fed_only_while_every_thread_lives_and_what_hangs_is_named_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock, told = FakeKernel(tmp_path), Told()
    session, inbox = Noted(clock), Waiting(clock)
    world = clock.world._replace(inbox=inbox, session=lambda post, backlog: session, systemd=told)
    daemon = Daemon(Checked(settings(), ()), lambda: Checked(settings(), ()), world)
    daemon.start()

    def fed_within(for_s: float) -> int:
        told.words.clear()
        end = clock.now + for_s
        while clock.now < end:
            daemon.turn()
        return told.words.count("WATCHDOG=1")

    assert fed_within(10 * BEAT_S) >= 10
    session.lives = False
    assert fed_within(10 * BEAT_S) == 0
    assert capsys.readouterr().out.count("watchdog.withheld") == 1
    session.lives = True
    assert fed_within(10 * BEAT_S) >= 10
    daemon.close(0)
