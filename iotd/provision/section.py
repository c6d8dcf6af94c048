"""The section `provision`: by which claim and template the device becomes a thing, and when that is renewed."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from iotd.config import section
from iotd.config.document import Cursor, Wrong, quoted
from iotd.config.readers import choice, duration_or_zero, path, template_text, text
from iotd.config.section import PUBLISH, SUBSCRIBE, Note, Section, Use
from iotd.config.settings import Settings
from iotd.config.template import EVERYWHERE, compile_tree, placeholders
from iotd.host.identity import Given, Identity
from iotd.host.openssl import KEYS
from iotd.vocabulary import Json

CREATE = "$aws/certificates/create-from-csr/json"
REGISTER = "$aws/provisioning-templates/{}/provision/json"
CLAIM = "claim-"  # begins the client id of the line of the claim
KNOWN = EVERYWHERE - {"thing"} | {"model"}


class Claim(NamedTuple):
    """The pair that all devices of an image share."""

    cert: str = "/etc/iotd/claim/certificate.pem.crt"
    key: str = "/etc/iotd/claim/private.pem.key"


class Provision(NamedTuple):
    """`parameters` are texts with placeholders. `renew_s` before its end, or `renew_after_s` old, the certificate is
    renewed; 0 is never.
    """

    template: str
    claim: Claim = Claim()
    parameters: Mapping[str, str] = {}
    key: str = "ec-p256"
    renew_s: float = 30 * 86400.0
    renew_after_s: float = 0.0


def _provision(at: Cursor) -> Provision:
    return Provision(**at.fields({
        "template": ("template", _template),
        "claim": ("claim", lambda below: Claim(**below.fields({"cert": ("cert", path), "key": ("key", path)}))),
        "parameters": ("parameters", _parameters),
        "key": ("key", choice(*KEYS)),
        "renew": ("renew_s", duration_or_zero),
        "renew_after": ("renew_after_s", duration_or_zero),
    }, template=""))


def _template(at: Cursor) -> str:
    written = text(at)
    if not re.fullmatch("[0-9A-Za-z_-]{1,36}", written):
        raise Wrong("expected the name of a provisioning template, 1 to 36 of 0-9 A-Z a-z _ -, found "
                    f"{quoted(written)}")
    return written


def _parameters(at: Cursor) -> dict[str, str]:
    reader = template_text(KNOWN)
    return {key: value for key, below in at.entries() for value in below.read(reader)}


def filled(parameters: Mapping[str, str], known: Mapping[str, Json]) -> dict[str, str]:
    """Return what the template is told; a parameter that this device does not know is left to its Default there."""
    return {key: str(compile_tree(text)(known)) for key, text in parameters.items()
            if all(known[name] is not None for name in placeholders(text))}


def claim_id(identity: Identity) -> str:
    """Return the client id of the line of the claim, this device's own and no thing's."""
    own = identity.cpu_serial or identity.machine_id or identity.hostname
    return CLAIM + re.sub("[^0-9A-Za-z_-]", "_", own)[:100]


def _identify(settings: Settings, identity: Identity, given: Given | None) -> Settings:
    """Put the identity that the device was given in the place of what the file says of that, or else the claim."""
    provision: Provision = settings.sections["provision"]
    mqtt = settings.mqtt
    if mqtt.tls is None:  # which `_check` notes
        return settings
    if given is not None:
        return settings._replace(thing=given.thing, mqtt=mqtt._replace(
            tls=mqtt.tls._replace(cert=given.cert, key=given.key)))
    name = claim_id(identity)
    tls = mqtt.tls._replace(cert=provision.claim.cert, key=provision.claim.key)
    mqtt = mqtt._replace(tls=tls, client_id=name, clean_session=True)
    return settings._replace(thing=name, is_named=False, mqtt=mqtt)


def _check(settings: Settings, note: Note) -> None:
    if settings.mqtt.tls is None:
        note("provision", "needs mqtt.tls, since who this device is stands in a certificate; add the section, `tls:` "
                          "alone means the default authority")


def answers(provision: Provision) -> list[str]:
    """Return the topics that the answers to both requests come on."""
    return [f"{topic}/{kind}" for topic in (CREATE, REGISTER.format(provision.template))
            for kind in ("accepted", "rejected")]


def _uses(provision: Provision, thing: str = "") -> tuple[Use, ...]:
    """A renewal asks on the line of the thing what the claim does on its own."""
    return (*(Use(PUBLISH, topic) for topic in (CREATE, REGISTER.format(provision.template))),
            *(Use(SUBSCRIBE, topic) for topic in answers(provision)))


SECTIONS = {"provision": Section(
    _provision, check=_check, filters=lambda provision: len(answers(provision)), of_host=True, identify=_identify,
    uses=_uses, claim=lambda provision: section.Claim(CLAIM, _uses(provision)) if provision else None)}
