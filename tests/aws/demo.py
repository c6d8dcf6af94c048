"""Show iotd at work: a broker and a shadow service on loopback, iotd itself, and a client that watches both.

What counts is what the watching client saw at the broker, never what iotd says of itself.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Sequence

from tests.aws.gate import Gate
from tests.aws.screen import (
    BLUE, GREEN, MAGENTA, RED, Line, Screen, Unwatched, brief, changes, labelled, log_line, presence_line)
from tests.aws.service import ShadowService, shadow_prefix
from tests.aws.stage import ACTIONS, HEALTHY, PRESENCE, PUBLISH_EVERY_S, SHADOW, THING, TOPIC, UNHEALTHY, Cable, Device
from tests.certificates import make_certificates
from tests.mosquitto import Mosquitto
from tests.observer import Message, Observer

DOCUMENTS = f"{shadow_prefix(THING, SHADOW)}/update/documents"
DESIRED = '{"msg": "こんにちは"}'

# What is promised, each to be seen at the broker.
CONNECTED = f'"status": "Connected" on {PRESENCE}'
SENT = f"a message on {TOPIC}"
RETAINED = f"the retained message on {TOPIC}"
REPORTED = f"the report in the shadow {SHADOW}"
ASSERTED = f"what iotd desires by itself in the shadow {SHADOW}"
OBEYED = "what the cloud desires, done and reported"
PUBLISHED = f"the desired msg in what is published on {TOPIC}"
BROKEN = "the shadow unhealthy within two seconds of a check that fails"
MENDED = "the shadow healthy within two seconds of its recovery"
LOST = f'the will of the line that was cut, "status": "Communication lost" on {PRESENCE}'
BACK = '"status": "Connected" in a new session once the line is whole'
KEPT = f"what was measured while the line was cut, on {TOPIC}"
WILL = f'the will after the power cut, "status": "Communication lost" on {PRESENCE}'
RETURNED = '"status": "Connected" in a new session after the power cut'
REMEMBERED = "the desired msg in what is published after the power cut"
STOPPED = f'"status": "Stopped" on {PRESENCE} before the end'

AT_ONCE_S = 2.0
PATIENCE_S = 10.0  # how long a scene waits for what it promises before the next begins without it
TURN_S = 0.1
# The line is away for long enough that a message is measured meanwhile, in whole seconds as its Timestamp tells them.
CUT_S = PUBLISH_EVERY_S + 1.5
PACE_S = 2.0  # between scenes, for a person to read
PACES = 40  # one is at most this part of the time that is left, so that a slow machine gets through the scenes as well
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Proof = Callable[[Message], bool]


class Scene(NamedTuple):
    """What has to be seen, each with how a message proves it, and how long it lasts at least after that."""

    proofs: Mapping[str, Proof]
    lasts_s: float = 0.0


REST = Scene({}, math.inf)


class Show:
    """One run: it plays the scenes, shows both sides, and remembers which of the promises were really kept."""

    def __init__(
        self, screen: Screen, service: ShadowService, observer: Observer, latecomer: Observer, line: Cable,
        device: Device, desired: dict[str, Any],
    ) -> None:
        self.promised = [CONNECTED, SENT, RETAINED, REPORTED, ASSERTED]
        self.promised += [OBEYED] if ACTIONS & desired.keys() else []
        self.promised += [PUBLISHED] if "msg" in desired else []
        self.promised += [BROKEN, MENDED, LOST, BACK]
        self.promised += [] if "interval" in desired else [KEPT]  # it may be longer than the line is away
        self.promised += [WILL, RETURNED]
        self.promised += [REMEMBERED] if "msg" in desired else []
        self.promised += [STOPPED]
        self.seen: set[str] = set()
        self._screen = screen
        self._service = service
        self._observer = observer
        self._latecomer = latecomer
        self._line = line
        self._device = device
        self._desired = desired
        self._awaited: dict[str, Proof] = {}
        self._told = 0
        self._known: dict[str, dict[str, Any]] = {}  # the newest document of each topic
        self._mended_at = math.inf

    def play(self, seconds: float, asked: Sequence[int]) -> None:
        """Play one scene after the other until the time is over, iotd ends, or a signal has asked for the end."""
        end = time.monotonic() + seconds

        def is_over() -> bool:
            return time.monotonic() >= end or bool(asked) or self._device.fault is not None

        scenes = self._scenes()
        while not is_over():
            scene = next(scenes, REST)
            self._await(scene.proofs)
            until = time.monotonic() + PATIENCE_S
            while self._awaited and time.monotonic() < until and not is_over():
                self._turn()
            until = time.monotonic() + max(scene.lasts_s, min(PACE_S, (end - time.monotonic()) / PACES))
            while time.monotonic() < until and not is_over():
                self._turn()

    def finish(self) -> None:
        """Stop iotd where it runs, and wait for its last word."""
        runs = self._device.is_on and self._device.fault is None
        if runs:
            self._screen.announce("the end: iotd is asked to stop (SIGTERM)")
        self._await({STOPPED: says("Stopped")} if runs else {})
        self._device.stop()
        until = time.monotonic() + AT_ONCE_S
        while self._awaited and time.monotonic() < until:
            self._turn()
        self._turn()

    def _scenes(self) -> Iterator[Scene]:
        yield from self._beginning()
        yield from self._check()
        yield from self._cut()
        yield from self._power_cut()
        self._screen.announce("all is shown; iotd goes on as it would for years")

    def _beginning(self) -> Iterator[Scene]:
        self._screen.announce("iotd starts: it connects, publishes, and reports to its shadow")
        self._device.switch_on()
        yield Scene({
            CONNECTED: says("Connected"), SENT: lambda message: message.topic == TOPIC,
            REPORTED: reports({"device_no": 0, "state": HEALTHY}),
            ASSERTED: lambda message: "desired" in state_of(message)})

        self._screen.announce("published and retained: who comes only now is told at once")
        self._read_retained()
        yield Scene({})

        self._screen.announce(f"the cloud desires {json.dumps(self._desired, ensure_ascii=False)}")
        self._service.update(THING, SHADOW, {"desired": self._desired})
        done = {key: value for key, value in self._desired.items() if key in ACTIONS}
        yield Scene({OBEYED: reports(done), PUBLISHED: self._carries_the_msg})

    def _check(self) -> Iterator[Scene]:
        self._screen.announce("a check fails: the file of the pump is gone")
        broken = at_once(reports({"state": UNHEALTHY}))
        self._device.pump.unlink()
        yield Scene({BROKEN: broken})

        self._screen.announce("the pump is mended: its file is there again")
        mended = at_once(reports({"state": HEALTHY}))
        self._device.pump.touch()
        yield Scene({MENDED: mended})

    def _cut(self) -> Iterator[Scene]:
        self._screen.announce("the line is cut: the broker says the will, iotd keeps what it measures")
        self._line.cut()
        yield Scene({LOST: says("Communication lost")}, CUT_S)

        self._screen.announce("the line is whole again: iotd is back, and what it kept arrives")
        back = self._says_anew("Connected")
        self._mended_at = time.time()
        self._line.mend()
        yield Scene({BACK: back, KEPT: self._was_measured_before_the_mending})

    def _power_cut(self) -> Iterator[Scene]:
        self._screen.announce("the power is cut (SIGKILL): the broker says the will")
        self._device.cut_power()
        yield Scene({WILL: says("Communication lost")})

        self._screen.announce("the power is back: iotd starts, and knows what was desired")
        returned = self._says_anew("Connected")
        self._device.switch_on()
        yield Scene({RETURNED: returned, REMEMBERED: self._carries_the_msg})

    def _read_retained(self) -> None:
        with self._latecomer as latecomer, suppress(AssertionError):  # then it is not seen
            latecomer.subscribe(TOPIC)
            message = latecomer.wait_for(TOPIC, lambda message: message.retain, timeout_s=2)
            self.seen.add(RETAINED)
            self._screen.show([], labelled("retained", [brief(message.json())], BLUE))

    def _await(self, proofs: Mapping[str, Proof]) -> None:
        """Wait for what is promised of these from now on; what comes later than its scene is not seen."""
        self._awaited = {promise: proof for promise, proof in proofs.items() if promise in self.promised}

    def _turn(self) -> None:
        """Show what has come on both sides, after a moment for it to come."""
        time.sleep(TURN_S)
        left: list[Line] = []
        with suppress(Empty):
            while True:
                said = self._device.said.get_nowait()
                left.append(Line(f"stderr: {said.text}", RED) if said.is_stray else log_line(said.text))
        right: list[Line] = []
        for message in self._observer.messages[self._told:]:
            self._told += 1
            kept = [promise for promise, proof in self._awaited.items() if proof(message)]
            self.seen.update(kept)
            for promise in kept:
                del self._awaited[promise]
            right += self._lines(message)
        self._screen.show(left, right)

    def _lines(self, message: Message) -> list[Line]:
        """Return what a message changes in what the cloud is known to hold."""
        body = message.json()
        document = body["current"]["state"] if message.topic == DOCUMENTS else body
        known, self._known[message.topic] = self._known.get(message.topic, {}), document
        if message.topic == PRESENCE:
            return [presence_line(body)]
        if message.topic == DOCUMENTS:
            return labelled(f"shadow {body['current']['version']}", changes(known, document), MAGENTA)
        label = "kept" if self._was_measured_before_the_mending(message) else "message"
        return labelled(label, changes(known, document), BLUE)

    def _says_anew(self, status: str) -> Proof:
        """Return the proof of this status from another connection than the one that spoke last."""
        before = self._known.get(PRESENCE, {}).get("session")
        says_it = says(status)
        return lambda message: says_it(message) and message.json()["session"] != before

    def _carries_the_msg(self, message: Message) -> bool:
        return message.topic == TOPIC and bool(message.json()["msg"] == self._desired["msg"])

    def _was_measured_before_the_mending(self, message: Message) -> bool:
        """Tell whether it is older than the whole line; what came before the cut is known already."""
        return message.topic == TOPIC and bool(message.json()["Timestamp"] + 1 <= self._mended_at < time.time())


def says(status: str) -> Proof:
    """Return the proof that this status stands on the presence topic."""
    return lambda message: message.topic == PRESENCE and bool(message.json().get("status") == status)


def reports(values: Mapping[str, Any]) -> Proof:
    """Return the proof that all of these values are reported in the shadow."""
    def proof(message: Message) -> bool:
        reported = state_of(message).get("reported", {})
        return message.topic == DOCUMENTS and all(reported.get(key) == value for key, value in values.items())

    return proof


def at_once(proof: Proof) -> Proof:
    """Return the same proof, which holds for two seconds from now."""
    until = time.monotonic() + AT_ONCE_S
    return lambda message: time.monotonic() < until and proof(message)


def state_of(message: Message) -> dict[str, Any]:
    """Return the state that the shadow has now, nothing for a message of another topic."""
    return dict(message.json()["current"]["state"]) if message.topic == DOCUMENTS else {}


def run(seconds: float, desired: dict[str, Any], asked: Sequence[int]) -> int:
    """Run the whole show; return 0, or 1 when iotd ended or something promised was not seen in the time given."""
    with tempfile.TemporaryDirectory(prefix="iotd-demo-") as name:
        directory = Path(name)
        with postponed():
            certificates = make_certificates(directory / "certificates", THING)
            broker = Mosquitto(directory)
            service, observer, latecomer = ShadowService(broker), Observer(broker), Observer(broker, "latecomer")
        with broker, service, observer, Gate(broker, certificates) as gate, Cable(gate.port) as line:
            observer.subscribe(TOPIC, PRESENCE, DOCUMENTS)
            device = Device(directory, line, certificates)
            gate.attach(THING, device.policies())
            screen = Screen(sys.stdout)
            show = Show(screen, service, observer, latecomer, line, device, desired)
            try:
                show.play(seconds, asked)
                fault = device.fault
                show.finish()
            finally:
                device.cut_power()
    if fault is not None:
        screen.conclude(f"iotd ended by itself with status {fault}", RED)
        return 1
    if math.isinf(seconds):
        return 0
    missing = [promise for promise in show.promised if promise not in show.seen]
    for promise in missing:
        screen.conclude(f"not seen: {promise}", RED)
    if not missing:
        screen.conclude(f"all {len(show.promised)} promises were kept, as seen at the broker", GREEN)
    return 1 if missing else 0


@contextmanager
def postponed() -> Iterator[None]:
    """Let signals wait: certificates are made by processes of our group, which Ctrl-C would end as well."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def json_object(text: str) -> dict[str, Any]:
    """Return the JSON object that an option holds. Raises ValueError, as argparse wants it."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    return value


def main() -> int:
    """Parse the arguments and run until the time is over or a signal comes."""
    parser = argparse.ArgumentParser(prog="script/demo", description="See iotd at work on this machine.")
    parser.add_argument("--seconds", type=float, default=math.inf, help="how long to run (default: until Ctrl-C)")
    parser.add_argument("--desired", type=json_object, default=DESIRED, metavar="JSON",
                        help="what the cloud desires; msg and interval have an action (default: %(default)s)")
    arguments = parser.parse_args()
    asked: list[int] = []
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: asked.append(number))
    try:
        return run(arguments.seconds, arguments.desired, asked)
    except Unwatched:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
