"""The attempt under way: what `attempt` decides is performed here, on the line, on the disk and by openssl."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from iotd.daemon.part import Kernel
from iotd.host import log
from iotd.provision import attempt as rules
from iotd.provision.attempt import Attempt, Become, Create, Effect, Examine, Failed, MakeKey, Register
from iotd.provision.keeper import Keeper, problem_with
from iotd.provision.keys import Adapters, KeyMade, Looked, look, make_key, no_key, no_look
from iotd.provision.renewal import Moment
from iotd.provision.section import CREATE, KNOWN, REGISTER, Provision, filled
from iotd.vocabulary import Json, Message, Overridden, Received

CLOSE_S = 2.0


class Steps:
    """The steps of one attempt after the other; `attempt` is None while there is none.

    `failed` is told of each step that has failed, and may give the attempt up; `became` that the device is the thing
    that it has gone for, with which the attempt is over.
    """

    def __init__(self, kernel: Kernel, adapters: Adapters, keeper: Keeper, failed: Callable[[Failed], None],
                 became: Callable[[float], None]) -> None:
        self.settings = kernel.written
        self.attempt: Attempt | None = None
        self._kernel = kernel
        self._world = kernel.world
        self._adapters = adapters
        self._tasks = kernel.world.tasks(kernel.post)
        self._keeper = keeper
        self._failed = failed
        self._became = became

    @property
    def register(self) -> str:
        """The topic on which the thing is asked for."""
        return REGISTER.format(self._section.template)

    def here(self) -> Moment:
        """Return what time it is."""
        return Moment(self._world.boot_id, self._world.uptime(), self._world.known_wall())

    def begin(self, thing: str, now: float, reason: str = "") -> None:
        """Begin an attempt, or go on with what an earlier run has left; to renew, where the device is a thing."""
        pending = self._keeper.pending(self.here(), now)
        log.info("provision.started", "the certificate is renewed" if thing else "the device goes for an identity",
                 step="key" if pending is None else "register", template=self._section.template,
                 **({"thing": thing} if thing else {}), **({"reason": reason} if reason else {}))
        if thing:
            self._kernel.post(Overridden())  # subscribes the answers
        self._take(rules.begun(pending, thing, now), now)

    def opened(self, denied: bool, now: float) -> None:
        """The line is up, and the broker has granted the subscriptions to the answers, or has `denied` them."""
        if self.attempt is not None:
            self._take(rules.denied(self.attempt, self._wait_s(), now) if denied else rules.opened(self.attempt, now),
                       now)

    def closed(self, now: float) -> None:
        """The line is down."""
        if self.attempt is not None:
            self._take(rules.closed(self.attempt, self._wait_s(), now), now)

    def heard(self, received: Received, now: float) -> None:
        """Take an answer."""
        request, _, kind = received.topic.rpartition("/")
        step = {CREATE: "certificate", self.register: "register"}.get(request)
        if self.attempt is None or step is None or received.retain:
            return
        body = rules.body_of(received.payload)
        if kind == "rejected":
            self._take(rules.rejected(self.attempt, step, body, self._wait_s(), now), now)
        elif kind == "accepted" and step == "certificate":
            self._take(rules.created(self.attempt, body), now)
        elif kind == "accepted":
            self._take(rules.registered(self.attempt, body, self._wait_s(), now), now)

    def handlers(self) -> Mapping[type, Callable[[Any, float], None]]:
        """Return who takes what openssl has made and found."""
        return {KeyMade: self._on_key, Looked: self._on_looked}

    def next_due(self) -> float:
        """Return when `keep` has something to do, math.inf for never."""
        return math.inf if self.attempt is None else rules.next_due(self.attempt)

    def keep(self, now: float) -> None:
        """Do what is due."""
        if self.attempt is not None and now >= rules.next_due(self.attempt):
            self._take(rules.due(self.attempt, self._wait_s(), now), now)

    def hurry(self, now: float) -> None:
        """A retry that waits need not."""
        if self.attempt is not None and self.attempt.ask_at != math.inf:
            self.attempt = self.attempt._replace(ask_at=now)

    def give_up(self) -> None:
        """End the attempt, and drop what has come of it."""
        self.attempt = None
        self._keeper.drop()

    def close(self) -> None:
        """End what runs."""
        self._tasks.close(CLOSE_S)

    @property
    def _section(self) -> Provision:
        section: Provision = self.settings.sections["provision"]
        return section

    def _take(self, result: tuple[Attempt, list[Effect]], now: float) -> None:
        """Go on with this attempt, and perform what comes of it."""
        self.attempt, effects = result
        for effect in effects:
            match effect:
                case MakeKey():
                    name = self.settings.client_id
                    self._start("key", partial(make_key, self._adapters, self._section.key, name), no_key)
                case Create(csr):
                    self._ask(CREATE, {"certificateSigningRequest": csr})
                case Examine(certificate, token):
                    self._start("certificate", partial(look, self._adapters, certificate, token, self._keeper.key()),
                                no_look)
                case Register(token):
                    known = self._kernel.values(KNOWN)
                    self._ask(self.register, {"certificateOwnershipToken": token,
                                              "parameters": filled(self._section.parameters, known)})
                case Become(thing, configuration):
                    self._become(thing, configuration, now)
                case Failed():
                    self._failed(effect)

    def _on_key(self, event: KeyMade, now: float) -> None:
        if self.attempt is None or self.attempt.step != "key":
            return
        problem = event.problem or problem_with(partial(self._keeper.keep_key, event.key))
        self._take(rules.failed(self.attempt, problem, self._wait_s(), now) if problem
                   else rules.key_made(self.attempt, event.csr, now), now)

    def _on_looked(self, event: Looked, now: float) -> None:
        attempt = self.attempt
        if attempt is None or not attempt.examined or event.token not in ("", attempt.examined):
            return
        problem = event.problem
        if event.life is not None:
            problem = problem_with(partial(self._keeper.keep_certificate, event.certificate, event.token, event.life,
                                           self.here()))
        if problem:
            return self._take(rules.failed(attempt, problem, self._wait_s(), now), now)
        log.info("provision.certificate", "the certificate of the new key has come", step="certificate")
        self._take(rules.examined(attempt, now), now)

    def _become(self, thing: str, configuration: Mapping[str, Json], now: float) -> None:
        problem = problem_with(partial(self._keeper.become, thing, configuration))
        if problem:
            assert self.attempt is not None
            return self._take(rules.failed(self.attempt, problem, self._wait_s(), now), now)
        log.info("provision.registered", f"the device is the thing {thing}", step="identity", thing=thing)
        self.attempt = None
        self._became(now)

    def _start(self, name: str, work: Callable[[int], Any], failed: Callable[[str], Any]) -> None:
        if not self._tasks.start(("provision", name), work, failed) and self.attempt is not None:
            why, now = "iotd cannot start a thread for it", self._world.monotonic()
            self._take(rules.failed(self.attempt, why, self._wait_s(), now), now)

    def _ask(self, topic: str, body: Mapping[str, Json]) -> None:
        self._kernel.send(Message(topic, json.dumps(body, ensure_ascii=False).encode()))

    def _wait_s(self) -> float:
        failures = 0 if self.attempt is None else self.attempt.failures + 1
        return rules.wait_s(self.settings.mqtt.backoff.first_s, failures, self._world.chance())
