"""Policies of AWS IoT Core as the service judges them: wildcards, policy variables, conditions, explicit denial. Pure.

Stricter than AWS where a mistake would pass without a word: an action, a kind of resource, a variable or a condition
that is not known here is a ValueError, since on AWS it would match nothing.
Sources: AWS IoT Core developer guide "AWS IoT Core policies", "policy actions", "thing policy variables",
"Connect policy examples"; "endpoints and quotas".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

REGION, ACCOUNT = "eu-central-1", "123456789012"
MAX_CHARACTERS = 2048  # without whitespace
MAX_POLICIES = 10  # of one certificate

KINDS = {"iot:Connect": "client", "iot:Publish": "topic", "iot:RetainPublish": "topic", "iot:Receive": "topic",
         "iot:Subscribe": "topicfilter"}
ATTRIBUTES = "iot:ConnectAttributes"
_THING = "iot:Connection.Thing.ThingName"
_IS_ATTACHED = "iot:Connection.Thing.IsAttached"
_ARN = re.compile(r"arn:aws:iot:(?P<region>[^:]*):(?P<account>[^:]*):(?P<kind>[a-z]+)/(?P<name>.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$\{([^}]*)\}")


class Client(NamedTuple):
    """Who asks. `thing` is what its certificate is attached to; `attributes` are those of its CONNECT, of LastWill and
    PersistentConnect.
    """

    client_id: str
    thing: str | None = None
    exclusive: bool = False
    attributes: frozenset[str] = frozenset()

    def variable(self, name: str) -> str | None:
        """Return what a policy variable stands for, None where it has no value: then its statement matches nothing."""
        known = self.thing is not None and (self.exclusive or self.client_id == self.thing)
        values = {"iot:ClientId": self.client_id, _THING: self.thing if known else None,
                  _IS_ATTACHED: "true" if known else "false"}
        if name not in values:
            raise ValueError(f"the policy variable ${{{name}}} is not known here")
        return values[name]


class Statement(NamedTuple):
    """One statement; `resources` are the patterns behind the ARN's kind, `conditions` operator, key, values."""

    effect: str
    actions: tuple[str, ...]
    resources: tuple[tuple[str, str], ...]  # kind and pattern
    conditions: tuple[tuple[str, str, tuple[str, ...]], ...] = ()


def statements(policies: Sequence[Any]) -> list[Statement]:
    """Read the policies of one certificate, as text or parsed. Raises ValueError for what AWS would not take, or never
    match.
    """
    if len(policies) > MAX_POLICIES:
        raise ValueError(f"{len(policies)} policies; a certificate has at most {MAX_POLICIES}")
    return [statement for policy in policies for statement in _policy(policy)]


def allows(granted: Iterable[Statement], action: str, name: str, client: Client) -> bool:
    """Tell whether the action is allowed on the client id, topic or filter `name`; a Deny wins."""
    effects = {statement.effect for statement in granted if _matches(statement, action, name, client)}
    return effects == {"Allow"}


def _policy(policy: Any) -> list[Statement]:
    document = json.loads(policy) if isinstance(policy, (str, bytes)) else policy
    size = len(re.sub(r"\s", "", policy if isinstance(policy, str) else json.dumps(document, separators=(",", ":"))))
    if size > MAX_CHARACTERS:
        raise ValueError(f"a policy of {size} characters without whitespace; AWS IoT takes {MAX_CHARACTERS}")
    if document.get("Version") != "2012-10-17" or document.keys() - {"Version", "Statement", "Id"}:
        raise ValueError(f"expected Version 2012-10-17 and Statement, found {document.keys()}")
    return [_statement(statement) for statement in document["Statement"]]


def _statement(statement: Mapping[str, Any]) -> Statement:
    if statement.keys() - {"Sid", "Effect", "Action", "Resource", "Condition"}:
        raise ValueError(f"unknown element in {statement}")
    if statement["Effect"] not in ("Allow", "Deny"):
        raise ValueError(f"Effect {statement['Effect']!r}")
    actions, resources = _listed(statement["Action"]), [_resource(each) for each in _listed(statement["Resource"])]
    for action in actions:
        if action not in KINDS:
            raise ValueError(f"there is no action {action!r}; known here are {', '.join(KINDS)}")
        if unfit := [kind for kind, _ in resources if kind not in (KINDS[action], "*")]:
            raise ValueError(f"{action} is for {KINDS[action]}/…, found {unfit[0]}/…")
    conditions = tuple((operator, key, _listed(values)) for operator, keys in statement.get("Condition", {}).items()
                       for key, values in keys.items())
    for operator, key, _ in conditions:
        if (operator, key) not in (("Bool", _IS_ATTACHED), ("ForAllValues:StringEquals", ATTRIBUTES)):
            raise ValueError(f"the condition {operator} on {key} is not known here")
    return Statement(statement["Effect"], actions, tuple(resources), conditions)


def _resource(text: str) -> tuple[str, str]:
    if text == "*":
        return "*", "*"
    found = _ARN.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no ARN of AWS IoT")
    if found["region"] not in ("*", REGION) or found["account"] not in ("*", ACCOUNT):
        raise ValueError(f"{text!r} is of another account or region than {REGION}:{ACCOUNT}")
    return found["kind"], found["name"]


def _matches(statement: Statement, action: str, name: str, client: Client) -> bool:
    return (action in statement.actions
            and any(_fits(pattern, name, client) for _, pattern in statement.resources)
            and all(_holds(condition, client) for condition in statement.conditions)
            and (action != "iot:Connect" or statement.effect == "Deny" or _grants_attributes(statement, client)))


def _fits(pattern: str, name: str, client: Client) -> bool:
    """Compare by AWS's wildcards: * is any text, slashes too, ? one character; + and # are themselves."""
    expression, end = "", 0
    for found in [*_VARIABLE.finditer(pattern), None]:
        literal = pattern[end:found.start() if found else None]
        expression += "".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in literal)
        if found:
            value = client.variable(found[1])
            if value is None:
                return False
            expression, end = expression + re.escape(value), found.end()
    return re.fullmatch(expression, name, re.DOTALL) is not None


def _holds(condition: tuple[str, str, tuple[str, ...]], client: Client) -> bool:
    _, key, values = condition
    if key == ATTRIBUTES:
        return client.attributes <= set(values)
    return client.variable(key) in values


def _grants_attributes(statement: Statement, client: Client) -> bool:
    """Tell whether a will and a persistent session are granted, where CONNECT asks for them.

    The guide says that they have to be, and shows a bare Connect that seems to admit everything: here is the stricter.
    """
    return not client.attributes or any(key == ATTRIBUTES for _, key, _ in statement.conditions)


def _listed(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
