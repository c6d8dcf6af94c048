"""The least that a broker has to allow: policies of AWS IoT Core, and an access list of mosquitto. Pure.

Sources: AWS IoT Core developer guide "AWS IoT Core policies", "thing policy variables", "Publish/Subscribe policy
examples", "provisioning devices that don't have device certificates"; mosquitto.conf(5), acl_file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from iotd.config.section import RETAIN, SUBSCRIBE, Claim, Use
from iotd.config.settings import Settings
from iotd.host.identity import Identity

MAX_CHARACTERS = 2048  # of one policy, without whitespace
MAX_POLICIES = 10  # of one certificate

# What stands in the topics of no device in particular; fit for the name of a thing.
THING = "iotd--thing--here"
ANY_HOST = Identity(*(f"iotd--{name}--here" for name in Identity._fields))
_HOST = re.compile("|".join(ANY_HOST))
_THING_NAME = "${iot:Connection.Thing.ThingName}"


class Where(NamedTuple):
    """Whose topics: the ARNs of an AWS region and account, or of any."""

    region: str = "*"
    account: str = "*"

    def arn(self, kind: str, name: str) -> str:
        """Return the ARN of a client, topic or topicfilter."""
        return f"arn:aws:iot:{self.region}:{self.account}:{kind}/{_HOST.sub('*', name.replace(THING, _THING_NAME))}"


def for_device(settings: Settings, uses: Iterable[Use], where: Where) -> list[dict[str, Any]]:
    """Return the policies of a device's certificate, for settings of ANY_HOST and THING, and what these use."""
    mqtt = settings.mqtt
    attributes = ["LastWill"] * bool(settings.presence.topic) + ["PersistentConnect"] * (not mqtt.clean_session)
    condition: dict[str, Any] = {"Bool": {"iot:Connection.Thing.IsAttached": "true"}}
    if attributes:
        condition["ForAllValues:StringEquals"] = {"iot:ConnectAttributes": attributes}
    connect = {"Effect": "Allow", "Action": "iot:Connect", "Resource": where.arn("client", mqtt.client_id or THING),
               "Condition": condition}
    return _policies([connect, *_statements(uses, where)])


def for_claim(claim: Claim, where: Where) -> list[dict[str, Any]]:
    """Return the policies of the certificate that devices ask for their own with."""
    connect = {"Effect": "Allow", "Action": "iot:Connect", "Resource": where.arn("client", f"{claim.client_id}*")}
    return _policies([connect, *_statements(claim.uses, where)])


def for_mosquitto(settings: Settings, uses: Iterable[Use]) -> list[str]:
    """Return the lines of an acl_file, for settings of ANY_HOST and THING, and what these use.

    The thing is %u, the name in its certificate, where it shows one, else %c, its client id.
    """
    by_certificate = settings.mqtt.tls is not None and bool(settings.mqtt.tls.cert)
    letter, needs = ("%u", "use_identity_as_username true") if by_certificate else ("%c", "client ids that are known")
    kinds: dict[str, set[str]] = {}
    for verb, name in uses:
        levels = [letter if level == THING else "+" if THING in level or _HOST.search(level) else level
                  for level in _unshared(name).split("/")]
        kinds.setdefault("/".join(levels), set()).add("read" if verb == SUBSCRIBE else "write")
    return [f"# acl_file for mosquitto.conf; {letter} is the thing, which takes {needs}.",
            *(f"pattern {'readwrite' if len(kind) == 2 else min(kind)} {name}" for name, kind in kinds.items())]


def wider(settings: Settings, uses: Iterable[Use]) -> list[str]:
    """Return, in a sentence each, where a policy allows more than this device needs, or less than it may seem."""
    topics = dict.fromkeys(use.filter for use in uses)
    found = []
    for name in topics:
        for field, marker in zip(Identity._fields, ANY_HOST):
            if marker in name:
                shown = _HOST.sub(lambda found: f"{{{Identity._fields[ANY_HOST.index(found[0])]}}}", name)
                found.append(f"{shown.replace(THING, '{thing}')}: {{{field}}} becomes a wildcard, since a broker knows "
                             "no more of a device than its thing; write {thing} to keep devices apart")
    if settings.mqtt.client_id not in (None, THING):
        found.append("mqtt.client_id is not the thing's name: AWS IoT knows the thing then only where the certificate "
                     "is attached to it exclusively (EXCLUSIVE_THING)")
    return found


