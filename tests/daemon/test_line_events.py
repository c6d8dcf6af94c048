"""What the line has to tell of the MQTT thread's findings, in a simulated world: each told once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from iotd.vocabulary import Down, PassedOver, Subscribed
from tests.sim.world import Simulation

CONFIGURATION = "mqtt: {host: broker}\nsubscribe: [{topic: 'cam/+/image', qos: 1}]\n"


@pytest.fixture
def device() -> Iterator[Simulation]:
    simulation = Simulation(CONFIGURATION)
    simulation.start()
    simulation.run(10.0)
    yield simulation
    simulation.stop()


def happens(device: Simulation, event: Any) -> None:
    assert device.daemon is not None
    device.daemon.post(event)
    device.run(1.0)


def test_a_topic_with_messages_that_are_too_large_is_named_once_an_hour(device: Simulation) -> None:
    for topic in ("cam/1/image", "cam/1/image", "cam/2/image"):
        happens(device, PassedOver(1, topic, 1_200_000))
    named = device.entries("message.passed_over")
    assert [(entry["topic"], entry["bytes"], entry["level"]) for entry in named] == [
        ("cam/1/image", 1_200_000, "warning"), ("cam/2/image", 1_200_000, "warning")]
    device.run(3600.0)
    happens(device, PassedOver(1, "cam/1/image", 1_300_000))
    assert device.entries("message.passed_over")[-1]["bytes"] == 1_300_000


def test_of_many_topics_no_more_than_a_hundred_are_remembered(device: Simulation) -> None:
    for number in range(102):
        happens(device, PassedOver(1, f"cam/{number}/image", 1_200_000))
    happens(device, PassedOver(1, "cam/101/image", 1_200_000))
    happens(device, PassedOver(1, "cam/0/image", 1_200_000))
    assert len(device.entries("message.passed_over")) == 103


def test_a_quality_of_service_that_is_granted_lower_is_told_once(device: Simulation) -> None:
    for code in (0, 0, 1, 0):
        happens(device, Subscribed(1, (("cam/+/image", code),)))
    told = device.entries("subscription.downgraded")
    assert [(entry["filter"], entry["asked"], entry["granted"], entry["level"]) for entry in told] == [
        ("cam/+/image", 1, 0, "warning")] * 2
    assert device.entries("subscription.refused") == []


@pytest.mark.parametrize("was_up", [False, True])
def test_a_bug_on_the_mqtt_thread_is_told_with_its_traceback_and_the_next_line_comes(
    device: Simulation, was_up: bool
) -> None:
    assert device.connected is not None
    happens(device, Down(1, "fault", "a bug in iotd: KeyError()", was_up, "Traceback …"))
    assert [entry["traceback"] for entry in device.entries("daemon.fault")] == ["Traceback …"]
    ended = device.entries("session.disconnected" if was_up else "session.connect_failed")
    assert ended[0]["cause"] == "fault" and ended[0]["retry_in_s"] >= 1.0
    device.run(30.0)
    assert len(device.entries("session.connected")) == 2


@pytest.mark.parametrize(("cause", "contested"), [("protocol", 0), ("silent", 0), ("network", 0), ("reset", 1)])
def test_an_end_that_is_not_the_brokers_speaks_of_no_second_client(
    device: Simulation, cause: str, contested: int
) -> None:
    for line in range(1, 7):
        happens(device, Down(line, cause, "the line is down", True))
        device.run(20.0)
    assert len(device.entries("session.contested")) == contested


def test_without_presence_every_outage_is_told_once_and_nothing_is_waited_for_at_the_end() -> None:
    device = Simulation("mqtt: {host: broker}\npresence: off\n")
    device.start()
    device.run(10.0)
    for _ in range(2):
        device.cut_line()
        device.run(60.0)
        device.network_is_up = True
        device.run(300.0)
    assert [entry["for_s"] < 200.0 for entry in device.entries("outage.over")] == [True, True]
    ends_at = device.schedule.now
    device.stop()
    assert device.schedule.now - ends_at < 1.0
    assert device.broker.retained == {}
