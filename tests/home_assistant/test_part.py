"""When the device says what to Home Assistant: on real files, with a kernel that notes it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from iotd.daemon.retained import FILE as LEDGER
from iotd.home_assistant.announcing import BIRTH_S, GAP_S
from iotd.home_assistant.part import STATE_S, build
from iotd.home_assistant.section import HomeAssistant
from iotd.outgoing.section import Publish
from iotd.vocabulary import HealthChanged, Received, Signalled
from tests.kernel import FakeKernel, settings
from tests.sim.world import SIGHUP, Simulation

TOPIC, STATE, BIRTH = ("homeassistant/device/test-thing/config", "homeassistant/device/test-thing/state",
                       "homeassistant/status")


class Home:
    """The part, and what it has sent."""

    def __init__(self, path: Path, entities: Sequence[str] = ("a",)) -> None:
        self.kernel = FakeKernel(path)
        self.kernel.found = {"model": "Board", "uptime": 5}
        self.kernel.chance = 1.0
        self.kernel.written = self.settings(entities)
        self.part = build(self.kernel, None)
        self.part.apply(self.kernel.written, 0.0)
        self.count = 0

    def settings(self, entities: Sequence[str], **mqtt: Any) -> Any:
        entry = Publish("plant/x", 60.0, dict.fromkeys(entities, 1), entities={name: {} for name in entities})
        return settings({"publish": (entry,), "home_assistant": HomeAssistant()}, **mqtt)

    def rise(self, now: float) -> None:
        self.kernel.rise()
        self.part.is_open = True
        self.part.opened(now, False, ())

    def fall(self, now: float) -> None:
        self.kernel.fall()
        self.part.is_open = False
        self.part.closed(True, now)
        self.answer("the line went down")

    def turn(self, now: float, taken: str | None = "") -> list[str]:
        """Let the part do what is due, with each answered at once, where it is; return the topics of what it sent."""
        self.kernel.now = now
        while self.part.next_due() <= now:
            self.part.keep(now)
            if taken is None:
                break
            self.answer(taken)
        sent = [message.topic for message in self.kernel.sent[self.count:]]
        self.count = len(self.kernel.sent)
        return sent

    def answer(self, why: str = "") -> None:
        awaited, self.kernel.awaited = self.kernel.awaited, []
        for message, then in zip(self.kernel.sent[-1:], awaited):
            if not why:
                self.kernel.retained.add(message.topic)
            then(why)

    def hear(self, payload: bytes, now: float) -> None:
        self.part.heard(Received(1, BIRTH, payload, 0, False), now)

    def components(self) -> dict[str, Any]:
        *_, last = (message for message in self.kernel.sent if message.topic == TOPIC)
        found: dict[str, Any] = json.loads(last.payload)["components"]
        return found


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    home.rise(0.0)
    assert home.turn(0.0) == [TOPIC, STATE]
    return home


def again(home: Home, *entities: str) -> Home:
    """Return the part of another run, with these entities."""
    found = Home(home.kernel.world.places.state.parent, entities)
    found.kernel.retained = home.kernel.retained
    found.part.apply(found.kernel.written, 0.0)
    found.part = build(found.kernel, None)
    found.part.apply(found.kernel.written, 0.0)
    found.rise(0.0)
    return found


def test_it_is_announced_once_and_not_again_by_another_line_or_run(home: Home) -> None:
    assert all(message.retain and message.qos == 1 for message in home.kernel.sent)
    home.fall(10.0)
    home.rise(100.0)
    assert home.turn(100.0) == [STATE]
    assert again(home, "a").turn(0.0) == [STATE]


def test_what_was_not_acknowledged_is_said_again(home: Home) -> None:
    home.part.apply(home.settings(["a", "b"]), 20.0)
    assert home.turn(20.0, taken=None) == [TOPIC]
    home.fall(21.0)
    home.rise(22.0)
    assert home.turn(22.0) == [STATE] and home.turn(20.0 + GAP_S) == [TOPIC]
    assert home.turn(50.0) == []


def test_an_entity_that_leaves_is_announced_as_its_platform_alone_and_then_forgotten(home: Home) -> None:
    home.part.apply(home.settings(["b"]), 20.0)
    assert home.turn(20.0) == [TOPIC]
    assert home.components()["a"] == {"platform": "sensor"} and "unique_id" in home.components()["b"]
    home.hear(b"online", 40.0)
    assert home.turn(60.0) == [TOPIC, STATE] and "a" not in home.components()
    later = again(home, "c")
    assert later.turn(0.0) == [TOPIC, STATE]
    assert later.components()["b"] == {"platform": "sensor"} and "a" not in later.components()


def test_a_connect_a_birth_message_and_a_reload_within_seconds_are_one_announcement(home: Home) -> None:
    home.hear(b"online", 1.0)
    home.part.apply(home.settings(["a", "b"]), 2.0)
    home.part.apply(home.settings(["a", "b", "c"]), 3.0)
    assert home.turn(GAP_S - 0.1) == [] and home.turn(GAP_S) == [TOPIC]
    assert "c" in home.components() and home.turn(GAP_S + 20.0) == []


def test_the_birth_message_is_answered_each_device_at_its_own_time(home: Home) -> None:
    home.hear(b"offline", 20.0)
    assert home.turn(29.0) == []
    home.hear(b"online", 30.0)
    assert home.turn(30.0 + BIRTH_S - 0.1) == [] and home.turn(30.0 + BIRTH_S) == [TOPIC]


def test_what_the_broker_may_have_lost_is_announced_again(home: Home) -> None:
    home.fall(10.0)
    home.part.session_lost(20.0)
    home.rise(20.0)
    assert home.turn(20.0) == [TOPIC, STATE]
    home.fall(30.0)
    home.kernel.retained.clear()  # cleared by hand, or by a configuration without the section
    home.rise(40.0)
    assert home.turn(40.0) == [TOPIC, STATE]
    home.part.apply(home.settings(["a"], clean_session=True), 50.0)
    home.fall(51.0)
    home.rise(60.0)
    assert home.turn(60.0) == [TOPIC, STATE]


def test_the_state_is_said_every_minute_and_at_once_when_a_problem_comes_or_goes(home: Home) -> None:
    assert home.turn(STATE_S - 0.1) == [] and home.turn(STATE_S) == [STATE]
    home.kernel.shown = {"problems": ["no Wi-Fi"]}
    home.part.handlers()[HealthChanged](HealthChanged(False), 70.0)
    assert home.turn(70.0) == [STATE]
    assert json.loads(home.kernel.sent[-1].payload) == {"problem": True, "problems": ["no Wi-Fi"], "uptime": 5}
    home.part.handlers()[HealthChanged](HealthChanged(True), 70.2)
    assert home.turn(71.4) == [] and home.turn(71.5) == [STATE]


def test_nothing_is_said_where_messages_may_not_go_or_one_is_awaited(home: Home) -> None:
    home.kernel.clear = False
    assert home.turn(70.0) == []
    home.kernel.clear = True
    assert home.turn(70.0, taken=None) == [STATE] and home.turn(200.0) == []


def test_a_denied_announcement_is_tried_again_after_a_while_and_not_at_every_turn(home: Home) -> None:
    home.hear(b"online", 20.0)
    sent = [topic for second in range(25, 325) for topic in home.turn(float(second), "the broker denies it")]
    assert 4 <= sent.count(TOPIC) <= 6 and 4 <= sent.count(STATE) <= 6


@pytest.mark.parametrize("content", [
    "", "[]", '{"digest": 1, "topic": 5, "components": [1]}', '{"components": {"a": 5}}'])
def test_a_file_that_makes_no_sense_only_has_it_announced_once_more(tmp_path: Path, content: str) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/home_assistant.json").write_text(content)
    home = Home(tmp_path)
    home.kernel.retained = {TOPIC}
    home.rise(0.0)
    assert home.turn(0.0) == [TOPIC, STATE]


# The whole daemon, simulated.

WITH = """\
mqtt: {host: broker, limits: aws}
home_assistant: {}
subscribe: [{topic: never}]
"""


def test_without_the_section_nothing_is_left_on_the_broker_and_with_it_all_is_there_again() -> None:
    simulation = Simulation(WITH)
    config = "homeassistant/device/pi/config"

    def reload(configuration: str) -> None:
        simulation.configuration = configuration
        assert simulation.daemon is not None
        simulation.daemon.post(Signalled(SIGHUP))
        simulation.run(30.0)

    simulation.start()
    simulation.run(30.0)
    assert config in simulation.broker.retained
    reload("mqtt: {host: broker, limits: aws}")
    assert {topic for topic in simulation.broker.retained if "homeassistant" in topic} == set()
    reload(WITH)
    assert config in simulation.broker.retained
    simulation.stop()
    simulation.configuration = "mqtt: {host: broker, limits: aws}"
    simulation.start()
    simulation.run(30.0)
    assert {topic for topic in simulation.broker.retained if "homeassistant" in topic} == set()
    assert [len(delivered.message.payload) > 0 for delivered in simulation.broker.on(config)] == [True, False] * 2
    assert not simulation.entries("retained.orphaned") and "homeassistant" not in str(
        simulation.disk.content[f"/state/{LEDGER}"])


def test_a_refused_subscription_is_a_problem_that_home_assistant_is_told_of_within_seconds() -> None:
    simulation = Simulation(WITH)
    simulation.broker.refused = {"never"}
    simulation.start()
    simulation.run(20.0)
    [first, *_, last] = [delivered.json() for delivered in simulation.broker.on("homeassistant/device/pi/state")]
    assert not first["problem"] or last["problem"]
    assert last == {"problem": True, "problems": ["subscription to never refused"], "uptime": last["uptime"]}


def test_an_announcement_that_the_policy_denies_rests_and_everything_else_goes_on() -> None:
    simulation = Simulation(WITH + "publish: [{topic: a, every: 10s, payload: {a: 1}}]")
    simulation.broker.denied = {"homeassistant/device/pi/config"}
    simulation.start()
    simulation.run(3500.0)
    assert [entry["action"] for entry in simulation.entries("session.denied")] == [
        "publish to homeassistant/device/pi/config"]
    assert len(simulation.entries("session.disconnected")) <= 5
    arrived = [delivered.at for delivered in simulation.broker.on("a")]
    assert max(later - earlier for earlier, later in zip(arrived, arrived[1:])) < 30.0
    assert len(simulation.broker.on("homeassistant/device/pi/state")) > 50
