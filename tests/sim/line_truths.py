"""What holds of the line: presence tells the truth, AWS's limits are kept, and dialling is decent."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from typing import Any

from iotd.vocabulary import Message
from tests.sim.faults import PRESENCE
from tests.sim.judge import Invariant, Judge
from tests.sim.session import SimulatedSession

ANSWERS_S = 5.0  # Connected again, after somebody else's word; once a second at most
KNOWS_S = 20.0  # what README and contract ask a reader to wait
ROUNDING_S = 1e-6
PER_SECOND, BYTES_PER_SECOND, IN_FLIGHT, REQUESTS = 100, 512 * 1024, 100, 10
ANSWER_S = 10.0  # a request without an answer by then counts no more


class Presence(Invariant):
    """The presence topic tells the truth."""

    name = "presence"
    says = ("The presence topic says Connected, with the session of the line, within 20 s of a line, and does not say"
            " it 20 s after the will of a lost one")

    def __init__(self, judge: Judge) -> None:
        super().__init__(judge)
        self._changes = 0
        self._word: dict[str, Any] = {}
        self._sessions: set[str] = set()
        self._by_liar = False

    def line_changed(self) -> None:
        """The truth is another one now."""
        self._sessions.add(str(self._will().get("session")))
        self._look_again(KNOWS_S + self.simulation.broker.will_delay_s)

    def arrived(self, message: Message, by: SimulatedSession | None) -> None:
        """Somebody has said something."""
        if message.topic == PRESENCE and message.retain:
            self._take(message.payload)
            self._by_liar = by is None and self._word.get("session") not in self._sessions
            self._look_again(max(ANSWERS_S, KNOWS_S if by is None else 0.0) + self.simulation.broker.will_delay_s)

    def store_lost(self) -> None:
        """Nothing stands any more, until somebody says something."""
        self._word = {}
        self._look_again(KNOWS_S + self.simulation.broker.will_delay_s)

    def owed(self) -> str:
        """Return what it says where that is not true."""
        link = self._link()
        if link is None:
            return "there is no line"
        return self._untruth(link)

    def _take(self, payload: bytes) -> None:
        try:
            word = json.loads(payload)
        except ValueError:
            word = {}
        self._word = word if isinstance(word, dict) else {}

    def _look_again(self, after_s: float) -> None:
        self._changes += 1
        changes = self._changes
        self.simulation.schedule.after(after_s, lambda: self._judge() if changes == self._changes else None)

    def _judge(self) -> None:
        link = self._link()
        if link is None and self._word.get("status") == "Connected":
            self.broken(f"it says {self._word} and there is no line")
        elif link is not None and self.simulation.network.passes and link.up and not link.gone:
            untruth = self._untruth(link)
            if untruth and self.simulation.broker.answer_s < 1.0:
                self.broken(untruth)

    def _untruth(self, link: SimulatedSession) -> str:
        will = self._will()
        if self._word.get("status") != "Connected" or self._word.get("session") != will.get("session"):
            told = "somebody else: " if self._by_liar else ""
            return f"{told}it says {self._word}, and the line of {will.get('session')} is up"
        return ""

    def _will(self) -> dict[str, Any]:
        for client in self.simulation.broker.clients.values():
            if client.will is not None:
                return dict(json.loads(client.will.payload))
        return {}

    def _link(self) -> SimulatedSession | None:
        return self.simulation.broker.link_of("pi")


class Limits(Invariant):
    """AWS's limits hold in any window, where they are asked for."""

    name = "limits"
    says = ("In no second are there more than 100 publishes or 512 KB, nor two retained ones of a topic; no more than"
            " 100 packets or 10 shadow requests are unanswered, nor two CONNECTs within a second")

    def __init__(self, judge: Judge) -> None:
        super().__init__(judge)
        self._sent: deque[tuple[float, int]] = deque()
        self._bytes = 0
        self._retained: dict[str, float] = {}
        self._requests: dict[str, float] = {}
        self._dialled_at = -1e9
        self._run = 0

    def dialled(self, session: SimulatedSession) -> None:
        """Compare with the CONNECT before."""
        self._sent.clear()
        self._bytes = 0
        self._requests.clear()
        if self._run == self.simulation.runs and self.now - self._dialled_at < 1.0 - ROUNDING_S:
            self.broken(f"a CONNECT {self.now - self._dialled_at:.3f} s after the last")
        self._dialled_at, self._run = self.now, self.simulation.runs

    def published(self, session: SimulatedSession, message: Message) -> None:
        """Count a publish."""
        if not self._applies():
            return
        sent, now = self._sent, self.now
        while sent and sent[0][0] <= now - 1.0:
            self._bytes -= sent.popleft()[1]
        size = len(message.payload) + len(message.topic)
        sent.append((now, size))
        self._bytes += size
        if len(sent) > PER_SECOND or self._bytes > BYTES_PER_SECOND:
            self.broken(f"{len(sent)} publishes with {self._bytes} bytes within a second")
        if message.retain:
            last = self._retained.get(message.topic, -1e9)
            if now - last < 1.0 - ROUNDING_S and self._dialled_at <= last:
                self.broken(f"{message.topic} retained twice within {now - last:.3f} s")
            self._retained[message.topic] = now
        if message.topic.startswith("$aws/") and "/shadow/" in message.topic:
            self._asked(json.loads(message.payload)["clientToken"])

    def arrived(self, message: Message, by: SimulatedSession | None) -> None:
        """Count an answer of the shadow service."""
        if by is None and self._requests and message.topic.startswith("$aws/"):
            try:
                self._requests.pop(str(json.loads(message.payload).get("clientToken")), None)
            except (ValueError, AttributeError):
                pass  # garbled on its way

    def unacknowledged(self, session: SimulatedSession, count: int) -> None:
        """Compare with what may be in flight."""
        if count > IN_FLIGHT and self._applies():
            self.broken(f"{count} packets unacknowledged")

    def _asked(self, token: str) -> None:
        self._requests = {known: at for known, at in self._requests.items() if at > self.now - ANSWER_S}
        self._requests[token] = self.now
        if len(self._requests) > REQUESTS:
            self.broken(f"{len(self._requests)} shadow requests without an answer")

    def _applies(self) -> bool:
        daemon = self.simulation.daemon
        return daemon is not None and daemon.settings.mqtt.aws_limits


