"""A CloudFormation template: read, its functions resolved, and what cfn-lint does not see in it. Pure.

Sources: CloudFormation user guide "intrinsic functions", AWS::IoT::*; AWS IoT Core developer guide "provisioning
templates", "rules", "error action"; Lambda developer guide "Using Lambda with Amazon SQS".
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml

from tests.aws import policy, sql

PSEUDO = {"AWS::Region": policy.REGION, "AWS::AccountId": policy.ACCOUNT}
NAMES = {"AWS::IoT::Policy": "PolicyName", "AWS::IoT::ThingType": "ThingTypeName",
         "AWS::IoT::ProvisioningTemplate": "TemplateName"}  # what Ref means of them, where it is not the logical id
POLICY_VARIABLES = {"iot:ClientId", "iot:Connection.Thing.ThingName"}
CLAIMED = ("AWS::IoT::Certificate::Id",)  # parameters that the service itself gives a fleet template
MAX_TEMPLATE_NAME, MAX_TEMPLATE_BODY, MAX_CODE = 36, 10240, 4096
_VARIABLE = re.compile(r"\$\{(!?)([^}]*)\}")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML with the short forms of functions: !Sub is Fn::Sub."""


def _function(loader: Any, suffix: str, node: Any) -> Any:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {suffix if suffix == "Ref" else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _function)


