"""The shadow service over a real broker: topics, answers, and the faults it can be told to make."""

from __future__ import annotations

from typing import Any, Iterator

import pytest

from tests.aws.document import Refusal
from tests.aws.service import Answer, ShadowService, in_order, shadow_prefix
from tests.mosquitto import Mosquitto
from tests.observer import Message, Observer

CLASSIC = shadow_prefix("pi", None)
NAMED = shadow_prefix("pi", "device_0")


@pytest.fixture
def service(broker: Mosquitto) -> Iterator[ShadowService]:
    with ShadowService(broker, clock=lambda: 1700000000.9) as service:
        yield service


@pytest.fixture
def client(service: ShadowService, observer: Observer) -> Observer:
    """A device that listens to all answers of two shadows."""
    observer.subscribe(f"{CLASSIC}/#", f"{NAMED}/#")
    return observer


def kinds(client: Observer, since: int = 0) -> list[str]:
    return [message.topic.rsplit("/", 1)[1] for message in client.messages[since:] if is_answer(message)]


def is_answer(message: Message) -> bool:
    return message.topic.endswith(("/accepted", "/rejected", "/delta", "/documents"))


def fence(client: Observer) -> None:
    """Return once everything asked for before has been answered."""
    before = len(client.messages)
    client.publish(f"{CLASSIC}/delete", b"")
    client.wait_for(f"{CLASSIC}/delete/rejected", since=before)


@pytest.mark.parametrize("prefix, shadow", [(CLASSIC, None), (NAMED, "device_0")])
def test_a_shadow_is_born_read_and_deleted(
    service: ShadowService, client: Observer, prefix: str, shadow: str | None
) -> None:
    client.publish(f"{prefix}/get", b"")
    missing = client.wait_for(f"{prefix}/get/rejected").json()
    assert missing == {
        "code": 404, "message": f"No shadow exists with name: '{shadow or 'pi'}'", "timestamp": 1700000000
    }
    client.publish(f"{prefix}/update", {"state": {"reported": {"state": "ヨシッ👉"}}, "clientToken": "t1"})
    assert client.wait_for(f"{prefix}/update/accepted").json()["clientToken"] == "t1"
    client.publish(f"{prefix}/get", {"clientToken": "t2"})
    found = client.wait_for(f"{prefix}/get/accepted").json()
    assert (found["state"], found["clientToken"]) == ({"reported": {"state": "ヨシッ👉"}}, "t2")
    client.publish(f"{prefix}/delete", b"not even json")
    assert client.wait_for(f"{prefix}/delete/accepted").json() == {"version": 1, "timestamp": 1700000000}


def test_answers_are_not_retained(client: Observer, broker: Mosquitto) -> None:
    client.publish(f"{NAMED}/update", {"state": {"desired": {"a": 1}}})
    client.wait_for(f"{NAMED}/update/documents")
    with Observer(broker, "latecomer") as latecomer:
        latecomer.subscribe(f"{NAMED}/update/documents", "fence")
        latecomer.publish("fence", b"")
        latecomer.wait_for("fence")
        assert len(latecomer.messages) == 1


def test_a_write_in_the_cloud_reaches_the_device_as_a_delta(service: ShadowService, client: Observer) -> None:
    assert service.update("pi", "device_0", {"desired": {"device_no": 1}})["version"] == 1
    delta = client.wait_for(f"{NAMED}/update/delta").json()
    assert (delta["state"], delta["version"]) == ({"device_no": 1}, 1)
    client.publish(f"{NAMED}/update", {"state": {"reported": {"device_no": 1}}})
    current = client.wait_for(f"{NAMED}/update/documents", lambda message: message.json()["current"]["version"] == 2)
    assert current.json()["current"]["state"]["reported"] == {"device_no": 1}
    assert "delta" not in service.get("pi", "device_0")["state"]


def test_a_write_in_the_cloud_that_is_refused_raises_and_says_nothing(
    service: ShadowService, client: Observer
) -> None:
    with pytest.raises(Refusal, match="400"):
        service.update("pi", None, {"desired": 1})
    fence(client)
    assert kinds(client) == ["rejected"]  # the fence's own


@pytest.mark.parametrize(
    "payload, code", [(b"{", 400), (b"\xff", 415), (b'{"state":{"reported":{"a":"' + b"x" * 9000 + b'"}}}', 413)]
)
def test_a_bad_update_is_rejected(client: Observer, payload: bytes, code: int) -> None:
    client.publish(f"{NAMED}/update", payload)
    assert client.wait_for(f"{NAMED}/update/rejected").json()["code"] == code


