"""A fleet's account on a real broker, and a device of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.aws.gate import Gate
from tests.aws.provisioning import Provisioning, ProvisioningService, Template, signed_by
from tests.certificates import Certificates
from tests.mosquitto import Mosquitto
from tests.running import Iotd, configuration

TEMPLATES = {"fleet": Template({"SerialNumber": None, "Model": "unknown"}, "pi-{SerialNumber}", {"line": "north"})}
PRESENCE = "MQTTServer/pi-7/will"


def account(certificates: Certificates, name: str = "", **how: Any) -> Provisioning:
    """Return an account with one template, whose certificates the broker trusts; `name` is their common name."""
    return Provisioning(TEMPLATES, signed_by(certificates.authority, name), **how)


def service(broker: Mosquitto, rules: Provisioning) -> ProvisioningService:
    """Return the service of an account, on this broker."""
    return ProvisioningService(broker, rules)


def device(
    directory: Path, broker: Mosquitto | Gate, certificates: Certificates, sections: dict[str, Any] | None = None,
    **provision: Any
) -> Iotd:
    """Return a device that has nothing but the claim."""
    claim = certificates.authority.issue("claim")
    settings = configuration(broker, certificates, provision={
        "template": "fleet", "claim": {"cert": str(claim.cert), "key": str(claim.key)},
        "parameters": {"SerialNumber": "7", "Model": "{model}"}, **provision}, **(sections or {}))
    del settings["thing"], settings["mqtt"]["tls"]["cert"], settings["mqtt"]["tls"]["key"]
    settings["mqtt"]["backoff"] = {"first": "100ms", "max": "2s"}
    return Iotd(directory, settings)


def identity_of(iotd: Iotd) -> dict[str, bytes]:
    """Return what lies in the device's folder of its identity."""
    folder = iotd.directory / "state" / "identity"
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def becomes_the_thing(iotd: Iotd) -> None:
    """Wait until a device that has gone for an identity is connected under it."""
    registered = iotd.wait_for("provision.registered", thing="pi-7")
    iotd.wait_for("session.connected", since=iotd.entries.index(registered))
