"""The daemon as a process on a real broker, and Home Assistant as far as it is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.home_assistant import hub
from tests.mosquitto import Mosquitto
from tests.observer import Message, Observer
from tests.running import Iotd, configuration

CONFIG, STATE = "homeassistant/device/test-thing/config", "homeassistant/device/test-thing/state"
PUBLISH = [{"topic": "plant/state", "every": "1h", "payload": {"up": "{uptime}", "door": False, "name": "{hostname}"},
            "entities": {"up": {"name": "Up", "unit_of_measurement": "s", "device_class": "duration"},
                         "door": {"platform": "binary_sensor", "device_class": "door"}, "name": {}}}]


def retained(broker: Mosquitto) -> dict[str, bytes]:
    """Return what stands retained, as Home Assistant finds it when it starts."""
    with Observer(broker, "late") as late:
        late.subscribe("#")
        for topic in (CONFIG, STATE, "plant/state", "MQTTServer/test-thing/will"):
            late.wait_for(topic)
        return {message.topic: message.payload for message in late.messages}


def announced(observer: Observer, since: int = 0) -> Message:
    return observer.wait_for(CONFIG, since=since, timeout_s=20.0)


def test_home_assistant_shows_the_device_and_is_told_again_when_it_or_the_broker_was_away(
    tmp_path: Path, plain_broker: Mosquitto
) -> None:
    settings: dict[str, Any] = configuration(plain_broker, None, publish=PUBLISH, home_assistant={})
    with Observer(plain_broker) as home:
        home.subscribe("homeassistant/#")
        with Iotd(tmp_path / "iotd", settings) as iotd:
            first = announced(home)
            found = retained(plain_broker)
            shown = hub.states(hub.take(CONFIG, found[CONFIG]), found)
            assert float(shown.pop("up")) > 0 and float(shown.pop("iotd-uptime")) > 0
            assert shown.pop("name") == json.loads(found["plant/state"])["name"]
            shown.pop("iotd-temperature", None)  # where this machine has one
            assert shown == {"door-binary_sensor": "OFF", "iotd-connectivity": "ON", "iotd-problem": "OFF"}
            home.publish("homeassistant/status", "online", qos=0)
            again = announced(home, first.order + 1)
            assert again.payload == first.payload
            since = len(iotd.entries)
            plain_broker.kill()  # which loses sessions and what was retained
            plain_broker.start()
            iotd.wait_for("session.connected", since)
            assert retained(plain_broker)[CONFIG] == first.payload
    found = retained(plain_broker)
    shown = hub.states(hub.take(CONFIG, found[CONFIG]), found)
    assert shown.pop("iotd-connectivity") == "OFF" and set(shown.values()) == {"unavailable"}
    with Observer(plain_broker) as home, Iotd(tmp_path / "iotd", {**settings, "publish": []}) as iotd:
        home.subscribe(CONFIG)
        assert iotd.wait_for("retained.orphaned")["topics"] == ["plant/state"]
        removed = home.wait_for(CONFIG, lambda message: not message.retain)
        assert hub.take(CONFIG, removed.payload)["up"] == {"platform": "sensor"}
