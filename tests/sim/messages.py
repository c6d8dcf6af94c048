"""What holds of messages: nothing kept is lost, the order within a topic, a retained slot that never goes back.

Each payload holds a token, run, topic and number, by which it is found again in whatever file holds it.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection

from iotd.daemon.daemon import Daemon
from iotd.vocabulary import Message
from tests.sim.judge import Invariant, Judge
from tests.sim.cloud import unpacked
from tests.sim.session import SimulatedSession
from tests.sim.swarm import Topic, topics_of

TOKEN = re.compile(rb"#([0-9a-f]{16}):([a-z]\d+):(\d+)#")
SETTLED_S = 5.0  # what is older is on the disk, unless that fails
SLACK_S = 3.0
RETRY_S = 70.0  # until a disk that is well again is tried again

Token = tuple[int, str, int]  # which run, the id of the topic, the number


class Messages(Invariant):
    """What the invariants of messages have in common: which is which, and what the disk has been through."""

    def __init__(self, judge: Judge) -> None:
        super().__init__(judge)
        self.topics = topics_of(self.plan.profiles)
        self._runs: dict[bytes, int] = {}

    def started(self, daemon: Daemon) -> None:
        """Runs count in the order in which they begin."""
        self._runs[daemon.run_id.encode()] = len(self._runs)

    def tokens(self, content: bytes) -> list[Token]:
        """Return the tokens in it, also where it is packed."""
        content = unpacked(content)
        return [(self._runs[run], topic.decode(), int(number)) for run, topic, number in TOKEN.findall(content)]

    def topic(self, token: Token) -> Topic:
        """Return whose message it is."""
        return self.topics[token[1]]


class Kept(Messages):
    """Every message that was kept is acknowledged in the end, or counted as dropped."""

    name = "kept"
    says = "Every message that was kept is acknowledged in the end or counted as dropped, through power cuts too"

    def __init__(self, judge: Judge) -> None:
        super().__init__(judge)
        self.waiting: dict[Token, float] = {}  # since when
        self.arrived_tokens: set[Token] = set()
        self._newest: dict[str, Token] = {}
        self._strict = False
        self._unsure_until = 0.0  # the disk or the runtime directory fails, or has just failed
        self._allowed: Counter[str] = Counter()  # what may be missing of a topic: set aside, refused by a wrong size

    def kept(self, content: bytes) -> None:
        """Note what is kept from now on."""
        for token in self.tokens(content):
            if token not in self.arrived_tokens and token not in self.waiting:
                self.waiting[token] = self.now
                self._newest[token[1]] = max(token, self._newest.get(token[1], token))
        self._look_at_disk()
        daemon = self.simulation.daemon
        if daemon is not None:
            self._strict = bool(daemon.settings.sections["spool"].strict)

    def arrived(self, message: Message, by: SimulatedSession | None) -> None:
        """Note what has come."""
        for token in self.tokens(message.payload) if by is not None else ():
            self.arrived_tokens.add(token)
            self.waiting.pop(token, None)

    def promised(self, payload: bytes) -> None:
        """A program was told that this is kept: so it is, or has come already."""
        for token in self.tokens(payload):
            is_here = token in self.waiting or token in self.arrived_tokens
            if not is_here and self.topic(token).qos and self.now >= self._unsure_until:
                self.broken(f"a program was told that {token} is kept, and it is not")

    def cut_off(self) -> None:
        """What is deleted just now is no more counted."""
        held = set(self.tokens(self.simulation.disk.waiting()))
        for token in self._missing(held):
            self._allowed[self.topic(token).name] += 1

    def going_down(self, orderly: bool) -> None:
        """Note whether the disk is what it should be."""
        self._look_at_disk()

    def rebooted(self) -> None:
        """Compare what was kept with what the disk still has."""
        held = set(self.tokens(self.simulation.disk.waiting()))
        for token in [token for token in self.waiting if token not in held]:
            since = self.waiting.pop(token)
            topic = self.topic(token)
            excused = (self.now < self._unsure_until or self.simulation.disk.overlay or topic.qos == 0
                       or topic.offline == "latest" or self._is_counted(token)
                       or not self._strict and self.now - since <= topic.within_s + SETTLED_S + SLACK_S)
            if not excused:
                self.broken(f"{token} was kept {self.now - since:.0f} s ago, and the reboot has lost it")

    def lost(self, content: bytes) -> None:
        """What a damaged file took with it is nobody's fault, unless it is in the journal as well."""
        held = set(self.tokens(self.simulation.disk.waiting()))
        for token in self.tokens(content):
            if token not in held:
                self.waiting.pop(token, None)

    def logged(self, entry: dict[str, object]) -> None:
        """Note what is told of messages that will not come."""
        if entry["event"] == "publish.set_aside":
            self._allowed[str(entry["topic"])] += 1

    def owed(self) -> str:
        """Return what has not come."""
        missing = self._missing()
        return f"{len(missing)} messages, such as {missing[0]}" if missing else ""

    def _missing(self, held: Collection[Token] = ()) -> list[Token]:
        """Return what neither came, nor is held, nor was counted, nor gave way to a newer one."""
        drops = self.simulation.drops() + self._allowed
        by_topic: dict[str, list[Token]] = defaultdict(list)
        for token, since in self.waiting.items():
            topic = self.topic(token)
            gave_way = topic.offline == "latest" and self._newest[token[1]] > token
            is_collected = self.now - since <= topic.within_s
            is_promised = topic.qos == 1 and topic.offline != "drop"  # a batch of that is in a file, and sent once
            if is_promised and not gave_way and not is_collected and token not in held:
                by_topic[topic.name].append(token)
        return [token for name, tokens in by_topic.items()
                for token in tokens[drops[name] * max(1, self.topic(tokens[0]).batch):]]

    def _is_counted(self, token: Token) -> bool:
        name = self.topic(token).name
        return self.simulation.drops()[name] + self._allowed[name] > 0

    def _look_at_disk(self) -> None:
        disk = self.simulation.disk
        if disk.failures or disk.runtime_failures or disk.damaged:
            self._unsure_until = self.now + RETRY_S


