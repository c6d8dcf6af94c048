"""The printed policies on the gate: with them a claim becomes a thing and renews, without any piece it is denied."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from iotd.config import parse, policy
from iotd.config.section import Claim
from tests.aws.gate import Gate
from tests.aws.policy import ACCOUNT, REGION
from tests.aws.provisioning import ProvisioningService
from tests.certificates import Certificates
from tests.mosquitto import Mosquitto
from tests.provision.fleet import account, becomes_the_thing, device, service
from tests.provision.test_device import command
from tests.running import Iotd

SETTINGS = parse.parse(yaml.safe_dump({"mqtt": {"host": "h", "tls": {}}, "provision": {"template": "fleet"}}), "",
                       policy.ANY_HOST, policy.THING).settings
WHERE = policy.Where(REGION, ACCOUNT)
OF_THE_DEVICE = policy.for_device(SETTINGS, parse.uses(SETTINGS), WHERE)
ASKED = parse.claim(SETTINGS)
OF_THE_CLAIM = policy.for_claim(ASKED if ASKED is not None else Claim("", ()), WHERE)


def without(documents: list[Any], index: int, value: str) -> list[Any]:
    """Return policies without a resource of a statement, or all of that where it has no other."""
    documents = copy.deepcopy(documents)
    [document] = documents
    statement = document["Statement"][index]
    if isinstance(statement["Resource"], list) and len(statement["Resource"]) > 1:
        statement["Resource"].remove(value)
    else:
        document["Statement"].remove(statement)
    return documents


def pieces(documents: list[Any]) -> Iterator[Any]:
    """Yield each resource of each statement."""
    for index, statement in enumerate(documents[0]["Statement"]):
        resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        for value in resources:
            yield pytest.param(index, value, id=f"{statement['Action']}-{value.rpartition(':')[2]}")


class Scene:
    """A device with a claim behind a gate, and the service on the other side."""

    def __init__(self, path: Path, certificates: Certificates, of_the_claim: list[Any], of_the_device: list[Any],
                 stack: ExitStack) -> None:
        (path / "plain").mkdir()
        broker = stack.enter_context(Mosquitto(path / "plain"))
        self.service: ProvisioningService = stack.enter_context(service(broker, account(certificates, "pi-7")))
        self.gate = stack.enter_context(Gate(broker, certificates, {"claim": of_the_claim, "pi-7": of_the_device}))
        self.device: Iotd = stack.enter_context(device(path / "iotd", self.gate, certificates))


def test_with_the_printed_policies_a_claim_becomes_a_thing_and_renews(
    tmp_path: Path, certificates: Certificates
) -> None:
    with ExitStack() as stack:
        scene = Scene(tmp_path, certificates, OF_THE_CLAIM, OF_THE_DEVICE, stack)
        becomes_the_thing(scene.device)
        assert command(scene.device, "renew") == (0, "provisioned as pi-7\n")
        assert scene.gate.rulings == [] and len(scene.service.rules.things["pi-7"]) == 2


@pytest.mark.parametrize("index, value", pieces(OF_THE_CLAIM))
def test_without_any_piece_of_the_claims_policy_it_is_denied(
    tmp_path: Path, certificates: Certificates, index: int, value: str
) -> None:
    with ExitStack() as stack:
        scene = Scene(tmp_path, certificates, without(OF_THE_CLAIM, index, value), OF_THE_DEVICE, stack)
        refused = "rejected" in value
        if refused:  # which comes only where the service says no
            scene.service.rules.fail_next("create", 500, "InternalFailure")
            scene.service.rules.fail_next("register", 500, "InternalFailure")
        ruling = scene.gate.wait_for(what="iot:")
        assert ruling.client_id.startswith("claim-")
