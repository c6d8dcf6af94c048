"""`iotd policy --aws` on the gate: with it iotd does everything, without any piece of it something is denied."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from iotd.config import parse, policy
from tests.aws.gate import Gate, Ruling
from tests.aws.jobs import JobsService
from tests.aws.policy import ACCOUNT, REGION
from tests.aws.service import ShadowService
from tests.certificates import Certificates, make_certificates
from tests.mosquitto import Mosquitto
from tests.observer import Observer
from tests.running import ROOT, Iotd, configuration

SECTIONS: dict[str, Any] = {
    "publish": [{"topic": "plant/{thing}/state", "every": "1s", "payload": {"n": "{sequence}"}},
                {"topic": "plant/{thing}/log", "every": "1s", "retain": False, "payload": {}}],
    "subscribe": [{"topic": "plant/{thing}/horn"}, {"topic": "plant/all/#"}],
    "shadows": [{"name": "device_0", "every": "1s", "reported": {"at": "{timestamp}"}}, {"reported": {"a": 1}}],
    "local": {"publish": ["plant/{thing}/program/#"]},
    "jobs": {"handlers": {"nothing": {"run": ["/bin/true"]}}},
}
HEARD = ("plant/test-thing/horn", "plant/all/lamps/1")
DOCUMENTS = policy.for_device(
    settings := parse.parse(yaml.safe_dump({"mqtt": {"host": "h"}, **SECTIONS}), "", policy.ANY_HOST,
                            policy.THING).settings, parse.uses(settings), policy.Where(REGION, ACCOUNT))


def statements(documents: list[Any]) -> list[dict[str, Any]]:
    return [statement for document in documents for statement in document["Statement"]]


def without(index: int, element: str = "", value: str = "") -> list[Any]:
    """Return the policies without a statement, or without one of its actions or resources."""
    documents = copy.deepcopy(DOCUMENTS)
    statement = statements(documents)[index]
    if element:
        statement[element].remove(value)
    else:
        for document in documents:
            document["Statement"] = [kept for kept in document["Statement"] if kept is not statement]
    return [document for document in documents if document["Statement"]]


def pieces() -> Iterator[Any]:
    """Yield each action and each resource that stands beside others in a statement."""
    for index, statement in enumerate(statements(DOCUMENTS)):
        for element in ("Action", "Resource"):
            values = statement[element]
            for value in values if isinstance(values, list) else []:
                yield pytest.param(index, element, value, id=f"{index}-{value.rpartition(':')[2]}")


class Scene:
    """iotd as the thing `test-thing` behind a gate, and the cloud on the other side."""

    def __init__(self, directory: Path, certificates: Certificates, policies: list[Any], stack: ExitStack) -> None:
        broker = stack.enter_context(Mosquitto(directory))
        self.service = stack.enter_context(ShadowService(broker))
        self.jobs = stack.enter_context(JobsService(broker))
        self.cloud = stack.enter_context(Observer(broker, "cloud"))
        self.gate = stack.enter_context(Gate(broker, certificates, {"test-thing": policies}))
        settings = configuration(self.gate, certificates, **SECTIONS)
        settings["mqtt"]["limits"] = "aws"
        self._asked = 0
        self.device = stack.enter_context(Iotd(directory / "device", settings))

    def ask(self) -> None:
        """Send the device something on everything that it listens to."""
        for topic in HEARD:
            self.cloud.publish(topic, b"!")
        for shadow in ("device_0", None):
            self.service.update("test-thing", shadow, {"desired": {"fan": 1}})
        self._asked += 1
        self.jobs.create("test-thing", f"job-{self._asked}", {"operation": "nothing"})

    def publish(self) -> None:
        """Have a program on the device publish."""
        subprocess.run([sys.executable, "-m", "iotd", "publish", "plant/test-thing/program/a", "1", "--retain"],
                       env=self.device.environment(), cwd=ROOT, check=True, timeout=20)

    def until_denied(self) -> Ruling:
        """Have the device do all that it is configured to until it is denied something."""
        self.gate_denies(3.0)
        for _ in range(10):
            self.ask()
            self.publish()
            if self.gate_denies(1.0):
                break
        return self.gate.wait_for(what="iot:")

    def gate_denies(self, within_s: float) -> bool:
        with suppress(AssertionError):
            return bool(self.gate.wait_for(what="iot:", timeout_s=within_s))
        return False


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def test_with_the_printed_policy_everything_is_allowed(tmp_path: Path, certificates: Certificates) -> None:
    (tmp_path / "iotd.yaml").write_text(yaml.safe_dump({"mqtt": {"host": "h"}, **SECTIONS}))
    printed = subprocess.run(
        [sys.executable, "-m", "iotd", "policy", "--aws", "--region", REGION, "--account", ACCOUNT,
         "-c", str(tmp_path / "iotd.yaml")], capture_output=True, text=True, timeout=20, check=True)
    documents = json.loads(printed.stdout)
    assert printed.stderr == "" and documents == DOCUMENTS
    with ExitStack() as stack:
        scene = Scene(tmp_path, certificates, documents, stack)
        scene.device.wait_for("session.connected")
        scene.cloud.subscribe("#")
        scene.cloud.wait_for("plant/test-thing/log")
        scene.cloud.wait_for("plant/test-thing/state", lambda message: message.json()["n"] >= 2)
        scene.ask()
        for topic in HEARD:
            scene.device.wait_for("message.received", topic=topic)
        for shadow in ("device_0", None):
            scene.device.wait_for("shadow.delta", shadow=shadow)
        scene.device.wait_for("job.done")
        scene.publish()
        scene.cloud.wait_for("plant/test-thing/program/a")
        assert scene.gate.rulings == []


@pytest.mark.parametrize("index, denied", [
    (0, "iot:Connect test-thing"),
    (1, "iot:Publish MQTTServer/test-thing/will"),
    (2, "iot:Publish plant/test-thing/state"),
    (3, "iot:Publish plant/test-thing/log"),
    (4, "iot:Receive "),
    (5, "iot:Receive $aws/things/test-thing/"),
    (6, "iot:Subscribe "),
])
def test_without_a_statement_something_is_denied(
    tmp_path: Path, certificates: Certificates, index: int, denied: str
) -> None:
    with ExitStack() as stack:
        assert denied in Scene(tmp_path, certificates, without(index), stack).until_denied().what
    assert len(statements(DOCUMENTS)) == 7


@pytest.mark.parametrize("index, element, value", pieces())
def test_without_an_action_or_a_resource_something_is_denied(
    tmp_path: Path, certificates: Certificates, index: int, element: str, value: str
) -> None:
    with ExitStack() as stack:
        denied = Scene(tmp_path, certificates, without(index, element, value), stack).until_denied().what
    if element == "Action":
        assert denied.startswith(value)
