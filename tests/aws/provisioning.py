"""Fleet provisioning by claim (AWS IoT Core "Device provisioning MQTT API", JSON): the rules, which need no broker, and
a client of the broker that answers by them.

Where the public sources leave something open it says unconfirmed. Not imitated: that an answer goes to its requester
alone; on mosquitto whoever has subscribed sees it.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import paho.mqtt.client as mqtt

from tests.aws.answering import Answering
from tests.certificates import Authority
from tests.mosquitto import Mosquitto

NAME = "provisioning-service"
TOKEN_S = 3600.0  # the life of an ownership token, and of the certificate that nobody registers by it
CSR_A_S, REGISTER_A_S = 20, 10  # quotas of the account
CREATE = "$aws/certificates/create-from-csr/json"
REGISTER = "$aws/provisioning-templates/{}/provision/json"
_REGISTER = r"\$aws/provisioning-templates/([0-9A-Za-z_-]{1,36})/provision/json"

Hook = Callable[[Mapping[str, str]], bool]


class Refusal(Exception):
    """What is published on `rejected`."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.payload = {"statusCode": status, "errorCode": code, "errorMessage": message}


class Template(NamedTuple):
    """`parameters` are what it declares, each with its Default, None for none; `thing` is the name made of them.

    Where not `replaces`, a thing that is there already is a conflict (OverrideSettings FAIL).
    """

    parameters: Mapping[str, str | None]
    thing: str
    configuration: Mapping[str, str] = {}
    replaces: bool = True
    is_enabled: bool = True


@dataclass
class Certified:
    """A certificate: pending until a thing has it, deleted where nobody registers it."""

    pem: str
    made_at: float
    status: str = "PENDING_ACTIVATION"
    thing: str = ""


class Answer(NamedTuple):
    """One message to publish."""

    topic: str
    payload: Mapping[str, Any]