class Template:
    """A template with the values of its parameters, those that are not given with their defaults."""

    def __init__(self, text: str, **parameters: str) -> None:
        self.document: Mapping[str, Any] = yaml.load(text, _Loader)
        self.parameters = {name: parameters.get(name, str(declared.get("Default", f"{name}-of-the-test")))
                           for name, declared in self.document.get("Parameters", {}).items()}
        self.resources: Mapping[str, Any] = self.document["Resources"]

    def of_type(self, kind: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the logical ids and the resolved properties of the resources of a type."""
        for name, resource in self.resources.items():
            if resource["Type"] == kind:
                yield name, self.resolved(resource.get("Properties", {}))

    def resolved(self, value: Any) -> Any:
        """Return the value without functions. Raises ValueError for one that is not known here."""
        if isinstance(value, list):
            return [self.resolved(each) for each in value]
        if not isinstance(value, dict):
            return value
        match value:
            case {"Ref": name}:
                return self._referred(name)
            case {"Fn::GetAtt": [name, attribute]}:
                self._referred(name)
                return f"{name}.{attribute}"
            case {"Fn::Sub": str(text)}:
                return self._substituted(text, {})
            case {"Fn::Sub": [text, variables]}:
                return self._substituted(text, self.resolved(variables))
            case {"Fn::Join": [separator, parts]}:
                return separator.join(self.resolved(parts))
            case {"Fn::Split": [separator, text]}:
                return self.resolved(text).split(separator)
        if unknown := [key for key in value if str(key).startswith("Fn::")]:
            raise ValueError(f"{unknown[0]} is not known here")
        return {key: self.resolved(each) for key, each in value.items()}

    def _referred(self, name: str) -> str:
        if name in PSEUDO or name in self.parameters:
            return {**PSEUDO, **self.parameters}[name]
        resource = self.resources.get(name)
        if resource is None:
            raise ValueError(f"there is no {name}")
        named = NAMES.get(resource["Type"])
        return str(self.resolved(resource["Properties"][named])) if named else name

    def _substituted(self, text: str, variables: Mapping[str, str]) -> str:
        def value(found: re.Match[str]) -> str:
            if found[1]:
                return f"${{{found[2]}}}"
            return variables[found[2]] if found[2] in variables else self._referred(found[2])
        return _VARIABLE.sub(value, text)


def problems(text: str) -> list[str]:
    """Return what is wrong with a template and cfn-lint passes over, one line each."""
    template = Template(text)
    found = [] if text.isascii() else ["letters beyond ASCII, which CloudFormation does not keep"]
    for kind, check in _CHECKS.items():
        for name, properties in template.of_type(kind):
            found += [f"{name}: {problem}" for problem in check(template, properties)]
    return found + [f"{where}: {literal!r} is in no !Sub" for where, literal in _unfilled(template.resources, "")]


def _unfilled(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Yield the texts that look as if they were meant to be filled in, and are not."""
    if isinstance(value, dict):
        for key, below in value.items():
            if key != "Fn::Sub":
                yield from _unfilled(below, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for below in value:
            yield from _unfilled(below, where)
    elif isinstance(value, str) and re.search(r"\$\{(!|AWS::|[A-Z][A-Za-z]*\})", value):
        yield where, value


def _policy(template: Template, properties: Mapping[str, Any]) -> Iterator[str]:
    try:
        read = policy.statements([properties["PolicyDocument"]])
    except ValueError as error:
        yield str(error)
        return
    for _, pattern in (resource for statement in read for resource in statement.resources):
        for _, variable in _VARIABLE.findall(pattern):
            if variable not in POLICY_VARIABLES:
                yield f"the policy variable ${{{variable}}} is not known here"
        if "${" in _VARIABLE.sub("", pattern):
            yield f"{pattern!r} has half a variable"


def _provisioning(template: Template, properties: Mapping[str, Any]) -> Iterator[str]:
    if properties.get("Enabled") is not True:
        yield "Enabled is not true, and what it is without is not documented"
    if len(properties["TemplateName"]) > MAX_TEMPLATE_NAME:
        yield f"TemplateName is longer than {MAX_TEMPLATE_NAME}"
    body_text = properties["TemplateBody"]
    if len(body_text) > MAX_TEMPLATE_BODY:
        yield f"TemplateBody is longer than {MAX_TEMPLATE_BODY}"
    hook = properties.get("PreProvisioningHook")
    if hook and not _may_call(template, hook["TargetArn"]):
        yield f"AWS IoT may not call {hook['TargetArn']}; add a Lambda::Permission with SourceAccount and SourceArn"
    try:
        body = json.loads(body_text)
    except ValueError as error:
        yield f"TemplateBody is no JSON: {error}"
        return
    for name in _refs(body["Resources"]):
        if name not in body["Parameters"] and name not in CLAIMED:
            yield f"TemplateBody refers to {name}, which is no parameter of it"
    resources = {each["Type"]: each["Properties"] for each in body["Resources"].values()}
    if resources["AWS::IoT::Certificate"].get("Status", "").upper() != "ACTIVE":
        yield "TemplateBody leaves the certificate inactive"
    known = {properties["PolicyName"] for _, properties in template.of_type("AWS::IoT::Policy")}
    for each in body["Resources"].values():
        if each["Type"] == "AWS::IoT::Policy" and each["Properties"]["PolicyName"] not in known:
            yield f"TemplateBody names the policy {each['Properties']['PolicyName']}, which is not made here"
    types = {properties["ThingTypeName"] for _, properties in template.of_type("AWS::IoT::ThingType")}
    if resources["AWS::IoT::Thing"].get("ThingTypeName") not in types:
        yield "TemplateBody names a thing type that is not made here"
    if "FAIL" in json.dumps(body):
        yield "TemplateBody refuses a thing that is there already, and so every renewal"


def _refs(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("Ref"), str):
            yield value["Ref"]
        for below in value.values():
            yield from _refs(below)
    elif isinstance(value, list):
        for below in value:
            yield from _refs(below)


def _rule(template: Template, properties: Mapping[str, Any]) -> Iterator[str]:
    payload = properties["TopicRulePayload"]
    if not re.fullmatch("[a-zA-Z0-9_]+", properties.get("RuleName", "")):
        yield f"the name {properties.get('RuleName')!r} is not of a-z A-Z 0-9 _"
    if payload.get("AwsIotSqlVersion") != "2016-03-23":
        yield "AwsIotSqlVersion is not 2016-03-23"
    if payload.get("RuleDisabled") is not False:
        yield "RuleDisabled is not false"
    if "ErrorAction" not in payload:
        yield "no ErrorAction, so what fails fails without a word"
    try:
        sql.parse(payload["Sql"])
    except ValueError as error:
        yield f"its SQL: {error}"
    for action in [*payload["Actions"], payload.get("ErrorAction", {})]:
        function = action.get("Lambda", {}).get("FunctionArn")
        if function and not _may_call(template, function):
            yield f"AWS IoT may not call {function}; add a Lambda::Permission with SourceAccount and SourceArn"


def _may_call(template: Template, function: str) -> bool:
    """Tell whether AWS IoT, and from this account alone, may call a function."""
    return any(
        granted.get("FunctionName") in (function, function.removesuffix(".Arn"))
        and granted.get("Action") == "lambda:InvokeFunction" and granted.get("Principal") == "iot.amazonaws.com"
        and granted.get("SourceAccount") == policy.ACCOUNT
        and str(granted.get("SourceArn", "")).startswith("arn:aws:iot:")
        for _, granted in template.of_type("AWS::Lambda::Permission"))


def _function_code(template: Template, properties: Mapping[str, Any]) -> Iterator[str]:
    code = properties["Code"]["ZipFile"]
    if len(code) > MAX_CODE:
        yield f"its code is longer than the {MAX_CODE} characters that stand in a template"
    try:
        ast.parse(code)
    except SyntaxError as error:
        yield f"its code is no Python: {error}"


def _source(template: Template, properties: Mapping[str, Any]) -> Iterator[str]:
    """Lambda wants the queue to be silent for six times the function's time, or a message is worked on twice."""
    functions, queues = (dict(template.of_type(kind)) for kind in ("AWS::Lambda::Function", "AWS::SQS::Queue"))
    queue = queues[properties["EventSourceArn"].removesuffix(".Arn")]
    timeout = functions[properties["FunctionName"]].get("Timeout", 3)
    if queue.get("VisibilityTimeout", 30) < 6 * timeout:
        yield f"VisibilityTimeout of its queue is below {6 * timeout} s"
    if "RedrivePolicy" not in queue:
        yield "its queue has no RedrivePolicy, so what fails comes back for days and is then lost"
    if "ReportBatchItemFailures" not in properties.get("FunctionResponseTypes", []):
        yield "without ReportBatchItemFailures what failed counts as done"


_CHECKS: Mapping[str, Callable[[Template, Mapping[str, Any]], Iterator[str]]] = {
    "AWS::IoT::Policy": _policy, "AWS::IoT::ProvisioningTemplate": _provisioning, "AWS::IoT::TopicRule": _rule,
    "AWS::Lambda::Function": _function_code, "AWS::Lambda::EventSourceMapping": _source}
