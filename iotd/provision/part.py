"""What the kernel drives of provisioning: it performs what `attempt` decides, and has the configuration read anew where
the device has become another.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from iotd.config.settings import Settings
from iotd.daemon.part import Kernel, Part
from iotd.host import log
from iotd.provision import attempt as rules
from iotd.provision import renewal
from iotd.provision.attempt import Attempt, Become, Create, Effect, Examine, Failed, MakeKey, Register
from iotd.provision.keeper import Keeper
from iotd.provision.keys import Adapters, KeyMade, Looked, look, make_key, no_key, no_look
from iotd.provision.renewal import Moment
from iotd.provision.section import CREATE, KNOWN, REGISTER, Provision, answers, filled
from iotd.vocabulary import Json, Message, Overridden, Received, Reread

ACTION = "provisioning"
ANOTHER = "who this device is has changed"

WORDS = ("renew", "provision", "provision again")
CONNECT_S = 10.0  # until it is said why there is no line for the claim
TRIAL_S = 60.0  # for a line with the new certificate
REREAD_S = 60.0  # a configuration that was refused is asked for again
LOOK_S = 600.0  # how often it is looked whether the certificate is due
MAX_FAILURES = 8  # of one attempt to renew
CLOSE_S = 2.0


def build(kernel: Kernel, adapters: Adapters | None) -> Provisioning:
    """Return the part."""
    return Provisioning(kernel, adapters or Adapters())


class Provisioning(Part):
    """The attempt under way, the identity on the disk, and when its certificate is renewed."""

    def __init__(self, kernel: Kernel, adapters: Adapters) -> None:
        world = kernel.world
        self._kernel = kernel
        self._world = world
        self._adapters = adapters
        self._tasks = world.tasks(kernel.post)
        self._keeper = Keeper(world.files, world.places.state)
        self._keeper.tidy()
        self._settings = kernel.written
        self._attempt: Attempt | None = None
        self._connect_by = self._trial_until = self._reread_at = math.inf
        self._look_at = -math.inf
        self._spread = world.chance()
        self._ended = (0, "")  # how often a step, or all of it, has ended, and why not well

    # What is configured

    def apply(self, settings: Settings, now: float) -> None:
        """Go for an identity where the device has none; prove one that is new."""
        self._settings = settings
        if not settings.is_named:
            if self._attempt is None and self._reread_at == math.inf:
                self._connect_by = now + CONNECT_S
                lost = self._keeper.thing if not self._keeper.again else ""
                self._begin("", now, reason=f"the pair of {lost} here cannot be used" if lost else "")
            return self._wait_to_be_opened()
        if self._reread_at != math.inf:  # its line of the claim is over
            self._attempt, self._reread_at = None, math.inf
        self._connect_by = math.inf
        if self._keeper.on_trial:
            self._trial_until = min(self._trial_until, now + TRIAL_S)
        elif self._attempt is None and self._keeper.pending(self._here(), now) is not None:
            self._begin(settings.thing, now)
        self._look_at = min(self._look_at, now)
        self._wait_to_be_opened()

    def actions(self) -> Mapping[str, str]:
        """Return that the broker denies all of it as one."""
        return dict.fromkeys([*answers(self._section), CREATE, self._register], ACTION)

    # The line

    def filters(self) -> Mapping[str, int]:
        """Return those of the answers, while there is something to ask."""
        return dict.fromkeys(answers(self._section), 1) if self._attempt is not None else {}

    def opened(self, now: float, careful: bool, resting: Iterable[str]) -> None:
        """Ask for what is due."""
        self._connect_by = math.inf
        if self._attempt is None:
            return
        if ACTION in resting:
            why, attempt = "the broker denies it, probably by policy", self._attempt
            if attempt.thing:  # the line of the thing is not torn for a renewal again
                attempt = attempt._replace(failures=MAX_FAILURES)
            self._take(rules.failed(attempt, why, self._wait_s(), now), now)
        else:
            self._take(rules.opened(self._attempt, now), now)

    def closed(self, blamed: bool, now: float) -> None:
        """What was asked for is asked for again on the next line."""
        if self._attempt is not None:
            self._take(rules.closed(self._attempt, self._wait_s(), now), now)

    def welcomed(self, now: float) -> None:
        """The broker takes what the device says: a new identity is a good one."""
        if self._trial_until != math.inf and not self._kernel.leaving:
            self._trial_until = math.inf
            if self._kept(self._keeper.prove):
                log.info("provision.renewed", "the line is up with the new certificate, and the old one is gone",
                         thing=self._keeper.thing)
            self._end("")

    def pending(self) -> list[str]:
        """Return that an answer is awaited."""
        return [ACTION] if self._attempt is not None and self._attempt.answer_by != math.inf else []

    def heard(self, received: Received, now: float) -> None:
        """Take an answer."""
        request, _, kind = received.topic.rpartition("/")
        step = {CREATE: "certificate", self._register: "register"}.get(request)
        attempt = self._attempt
        if attempt is None or step is None or received.retain:
            return
        body = rules.body_of(received.payload)
        if kind == "rejected":
            self._take(rules.rejected(attempt, step, body, self._wait_s(), now), now)
        elif kind == "accepted" and step == "certificate":
            self._take(rules.created(attempt, body), now)
        elif kind == "accepted":
            self._take(rules.registered(attempt, body, self._wait_s(), now), now)

    # Time, and what happens

    def handlers(self) -> Mapping[type, Callable[[Any, float], None]]:
        """Return who takes what openssl has made and found."""
        return {KeyMade: self._on_key, Looked: self._on_looked}

    def next_due(self) -> float:
        """Return when something is due."""
        due_at = math.inf if self._attempt is None else rules.next_due(self._attempt)
        looks = self._settings.is_named and self._attempt is None and self._trial_until == math.inf
        return min(due_at, self._connect_by, self._trial_until, self._reread_at, self._look_at if looks else math.inf)

    def keep(self, now: float) -> None:
        """Do what is due."""
        if self._attempt is not None and now >= rules.next_due(self._attempt):
            self._take(rules.due(self._attempt, self._wait_s(), now), now)
        if now >= self._connect_by:
            self._connect_by = math.inf
            self._fail(Failed("connect", *self._line()))
            self._stop_where_in_vain()
        if now >= self._trial_until:
            self._go_back()
        if now >= self._reread_at:
            self._reread_at = now + REREAD_S
            self._kernel.post(Reread(ANOTHER))
        if now >= self._look_at and self._settings.is_named and self._attempt is None:
            self._look_at = now + LOOK_S
            if self._trial_until == math.inf and self._is_due():
                self._renew(now)

    def close(self, now: float) -> None:
        """End what runs."""
        self._tasks.close(CLOSE_S)

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
        if self._attempt is not None:
            if self._attempt.ask_at != math.inf:  # a retry that waits need not
                self._attempt = self._attempt._replace(ask_at=now)
        elif word == "renew" and self._trial_until == math.inf:
            rests_s = renewal.rests_s(self._keeper.attempted, self._here(), renewal.PAUSE_S)
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
        attempt = self._attempt
        if self._trial_until != math.inf:
            return "provisioning: the new certificate is tried"
        if attempt is None:
            return "" if self._settings.is_named else "provisioning: connecting as the thing"
        what = "renewing the certificate" if attempt.thing else "provisioning"
        return f"{what}: {self._step()}" + (f", after {attempt.reason}" if attempt.reason else "")

    def status(self) -> dict[str, Json]:
        """Return what is kept, how far it is, and how often and how it has ended."""
        due_s = math.inf if self._attempt is None else self._attempt.ask_at - self._world.monotonic()
        return {"provision": {
            "thing": self._keeper.thing or None, "step": self._step() or None, "renew_at": self._renew_at(),
            "retry_in_s": None if due_s == math.inf else round(max(0.0, due_s), 1),
            "ended": self._ended[0], "reason": self._ended[1] or None}}

    def problems(self) -> list[str]:
        """Return why it has failed last."""
        reason = self._ended[1]
        if not self._settings.is_named:
            return [f"provisioning: {reason or 'the device has no identity yet'}"]
        return [f"the certificate is not renewed: {reason}"] if reason else []

    def sentences(self) -> list[str]:
        """Return how far it is."""
        return list(filter(None, [self.doing()]))

    # The steps

    def _take(self, result: tuple[Attempt, list[Effect]], now: float) -> None:
        """Go on with this attempt, and perform what comes of it."""
        self._attempt, effects = result
        for effect in effects:
            match effect:
                case MakeKey():
                    name = self._settings.client_id
                    self._start("key", partial(make_key, self._adapters, self._section.key, name), no_key)
                case Create(csr):
                    self._ask(CREATE, {"certificateSigningRequest": csr})
                case Examine(certificate, token):
                    self._start("certificate", partial(look, self._adapters, certificate, token, self._keeper.key()),
                                no_look)
                case Register(token):
                    known = self._kernel.values(KNOWN)
                    self._ask(self._register, {"certificateOwnershipToken": token,
                                               "parameters": filled(self._section.parameters, known)})
                case Become(thing, configuration):
                    self._become(thing, configuration, now)
                case Failed():
                    self._fail(effect)
        if self._attempt is not None and self._attempt.failures:
            self._stop_where_in_vain()

    def _begin(self, thing: str, now: float, reason: str = "") -> None:
        pending = self._keeper.pending(self._here(), now)
        log.info("provision.started", "the certificate is renewed" if thing else "the device goes for an identity",
                 step="key" if pending is None else "register", template=self._section.template,
                 **({"thing": thing} if thing else {}), **({"reason": reason} if reason else {}))
        if thing:
            self._kernel.post(Overridden())  # subscribes the answers
        self._take(rules.begun(pending, thing, now), now)

    def _wait_to_be_opened(self) -> None:
        """Have the kernel say when the answers of an attempt are subscribed; it asks for that next."""
        if self._attempt is not None and not self._attempt.is_open:
            self.is_open = False

    def _renew(self, now: float) -> None:
        if self._kept(partial(self._keeper.begin, self._here())):
            self._begin(self._settings.thing, now)

    def _on_key(self, event: KeyMade, now: float) -> None:
        if self._attempt is None or self._attempt.step != "key":
            return
        problem = event.problem or self._write(partial(self._keeper.keep_key, event.key))
        self._take(rules.failed(self._attempt, problem, self._wait_s(), now) if problem
                   else rules.key_made(self._attempt, event.csr, now), now)

    def _on_looked(self, event: Looked, now: float) -> None:
        attempt = self._attempt
        if attempt is None or not attempt.examined or event.token not in ("", attempt.examined):
            return
        problem = event.problem
        if event.life is not None:
            problem = self._write(partial(self._keeper.keep_certificate, event.certificate, event.token, event.life,
                                          self._here()))
        if problem:
            return self._take(rules.failed(attempt, problem, self._wait_s(), now), now)
        log.info("provision.certificate", "the certificate of the new key has come", step="certificate")
        self._take(rules.examined(attempt, now), now)

    def _become(self, thing: str, configuration: Mapping[str, Json], now: float) -> None:
        problem = self._write(partial(self._keeper.become, thing, configuration))
        if problem:
            assert self._attempt is not None
            return self._take(rules.failed(self._attempt, problem, self._wait_s(), now), now)
        log.info("provision.registered", f"the device is the thing {thing}", step="identity", thing=thing)
        self._attempt = None
        if not self._settings.is_named:
            self._end("")
        self._reread_at = now + REREAD_S
        self._kernel.post(Reread(ANOTHER))

    def _stop_where_in_vain(self) -> None:
        """End an attempt for which nothing waits: the identity that is there does."""
        if self._attempt is not None and self._attempt.thing:
            if self._attempt.failures >= MAX_FAILURES:
                self._attempt = None
                self._keeper.drop()
                self._kernel.post(Overridden())
        elif self._keeper.again:
            self._attempt = None
            self._keeper.drop()
            if self._kept(partial(self._keeper.use_claim, False)):
                self._kernel.post(Reread(ANOTHER))

    def _go_back(self) -> None:
        """The new certificate brings no line up."""
        self._trial_until = math.inf
        self._fail(Failed("connect", f"the new certificate brings no line up: {self._line()[0]}; the old one is used "
                                     "again", renewal.PAUSE_S))
        if self._kept(self._keeper.fall_back):
            self._kernel.post(Reread(ANOTHER))

    def _fail(self, failure: Failed) -> None:
        log.warning("provision.failed", f"provisioning: {failure.step}: {failure.reason}", **failure._asdict())
        self._end(f"{failure.step}: {failure.reason}")

    def _end(self, reason: str) -> None:
        self._ended = self._ended[0] + 1, reason
        self._kernel.status_changed()

    def _start(self, name: str, work: Callable[[int], Any], failed: Callable[[str], Any]) -> None:
        if not self._tasks.start(("provision", name), work, failed) and self._attempt is not None:
            why, now = "iotd cannot start a thread for it", self._world.monotonic()
            self._take(rules.failed(self._attempt, why, self._wait_s(), now), now)

    def _ask(self, topic: str, body: Mapping[str, Json]) -> None:
        self._kernel.send(Message(topic, json.dumps(body, ensure_ascii=False).encode()))

    def _write(self, do: Callable[[], None]) -> str:
        """Return why something cannot be kept, nothing where it is."""
        try:
            do()
        except OSError as error:
            return f"the identity cannot be kept: {error.strerror}"
        return ""

    def _kept(self, do: Callable[[], None]) -> bool:
        """Keep something, or tell why that cannot be."""
        problem = self._write(do)
        if problem:
            self._fail(Failed("identity", problem, LOOK_S))
        return not problem

    # What it asks of others

    @property
    def _section(self) -> Provision:
        section: Provision = self._settings.sections["provision"]
        return section

    @property
    def _register(self) -> str:
        return REGISTER.format(self._section.template)

    def _here(self) -> Moment:
        return Moment(self._world.boot_id, self._world.uptime(), self._world.known_wall())

    def _wait_s(self) -> float:
        failures = 0 if self._attempt is None else self._attempt.failures + 1
        return rules.wait_s(self._settings.mqtt.backoff.first_s, failures, self._world.chance())

    def _step(self) -> str:
        if self._attempt is None:
            return "connect" if self._trial_until != math.inf or not self._settings.is_named else ""
        waits = self._attempt.step in ("certificate", "register") and not self._attempt.is_open
        return "connect" if waits else self._attempt.step

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
        return not renewal.rests_s(self._keeper.attempted, self._here(), pause)