class Order(Messages):
    """Messages of a topic come in the order in which they were made."""

    name = "order"
    says = "The messages of a topic come in the order in which they were made, whatever lies between"

    def __init__(self, judge: Judge) -> None:
        super().__init__(judge)
        self._last: dict[str, Token] = {}
        self._come: set[Token] = set()
        self._held_back: dict[str, Token] = {}  # what was made by then may come late: it was set aside, or out of reach

    def arrived(self, message: Message, by: SimulatedSession | None) -> None:
        """Compare with the last of its topic; a repetition is none."""
        for token in self.tokens(message.payload) if by is not None else ():
            if token in self._come:
                continue
            self._come.add(token)
            last = self._last.get(token[1])
            if last is not None and token < last:
                if token > self._held_back.get(token[1], (-1, "", 0)):
                    self.broken(f"{token} came after {last}")
            else:
                self._last[token[1]] = token

    def rebooted(self) -> None:
        """A deletion that a power cut has undone costs a repetition, also of what was dropped."""
        for token in self.tokens(self.simulation.disk.waiting()):
            if token < self._last.get(token[1], token):
                self._come.add(token)

    def logged(self, entry: dict[str, object]) -> None:
        """Note what is told of messages that come later."""
        event = entry["event"]
        if event in ("publish.set_aside", "publish.denied"):
            self._may_be_late(str(entry["topic"]).rpartition("/")[2])
        elif event in ("spool.failed", "spool.damaged", "batch.unkept"):
            for topic in self.topics:
                self._may_be_late(topic)

    def _may_be_late(self, topic: str) -> None:
        self._held_back[topic] = (len(self._runs), "~", 1 << 60)


class Slot(Messages):
    """A retained slot never goes back, and ends at the newest.

    A packet that is sent again on the same line is the same but for DUP (MQTT-3.3.1-1): it may take the slot back until
    the packet after it is sent again as well.
    """

    name = "retained"
    says = "What stands retained on a topic never gets older, and ends at the newest message"

    def __init__(self, judge: Judge) -> None:
        super().__init__(judge)
        self._stands: dict[str, Token] = {}
        self._newest: dict[str, Token] = {}
        self._line: tuple[int, int] = (0, 0)  # the run, and its line
        self._come: set[Token] = set()  # on this line

    def arrived(self, message: Message, by: SimulatedSession | None) -> None:
        """Compare with what stood there."""
        line = (self.simulation.runs, 0 if by is None else by.line)
        if by is not None and line != self._line:
            self._line, self._come = line, set()
        if message.retain and not message.payload:
            self._stands.pop(message.topic.rpartition("/")[2], None)
        for token in self.tokens(message.payload)[-1:] if by is not None else ():  # the newest of what goes together
            self._newest[token[1]] = max(token, self._newest.get(token[1], token))
            if not message.retain:
                continue
            stood = self._stands.get(token[1])
            if stood is not None and token < stood and token not in self._come:
                self.broken(f"{token} took the place of {stood}")
            self._stands[token[1]] = token
            self._come.add(token)

    def store_lost(self) -> None:
        """Nothing stands any more."""
        self._stands.clear()

    def owed(self) -> str:
        """Return a topic on which something older stands than has come."""
        daemon = self.simulation.daemon
        settings = daemon.settings.sections["publish"] if daemon is not None else ()
        for entry in settings:
            topic = self.topics[entry.topic.rpartition("/")[2]]
            newest = self._newest.get(topic.id)
            if topic.retain and newest is not None and self._stands.get(topic.id) != newest:
                return f"{topic.name} has {self._stands.get(topic.id)} and not {newest}"
        return ""