def _statements(uses: Iterable[Use], where: Where) -> list[dict[str, Any]]:
    """Return one statement for each set of actions that some resources have in common."""
    patterns: dict[str, dict[str, None]] = {}
    for verb, name in uses:
        if verb == SUBSCRIBE:
            patterns.setdefault("iot:Subscribe", {})[where.arn("topicfilter", _with_siblings(name))] = None
            patterns.setdefault("iot:Receive", {})[where.arn("topic", _topics(_with_siblings(_unshared(name))))] = None
        else:
            for action in ("iot:Publish", *(["iot:RetainPublish"] if verb == RETAIN else [])):
                patterns.setdefault(action, {})[where.arn("topic", _topics(name))] = None
    actions: dict[str, list[str]] = {}
    for action in ("iot:Publish", "iot:RetainPublish", "iot:Receive", "iot:Subscribe"):
        for arn in _without_covered(patterns.get(action, {})):
            actions.setdefault(arn, []).append(action)
    resources: dict[tuple[str, ...], list[str]] = {}
    for arn, allowed in actions.items():
        resources.setdefault(tuple(allowed), []).append(arn)
    return [{"Effect": "Allow", "Action": allowed[0] if len(allowed) == 1 else list(allowed), "Resource": arns}
            for allowed, arns in resources.items()]


def _with_siblings(name: str) -> str:
    """Return a filter of the service's answers with all answers to the same request: that is a third of the length."""
    return f"{name.rpartition('/')[0]}/*" if name.startswith("$aws/") else name


def _topics(filter: str) -> str:
    """Return the pattern of AWS for the topics of an MQTT filter, in whose resources + and # are themselves."""
    return re.sub(r"(?<![^/])[+#](?![^/])", "*", filter)


def _unshared(filter: str) -> str:
    return filter.split("/", 2)[2] if filter.startswith("$share/") else filter


def _without_covered(patterns: Iterable[str]) -> list[str]:
    """Return the patterns without those that another one matches as well."""
    kept = list(patterns)
    for pattern in list(kept):
        if any(other != pattern and _covers(other, pattern) for other in kept):
            kept.remove(pattern)
    return kept


def _covers(pattern: str, other: str) -> bool:
    expression = "".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in pattern)
    return re.fullmatch(expression, other, re.DOTALL) is not None


def _policies(statements: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return as few policies as hold the statements; one that is too long is taken apart by its resources."""
    policies: list[dict[str, Any]] = []
    for statement in statements:
        resources = statement["Resource"]
        for resource in resources if isinstance(resources, list) else [resources]:
            for last in policies[-1:]:
                if _fits(_with(last, statement, resource)):
                    policies[-1] = _with(last, statement, resource)
                    break
            else:
                policies.append(_with({"Version": "2012-10-17", "Statement": []}, statement, resource))
    return policies


def _with(policy: Mapping[str, Any], statement: Mapping[str, Any], resource: str) -> dict[str, Any]:
    """Return the policy with one more resource of the statement."""
    *others, last = policy["Statement"] or [{}]
    if {**last, "Resource": ""} == {**statement, "Resource": ""}:
        so_far = last["Resource"] if isinstance(last["Resource"], list) else [last["Resource"]]
        return {**policy, "Statement": [*others, {**last, "Resource": [*so_far, resource]}]}
    return {**policy, "Statement": [*policy["Statement"], {**statement, "Resource": resource}]}


def _fits(policy: Mapping[str, Any]) -> bool:
    return len(json.dumps(policy, ensure_ascii=False, separators=(",", ":"))) <= MAX_CHARACTERS
