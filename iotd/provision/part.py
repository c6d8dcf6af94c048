"""What the kernel drives of provisioning: it says when an attempt begins, and has the configuration read anew where the
device has become another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from iotd.config.settings import Settings
from iotd.daemon.part import Kernel, Part
from iotd.host import log
from iotd.provision import renewal
from iotd.provision.attempt import MAX_FAILURES, Failed
from iotd.provision.keeper import Keeper, problem_with
from iotd.provision.keys import Adapters
from iotd.provision.section import CREATE, Provision, answers
from iotd.provision.steps import Steps
from iotd.vocabulary import Json, Overridden, Received, Reread

ACTION = "provisioning"
ANOTHER = "who this device is has changed"

WORDS = ("renew", "provision", "provision again")
CONNECT_S = 10.0  # until it is said why there is no line for the claim
TRIAL_S = 60.0  # for a line with the new certificate
REREAD_S = 60.0  # a configuration that was refused is asked for again
LOOK_S = 600.0  # how often it is looked whether the certificate is due


def build(kernel: Kernel, adapters: Adapters | None) -> Provisioning:
    """Return the part."""
    return Provisioning(kernel, adapters or Adapters())


class Provisioning(Part):
    """The attempt under way, the identity on the disk, and when its certificate is renewed."""

    def __init__(self, kernel: Kernel, adapters: Adapters) -> None:
        world = kernel.world
        self._kernel = kernel
        self._world = world
        self._keeper = Keeper(world.files, world.places.state)
        self._keeper.tidy()
        self._steps = Steps(kernel, adapters, self._keeper, self._on_failed, self._on_become)
        self._settings = kernel.written
        self._connect_by = self._trial_until = self._reread_at = self._keep_at = math.inf
        self._unkept: tuple[Callable[[], None], Callable[[], None]] | None = None  # what to write, and what follows
        self._look_at = -math.inf
        self._spread = world.chance()
        self._ended = (0, "")  # how often a step, or all of it, has ended, and why not well
        self._ended_at = -math.inf

    # What is configured

    def apply(self, settings: Settings, now: float) -> None:
        """Go for an identity where the device has none; prove one that is new."""
        self._settings = self._steps.settings = settings
        if not settings.is_named:
            if self._steps.attempt is None and self._reread_at == math.inf:
                self._connect_by = now + CONNECT_S
                lost = self._keeper.thing if not self._keeper.again else ""
                self._steps.begin("", now, reason=f"the pair of {lost} here cannot be used" if lost else "")
            return self._wait_to_be_opened()
        if self._reread_at != math.inf:  # its line of the claim is over
            self._steps.attempt, self._reread_at = None, math.inf
        self._connect_by = math.inf
        if self._keeper.on_trial and self._unkept is None:
            self._trial_until = min(self._trial_until, now + TRIAL_S)
        elif self._steps.attempt is None and self._keeper.pending(self._steps.here(), now) is not None:
            self._steps.begin(settings.thing, now)
        self._look_at = min(self._look_at, now)
        self._wait_to_be_opened()

    def actions(self) -> Mapping[str, str]:
        """Return that the broker denies all of it as one."""
        return dict.fromkeys([*answers(self._section), CREATE, self._steps.register], ACTION)

    # The line

    def filters(self) -> Mapping[str, int]:
        """Return those of the answers, while there is something to ask."""
        return dict.fromkeys(answers(self._section), 1) if self._steps.attempt is not None else {}

    def opened(self, now: float, careful: bool, resting: Iterable[str]) -> None:
        """Ask for what is due."""
        self._connect_by = math.inf
        self._steps.opened(ACTION in resting, now)

    def closed(self, blamed: bool, now: float) -> None:
        """What was asked for is asked for again on the next line."""
        self._steps.closed(now)

    def welcomed(self, now: float) -> None:
        """The broker takes what the device says: a new identity is a good one."""
        if self._trial_until != math.inf and not self._kernel.leaving:
            self._trial_until = math.inf
            self._keep_in_the_end(self._keeper.prove, self._on_proven)

    def pending(self) -> list[str]:
        """Return that an answer is awaited."""
        attempt = self._steps.attempt
        return [ACTION] if attempt is not None and attempt.answer_by != math.inf else []

    def heard(self, received: Received, now: float) -> None:
        """Take an answer."""
        self._steps.heard(received, now)

    # Time, and what happens

    def handlers(self) -> Mapping[type, Callable[[Any, float], None]]:
        """Return who takes what openssl has made and found."""
        return self._steps.handlers()

    def next_due(self) -> float:
        """Return when something is due."""
        looks = self._settings.is_named and self._steps.attempt is None and self._trial_until == math.inf
        return min(self._steps.next_due(), self._connect_by, self._trial_until, self._reread_at, self._keep_at,
                   self._look_at if looks else math.inf)

    def keep(self, now: float) -> None:
        """Do what is due."""
        self._steps.keep(now)
        if now >= self._connect_by:
            self._connect_by = math.inf
            self._fail(Failed("connect", *self._line()))
            self._stop_where_in_vain()
        if now >= self._trial_until:
            self._go_back(now)
        if now >= self._keep_at and self._unkept is not None:
            self._keep_in_the_end(*self._unkept)
        if now >= self._reread_at:
            self._reread_at = now + REREAD_S
            self._kernel.post(Reread(ANOTHER))
        if now >= self._look_at and self._settings.is_named and self._steps.attempt is None:
            self._look_at = now + LOOK_S
            if self._trial_until == math.inf and self._is_due():
                self._renew(now)

    def close(self, now: float) -> None:
        """End what runs."""
        self._steps.close()

    # What a person asks for

    def asked(self, word: str, now: float) -> str | None:
        """Take the words of WORDS."""
        if word not in WORDS:
            return None
        if not self._settings.is_named and word == "renew":
            return "the device has no identity yet; iotd provision asks for one"
        if word == "renew" and not self._kernel.connected:
            return f"there is no line to ask on: {self._line()[0]}"
        if not self._settings.is_named and not self.is_open:
            self._connect_by = now + CONNECT_S
        if self._steps.attempt is not None:
            self._steps.hurry(now)
        elif word == "renew" and self._trial_until == math.inf:
            rests_s = renewal.rests_s(self._keeper.attempted, self._steps.here(), renewal.PAUSE_S)
            if rests_s:
                return f"it was tried less than an hour ago; again in {math.ceil(rests_s / 60)} min"
            self._renew(now)
        elif word == "provision again" and self._settings.is_named:
            if not self._kept(partial(self._keeper.use_claim, True)):
                return "the state directory cannot be written"
            self._kernel.post(Reread(ANOTHER))
        return ""

    # How it is

    def doing(self) -> str:
        """Return how far it is, while the device has no name or gets another certificate."""
        attempt = self._steps.attempt
        if self._trial_until != math.inf:
            return "provisioning: the new certificate is tried"
        if attempt is None:
            return "" if self._settings.is_named else "provisioning: connecting as the thing"
        what = "renewing the certificate" if attempt.thing else "provisioning"
        return f"{what}: {self._step()}" + (f", after {attempt.reason}" if attempt.reason else "")

    def status(self) -> dict[str, Json]:
        """Return what is kept, how far it is, and how often and how it has ended."""
        attempt = self._steps.attempt
        due_s = math.inf if attempt is None else attempt.ask_at - self._world.monotonic()
        return {"provision": {
            "thing": self._keeper.thing or None, "step": self._step() or None, "renew_at": self._renew_at(),
            "retry_in_s": None if due_s == math.inf else round(max(0.0, due_s), 1),
            "ended": self._ended[0], "reason": self._ended[1] or None}}

    def problems(self) -> list[str]:
        """Return why it has failed last: while it is tried, for an hour, and for as long as the certificate is due."""
        reason, idle = self._ended[1], self._steps.attempt is None and self._trial_until == math.inf
        if not self._settings.is_named:
            return [f"provisioning: {reason or 'the device has no identity yet'}"]
        if idle and renewal.tried_in_vain(self._keeper.attempted, self._renew_at()):
            return [f"the certificate is not renewed: {reason or 'it is due, and the last attempt has failed'}"]
        told = not idle or self._world.monotonic() < self._ended_at + renewal.PAUSE_S
        return [f"the certificate is not renewed: {reason}"] if reason and told else []

    def sentences(self) -> list[str]:
        """Return how far it is."""
        return list(filter(None, [self.doing()]))

    # What becomes of it

    def _wait_to_be_opened(self) -> None:
        """Have the kernel say when the answers of an attempt are subscribed; it asks for that next."""
        attempt = self._steps.attempt
        if attempt is not None and not attempt.is_open:
            self.is_open = False

    def _renew(self, now: float) -> None:
        if self._kept(partial(self._keeper.begin, self._steps.here())):
            self._steps.begin(self._settings.thing, now)

    def _on_become(self, now: float) -> None:
        if not self._settings.is_named:
            self._end("")
        self._reread_at = now + REREAD_S
        self._kernel.post(Reread(ANOTHER))

    def _on_failed(self, failure: Failed) -> None:
        self._fail(failure)
        self._stop_where_in_vain()

    def _stop_where_in_vain(self) -> None:
        """End an attempt for which nothing waits: the identity that is there does."""
        attempt = self._steps.attempt
        if attempt is not None and attempt.thing:
            if attempt.failures >= MAX_FAILURES:
                self._steps.give_up()
                self._kernel.post(Overridden())
        elif self._keeper.again:
            self._steps.give_up()
            self._keep_in_the_end(partial(self._keeper.use_claim, False), partial(self._kernel.post, Reread(ANOTHER)))

    def _on_proven(self) -> None:
        log.info("provision.renewed", "the line is up with the new certificate, and the old one is gone",
                 thing=self._keeper.thing)
        self._end("")

    def _go_back(self, now: float) -> None:
        """The new certificate brings no line up."""
        self._trial_until = math.inf
        self._fail(Failed("connect", f"the new certificate brings no line up: {self._line()[0]}; the old one is used "
                                     "again", renewal.PAUSE_S))
        if self._kept(self._keeper.fall_back):
            self._kernel.post(Reread(ANOTHER))
        else:  # unless a line comes up meanwhile
            self._trial_until = now + LOOK_S

    def _fail(self, failure: Failed) -> None:
        log.warning("provision.failed", f"provisioning: {failure.step}: {failure.reason}", **failure._asdict())
        self._end(f"{failure.step}: {failure.reason}")

    def _end(self, reason: str) -> None:
        self._ended, self._ended_at = (self._ended[0] + 1, reason), self._world.monotonic()
        self._kernel.status_changed()

    def _keep_in_the_end(self, do: Callable[[], None], then: Callable[[], None]) -> None:
        """Keep something, or have it kept as soon as the disk takes it; `then` go on."""
        self._unkept, self._keep_at = None, math.inf
        if self._kept(do):
            then()
        else:
            self._unkept, self._keep_at = (do, then), self._world.monotonic() + LOOK_S

    def _kept(self, do: Callable[[], None]) -> bool:
        """Keep something, or tell why that cannot be."""
        problem = problem_with(do)
        if problem:
            self._fail(Failed("identity", problem, LOOK_S))
        return not problem

    # What it asks of others

    @property
    def _section(self) -> Provision:
        section: Provision = self._settings.sections["provision"]
        return section

    def _step(self) -> str:
        attempt = self._steps.attempt
        if attempt is None:
            return "connect" if self._trial_until != math.inf or not self._settings.is_named else ""
        waits = attempt.step in ("certificate", "register") and not attempt.is_open
        return "connect" if waits else attempt.step

    def _line(self) -> tuple[str, float]:
        """Return why there is no line that serves, and in how many seconds the next is dialled."""
        down = self._kernel.status().get("down") or {"reason": "the broker acknowledges nothing"}
        return str(down["reason"]), float(down.get("retry_in_s") or 0.0)

    def _renew_at(self) -> int | None:
        life, section = self._keeper.life, self._section
        at = math.inf if life is None else renewal.due_at(life, section.renew_s, section.renew_after_s)
        return None if at == math.inf else int(at)

    def _is_due(self) -> bool:
        """Tell whether the certificate is to be renewed now, each device at its own part of an hour."""
        life, wall = self._keeper.life, self._world.known_wall()
        at = self._renew_at()
        if life is None or at is None or wall is None or wall < at + self._spread * renewal.PAUSE_S:
            return False
        pause = renewal.pause_s(life, self._section.renew_after_s)
        return not renewal.rests_s(self._keeper.attempted, self._steps.here(), pause)
