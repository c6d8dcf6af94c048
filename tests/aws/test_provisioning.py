"""The stand-in's fleet provisioning: its rules, and the service over a real broker."""

from __future__ import annotations

import json
from typing import Any

import pytest

from iotd.host import openssl
from tests.aws.provisioning import CREATE, REGISTER, Provisioning, ProvisioningService, Template, signed_by
from tests.mosquitto import Mosquitto
from tests.observer import Observer

FLEET = REGISTER.format("fleet")
TEMPLATES = {"fleet": Template({"SerialNumber": None, "Model": "unknown"}, "pi-{SerialNumber}", {"prefix": "plant"}),
             "new-only": Template({"SerialNumber": None}, "pi-{SerialNumber}", replaces=False),
             "off": Template({"SerialNumber": None}, "pi-{SerialNumber}", is_enabled=False)}


class Clock:
    """A clock that the test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def account(clock: Clock) -> Provisioning:
    return Provisioning(TEMPLATES, sign, clock, hook=lambda parameters: parameters["SerialNumber"] != "stolen")


def sign(request: str) -> str:
    if not request.startswith("CSR"):
        raise ValueError("no request")
    return f"certificate of {request}"


def asked(account: Provisioning, topic: str, body: Any) -> tuple[str, dict[str, Any]]:
    """Return whether a request was accepted or rejected, and the answer."""
    answer = account.answer(topic, body if isinstance(body, bytes) else json.dumps(body).encode())
    assert answer is not None and answer.topic.startswith(f"{topic}/")
    return answer.topic.removeprefix(f"{topic}/"), dict(answer.payload)


def token_of(account: Provisioning) -> str:
    return str(asked(account, CREATE, {"certificateSigningRequest": "CSR"})[1]["certificateOwnershipToken"])


def registered(account: Provisioning, token: str, template: str = "fleet", serial: str = "1") -> tuple[str, Any]:
    return asked(account, REGISTER.format(template), {
        "certificateOwnershipToken": token, "parameters": {"SerialNumber": serial}})


def test_a_certificate_becomes_a_things(account: Provisioning) -> None:
    token = token_of(account)
    [certified] = account.certificates.values()
    assert certified.status == "PENDING_ACTIVATION"
    assert registered(account, token) == ("accepted", {"thingName": "pi-1", "deviceConfiguration": {"prefix": "plant"}})
    assert (certified.status, certified.thing, len(account.things["pi-1"])) == ("ACTIVE", "pi-1", 1)
    assert registered(account, token)[0] == "accepted" and len(account.things["pi-1"]) == 1
    account.once = True
    assert registered(account, token)[1]["errorCode"] == "InvalidCertificateOwnershipToken"


def test_a_token_lives_for_an_hour_and_its_certificate_with_it(account: Provisioning, clock: Clock) -> None:
    token = token_of(account)
    clock.now += 3600.0
    kind, answer = registered(account, token)
    assert (kind, answer["statusCode"], answer["errorCode"]) == ("rejected", 400, "InvalidCertificateOwnershipToken")
    assert [certified.status for certified in account.certificates.values()] == ["DELETED"] and not account.things


@pytest.mark.parametrize("token, template, parameters, status", [
    ("", "fleet", {"SerialNumber": "1"}, 400), ("foreign", "fleet", {"SerialNumber": "1"}, 400),
    (None, "fleet", {}, 400), (None, "fleet", {"SerialNumber": 1}, 400),
    (None, "fleet", {"SerialNumber": "stolen"}, 403),
    (None, "none", {"SerialNumber": "1"}, 404), (None, "off", {"SerialNumber": "1"}, 403),
])
def test_what_is_refused(
    account: Provisioning, token: str | None, template: str, parameters: dict[str, Any], status: int
) -> None:
    body = {"certificateOwnershipToken": token_of(account) if token is None else token, "parameters": parameters}
    kind, answer = asked(account, REGISTER.format(template), body)
    assert (kind, answer["statusCode"]) == ("rejected", status) and not account.things
    assert answer.keys() == {"statusCode", "errorCode", "errorMessage"}


def test_a_thing_that_is_there_is_a_conflict_where_the_template_says_so(account: Provisioning) -> None:
    assert registered(account, token_of(account), "new-only")[0] == "accepted"
    assert registered(account, token_of(account), "new-only")[1]["errorCode"] == "ResourceConflictsException"
    assert registered(account, token_of(account))[0] == "accepted" and len(account.things["pi-1"]) == 2


def test_requests_are_throttled_and_refused_on_demand(account: Provisioning, clock: Clock) -> None:
    account.fail_next("create", 500, "InternalFailure")
    assert asked(account, CREATE, {"certificateSigningRequest": "CSR"})[1]["statusCode"] == 500
    answers = [asked(account, CREATE, {"certificateSigningRequest": "CSR"})[0] for _ in range(25)]
    assert answers.count("accepted") == 20 and asked(account, CREATE, {})[1]["statusCode"] == 429
    clock.now += 1.1
    assert asked(account, CREATE, {"certificateSigningRequest": "CSR"})[0] == "accepted"


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", {"certificateSigningRequest": "x"}, {}])
def test_what_is_no_request_for_a_certificate_is_refused(account: Provisioning, body: Any) -> None:
    assert asked(account, CREATE, body)[0] == "rejected" and not account.certificates


def test_other_topics_are_none_of_it(account: Provisioning) -> None:
    assert account.answer(f"{CREATE}/accepted", b"{}") is None and account.answer("a", b"{}") is None


def test_any_client_is_served_and_answers_may_be_lost_doubled_or_late(broker: Mosquitto, observer: Observer) -> None:
    assert broker.certificates is not None
    rules = Provisioning(TEMPLATES, signed_by(broker.certificates.authority))
    observer.subscribe(f"{CREATE}/+", f"{FLEET}/+")
    key = openssl.new_key("ec-p256")
    body = {"certificateSigningRequest": openssl.request(key, "x")}
    with ProvisioningService(broker, rules) as service:
        service.hold()
        observer.publish(CREATE, body)
        observer.publish(CREATE, {"certificateSigningRequest": "no"})
        service.release()
        assert observer.wait_for(f"{CREATE}/rejected").json()["statusCode"] == 400
        created = observer.wait_for(f"{CREATE}/accepted").json()
        assert openssl.certificate(created["certificatePem"]).public_key == openssl.public_key(key)
        service.courier = lambda answer: [answer, answer]
        before = len(observer.messages)
        observer.publish(FLEET, {"certificateOwnershipToken": created["certificateOwnershipToken"],
                                 "parameters": {"SerialNumber": "7"}})
        first = observer.wait_for(f"{FLEET}/accepted", since=before)
        assert first.json()["thingName"] == "pi-7"
        observer.wait_for(f"{FLEET}/accepted", since=first.order + 1)
        service.courier = lambda answer: [] if answer.topic.startswith(CREATE) else [answer]
        before = len(observer.messages)
        observer.publish(CREATE, body)
        observer.publish(FLEET, b"{}")
        observer.wait_for(f"{FLEET}/rejected", since=before)
        assert service.heard.count(CREATE) == 3