@dataclass
class Provisioning:
    """The account: its templates, and what has become of them. `sign` makes a certificate of a request, and raises
    ValueError for what is none. `once`: a token that has registered its certificate does so no more (unconfirmed).
    """

    templates: Mapping[str, Template]
    sign: Callable[[str], str]
    clock: Callable[[], float] = time.time
    hook: Hook = lambda parameters: True
    once: bool = False
    certificates: dict[str, Certified] = field(default_factory=dict)
    things: dict[str, list[str]] = field(default_factory=dict)
    _tokens: dict[str, str] = field(default_factory=dict)
    _failures: list[tuple[str, Refusal]] = field(default_factory=list)
    _asked: dict[str, list[float]] = field(default_factory=dict)

    def fail_next(self, operation: str, status: int, code: str, message: str = "no") -> None:
        """Refuse the next request of this kind, create or register; several calls queue up."""
        self._failures.append((operation, Refusal(status, code, message)))

    def answer(self, topic: str, payload: bytes) -> Answer | None:
        """Return the answer to what was published, None for what is no request."""
        template = re.fullmatch(_REGISTER, topic)
        if topic != CREATE and not template:
            return None
        try:
            body = _parsed(payload)
            self._admit("register" if template else "create")
            return Answer(f"{topic}/accepted", self._register(template[1], body) if template else self._create(body))
        except Refusal as refusal:
            return Answer(f"{topic}/rejected", refusal.payload)

    def _admit(self, operation: str) -> None:
        for index, (kind, refusal) in enumerate(self._failures):
            if kind == operation:
                del self._failures[index]
                raise refusal
        now = self.clock()
        lately = [at for at in self._asked.get(operation, []) if at > now - 1.0]
        self._asked[operation] = [*lately, now]
        if len(lately) >= (CSR_A_S if operation == "create" else REGISTER_A_S):
            raise Refusal(429, "TooManyRequests", "Rate exceeded")  # its code: unconfirmed

    def _create(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            pem = self.sign(str(body.get("certificateSigningRequest", "")))
        except ValueError:
            raise Refusal(400, "InvalidCertificateSigningRequest", "The CSR is invalid") from None  # unconfirmed
        number = len(self.certificates) + 1
        identity, token = f"{number:064x}", f"token-{number}"
        self.certificates[identity] = Certified(pem, self.clock())
        self._tokens[token] = identity
        return {"certificateId": identity, "certificatePem": pem, "certificateOwnershipToken": token}

    def _register(self, name: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        token, given = body.get("certificateOwnershipToken"), body.get("parameters", {})
        template = self.templates.get(name)
        if template is None:
            raise Refusal(404, "ResourceNotFound", f"Template {name} not found")  # unconfirmed
        if not token:
            raise Refusal(400, "InvalidCertificateOwnershipToken", "Certificate ownership token cannot be empty.")
        certified = self._owned(token)
        if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
            raise Refusal(400, "InvalidParameters", "Parameters are texts")  # unconfirmed
        parameters = {**template.parameters, **given}
        missing = [key for key, value in parameters.items() if value is None]
        if missing:
            raise Refusal(400, "InvalidParameters", f"Parameter {missing[0]} is missing")  # unconfirmed
        if not template.is_enabled or not self.hook({key: str(value) for key, value in parameters.items()}):
            raise Refusal(403, "AccessDenied", "ACCESS_DENIED")
        thing = template.thing.format(**parameters)
        if thing in self.things and not template.replaces and certified.thing != thing:
            raise Refusal(409, "ResourceConflictsException", f"Thing {thing} exists already")
        certified.status, certified.thing = "ACTIVE", thing
        held = self.things.setdefault(thing, [])
        if self._tokens[token] not in held:
            held.append(self._tokens[token])
        return {"thingName": thing, "deviceConfiguration": dict(template.configuration)}

    def _owned(self, token: object) -> Certified:
        certified = self.certificates.get(self._tokens.get(str(token), ""))
        if certified is not None and certified.status == "PENDING_ACTIVATION":
            if self.clock() < certified.made_at + TOKEN_S:
                return certified
            certified.status = "DELETED"
        if certified is None or certified.status == "DELETED" or self.once:
            raise Refusal(400, "InvalidCertificateOwnershipToken", "Certificate ownership token is invalid or expired.")
        return certified


def signed_by(authority: Authority, name: str = "") -> Callable[[str], str]:
    """Return what makes certificates of requests, in the name of an authority; `name` as in `Authority.certify`."""
    def sign(request: str) -> str:
        try:
            return authority.certify(request, name=name)
        except subprocess.CalledProcessError as error:
            raise ValueError(str(error)) from None
    return sign


Courier = Callable[[Answer], Iterable[Answer]]


class ProvisioningService(Answering):
    """A client of the broker that answers requests. `courier` delivers each answer: it may lose it or say it twice, and
    may be replaced at any time. `heard` are the topics of the requests that came.
    """

    def __init__(
        self, broker: Mosquitto, rules: Provisioning, *, courier: Courier = lambda answer: [answer]
    ) -> None:
        self.rules = rules
        self.courier = courier
        self.heard: list[str] = []
        self._lock = threading.Lock()
        self._held: list[Answer] | None = None
        super().__init__(broker, NAME, [CREATE, REGISTER.format("+")])

    def hold(self) -> None:
        """Do what is asked for, and let the answers wait."""
        with self._lock:
            self._held = self._held or []

    def release(self) -> None:
        """Give the answers that wait, however late that is, and hold none any more."""
        with self._lock:
            held, self._held = self._held or [], None
            self._deliver(held)

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        with self._lock:
            self.heard.append(message.topic)
            answer = None if message.retain else self.rules.answer(message.topic, bytes(message.payload))
            if answer is None:
                return
            if self._held is None:
                self._deliver([answer])
            else:
                self._held.append(answer)

    def _deliver(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            for said in self.courier(answer):
                self._client.publish(said.topic, json.dumps(said.payload), qos=1)


def _parsed(payload: bytes) -> Mapping[str, Any]:
    try:
        body = json.loads(payload)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Refusal(400, "InvalidJson", "The payload is no JSON object")  # its code: unconfirmed
    return body