def test_a_rejection_repeats_the_token(client: Observer) -> None:
    client.publish(f"{NAMED}/update", {"clientToken": "mine"})
    assert client.wait_for(f"{NAMED}/update/rejected").json()["clientToken"] == "mine"


def test_the_next_request_fails_as_told_and_only_that(service: ShadowService, client: Observer) -> None:
    service.fail_next(500, operation="update")
    client.publish(f"{NAMED}/get", b"")
    assert client.wait_for(f"{NAMED}/get/rejected").json()["code"] == 404
    client.publish(f"{NAMED}/update", {"state": {}})
    failed = client.wait_for(f"{NAMED}/update/rejected").json()
    assert (failed["code"], failed["message"]) == (500, "Internal service failure")
    client.publish(f"{NAMED}/update", {"state": {}})
    assert client.wait_for(f"{NAMED}/update/accepted").json()["version"] == 1


def test_more_than_twenty_requests_a_second_are_429(service: ShadowService, client: Observer) -> None:
    for number in range(21):
        client.publish(f"{CLASSIC}/get", {"clientToken": str(number)})
    refused = client.wait_for(f"{CLASSIC}/get/rejected", lambda message: message.json()["code"] == 429).json()
    assert refused["clientToken"] == "20"


def test_the_eleventh_request_in_flight_is_429(service: ShadowService, client: Observer) -> None:
    service.hold()
    for number in range(11):
        client.publish(f"{NAMED}/update", {"state": {}, "clientToken": str(number)})
    refused = client.wait_for(f"{NAMED}/update/rejected").json()
    assert (refused["code"], refused["clientToken"], kinds(client)) == (429, "10", ["rejected"])
    service.release()
    client.wait_for(f"{NAMED}/update/accepted", lambda message: message.json()["version"] == 10)
    client.publish(f"{NAMED}/update", {"state": {}})
    client.wait_for(f"{NAMED}/update/accepted", lambda message: message.json()["version"] == 11)


def test_a_held_thing_does_not_use_up_the_requests_of_another(service: ShadowService, client: Observer) -> None:
    service.hold()
    for number in range(10):
        client.publish(f"{shadow_prefix('other', None)}/update", {"state": {}})
    client.publish(f"{NAMED}/update", {"state": {}})
    service.release()
    assert client.wait_for(f"{NAMED}/update/accepted").json()["version"] == 1


@pytest.mark.parametrize("order", [("accepted", "delta", "documents"), ("documents", "delta", "accepted")])
def test_the_order_of_the_answers_can_be_chosen(
    service: ShadowService, client: Observer, order: tuple[str, ...]
) -> None:
    service.courier = in_order(*order)
    service.update("pi", "device_0", {"desired": {"a": 1}})
    client.wait_for(f"{NAMED}/update/{order[-1]}")
    assert kinds(client) == list(order)


def test_answers_can_be_lost_and_doubled(service: ShadowService, client: Observer) -> None:
    def courier(answers: Any) -> list[Answer]:
        return [answer for answer in answers for _ in range({"accepted": 0, "delta": 2}.get(answer.kind, 1))]

    service.courier = courier
    service.update("pi", "device_0", {"desired": {"a": 1}})
    client.wait_for(f"{NAMED}/update/documents")
    assert kinds(client) == ["delta", "delta", "documents"]


def test_a_name_outside_the_alphabet_is_not_answered(client: Observer) -> None:
    client.subscribe("$aws/things/p i/shadow/#")
    client.publish("$aws/things/p i/shadow/get", b"")
    fence(client)
    assert kinds(client) == ["rejected"]  # the fence's own


def test_a_stored_request_is_not_answered(broker: Mosquitto, observer: Observer) -> None:
    """AWS stores nothing on a reserved topic; mosquitto does."""
    observer.subscribe(f"{CLASSIC}/#", f"{NAMED}/#")
    observer.publish(f"{NAMED}/get", b"{}", retain=True)
    with ShadowService(broker):
        fence(observer)
    assert kinds(observer) == ["rejected"]  # the fence's own


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_the_service_and_its_shadows_outlive_the_broker(
    service: ShadowService, broker: Mosquitto, end: str
) -> None:
    service.update("pi", "device_0", {"reported": {"a": 1}})
    getattr(broker, end)()
    broker.start()
    service.wait_until_ready()
    with Observer(broker, "afterwards") as client:
        client.subscribe(f"{NAMED}/get/accepted")
        client.publish(f"{NAMED}/get", b"")
        assert client.wait_for(f"{NAMED}/get/accepted").json()["state"] == {"reported": {"a": 1}}