class Connected(Invariant):
    """A healed device is connected and says that it is well."""

    name = "well"
    says = "Once all is healed the device is connected and finds nothing wrong with itself"

    def owed(self) -> str:
        """Return what the device finds wrong."""
        daemon = self.simulation.daemon
        if daemon is None:
            return "the process does not run"
        if daemon.exit_status is not None:
            return "the process is about to end"
        status = daemon.status()
        # What the cloud desires and cannot be done, or be reported, is the cloud's to mend; that it is told is another
        # invariant. A renewal that has failed is tried again after a tenth of the time that a certificate is used for.
        excused = ("what is desired of", "is left out of what is reported", "the certificate is not renewed")
        problems = [problem for problem in status["problems"] if not any(part in problem for part in excused)]
        rests = problems and all(problem.endswith((" denied", " refused")) for problem in problems)
        return ("denied: " if rests else "") + "; ".join(problems)


class Rate(Invariant):
    """However long nothing answers, dialling goes on, and no more often than its backoff allows."""

    name = "dialling"
    says = "While there is no line a dialling follows another within the longest backoff, and the time that it takes"

    def __init__(self, judge: Judge) -> None:
        super().__init__(judge)
        self._at: dict[str, float] = defaultdict(float)
        self._waits = 0

    def dialled(self, session: SimulatedSession) -> None:
        """Expect the next one, unless there is a line by then."""
        self._expect()

    def line_changed(self) -> None:
        """The broker has got or lost a line."""
        self._expect()

    def started(self, daemon: Any) -> None:
        """A process dials soon."""
        self._expect()

    def _expect(self) -> None:
        self._waits += 1
        waits, runs = self._waits, self.simulation.runs
        longest_s = max(profile.backoff_max_s for profile in self.plan.profiles) + 60.0 + 90.0

        def judge() -> None:
            session = self.simulation.session
            if waits != self._waits or runs != self.simulation.runs or self.simulation.daemon is None:
                return
            if session is not None and (session.up or session.hung or self.now - session.ended_at < longest_s):
                self._expect()
            else:
                self.broken(f"nothing was dialled for {longest_s:.0f} s, and there is no line")

        self.simulation.schedule.after(longest_s, judge)


LINE = (Presence, Limits, Connected, Rate)
