"""docs/aws/fleet.yaml: what it says holds, and each check of it can fail."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.aws import sql
from tests.aws.cloudformation import Template, problems
from tests.aws.gate import Gate
from tests.aws.jobs import JobsService
from tests.aws.policy import ACCOUNT, REGION
from tests.aws.provisioning import REGISTER, Provisioning, ProvisioningService, signed_by
from tests.aws.provisioning import Template as FleetTemplate
from tests.aws.service import ShadowService
from tests.aws.test_readme import fleet_file
from tests.aws.venv import VENV
from tests.certificates import Certificates
from tests.mosquitto import Mosquitto
from tests.running import ROOT, Iotd, configuration

FILE = ROOT / "docs/aws/fleet.yaml"
TEXT = FILE.read_text("utf-8")
TEMPLATE = Template(TEXT, Mail="somebody@example.com")
ON_TOP = fleet_file()


def lint(file: Path) -> str:
    """Return what cfn-lint says of a file."""
    program = VENV / "bin/cfn-lint"
    assert program.exists(), "cfn-lint is missing; run: script/bootstrap aws"
    return subprocess.run([program, "--", file], capture_output=True, text=True, timeout=60).stdout


def test_cfn_lint_finds_nothing(tmp_path: Path) -> None:
    assert lint(FILE) == ""
    (tmp_path / "broken.yaml").write_text(TEXT.replace("${!iot:", "${iot:"))
    assert "E1019" in lint(tmp_path / "broken.yaml")


def test_what_cfn_lint_passes_over_is_right_too() -> None:
    assert problems(TEXT) == []


@pytest.mark.parametrize("right, wrong, problem", [
    ("iot:RetainPublish", "iot:RetainPublsh", "there is no action 'iot:RetainPublsh'"),
    (":topicfilter/MQTTServer", ":topic/MQTTServer", "iot:Subscribe is for topicfilter/"),
    ("${!iot:Connection.Thing.ThingName}/in", "${!iot:ThingName}/in", "${iot:ThingName} is not known"),
    ('Resource: !Sub "arn:aws:iot:${AWS::Region}:${AWS::AccountId}:client/', 'Resource: "arn:aws:iot:eu:1:client/',
     "of another account or region"),
    ('"Parameters": {', '"Parameters": ', "TemplateBody is no JSON"),
    ('{"Ref": "SerialNumber"}]]', '{"Ref": "Serial"}]]', "refers to Serial, which is no parameter"),
    ('"PolicyName": "${Second}"', '"PolicyName": "second"', "the policy second, which is not made here"),
    ('"ThingTypeName": "${Fleet}"', '"ThingTypeName": "other"', "a thing type that is not made here"),
    ('"Status": "ACTIVE"', '"Status": "INACTIVE"', "leaves the certificate inactive"),
    ('"ThingTypeName": "REPLACE"', '"ThingTypeName": "FAIL"', "every renewal"),
    ("Enabled: true", "Enabled: false", "Enabled is not true"),
    ("Default: plant-fleet", f"Default: {'p' * 37}", "TemplateName is longer than 36"),
    ("${Name}_lost", "${Name}-lost", "is not of a-z A-Z 0-9 _"),
    ("RuleDisabled: false", "RuleDisabled: true", "RuleDisabled is not false"),
    ("        ErrorAction: ", "        Ignored: ", "no ErrorAction"),
    ("= 'Communication lost'", '= "Communication lost"', "its SQL:"),
    ("topic(2) AS thing", "topic(4) AS thing", "has no such level"),
    ("isUndefined(", "is_undefined(", "the function is_undefined() is not known"),
    ("MQTTServer/+/will'", "MQTTServer/pi+/will'", "is no filter"),
    ("Principal: iot.amazonaws.com", "Principal: sns.amazonaws.com", "add a Lambda::Permission"),
    ("      SourceAccount: !Ref AWS::AccountId\n", "", "add a Lambda::Permission"),
    ("VisibilityTimeout: 120", "VisibilityTimeout: 60", "VisibilityTimeout of its queue is below 120 s"),
    ("      FunctionResponseTypes: [ReportBatchItemFailures]\n", "", "counts as done"),
    ("def sentence(", "def sentence", "its code is no Python"),
    (r"\u30c0", "ダ", "letters beyond ASCII"),
    ('SourceArn: !Sub "', 'SourceArn: "', "is in no !Sub"),
])
def test_each_check_can_fail(right: str, wrong: str, problem: str) -> None:
    assert right in TEXT
    found = problems(TEXT.replace(right, wrong))
    assert any(problem in line for line in found), found


def printed(tmp_path: Path, kind: str) -> list[Any]:
    """Return what `iotd policy` prints for the sample with a fleet's file on top."""
    (tmp_path / "iotd.d").mkdir(exist_ok=True)
    (tmp_path / "iotd.yaml").write_text((ROOT / "etc/iotd.yaml").read_text("utf-8"), "utf-8")
    (tmp_path / "iotd.d/fleet.yaml").write_text(ON_TOP)
    done = subprocess.run(
        [sys.executable, "-m", "iotd", "policy", kind, "--region", REGION, "--account", ACCOUNT,
         "-c", str(tmp_path / "iotd.yaml")], capture_output=True, text=True, timeout=20, check=True, cwd=ROOT)
    assert done.stderr == ""
    documents = json.loads(done.stdout)
    return documents if isinstance(documents, list) else [documents]


POLICIES = {name: properties["PolicyDocument"] for name, properties in TEMPLATE.of_type("AWS::IoT::Policy")}
OF_THE_DEVICE, OF_THE_CLAIM = [POLICIES["DevicePolicy"], POLICIES["DeviceSubscriptions"]], [POLICIES["ClaimPolicy"]]


def test_its_policies_are_those_that_iotd_prints(tmp_path: Path) -> None:
    assert printed(tmp_path, "--aws") == OF_THE_DEVICE
    assert printed(tmp_path, "--claim") == OF_THE_CLAIM


def of_the_stack() -> dict[str, FleetTemplate]:
    """Return the provisioning template as the stand-in knows it."""
    [(_, properties)] = TEMPLATE.of_type("AWS::IoT::ProvisioningTemplate")
    body = json.loads(properties["TemplateBody"])
    assert body["Resources"]["thing"]["Properties"]["ThingName"] == {
        "Fn::Join": ["", ["pi-", {"Ref": "SerialNumber"}]]}
    declared = {name: each.get("Default") for name, each in body["Parameters"].items()}
    return {properties["TemplateName"]: FleetTemplate(declared, "pi-{SerialNumber}")}


def test_with_its_policies_a_claim_becomes_a_thing_that_does_all_of_the_sample(
    tmp_path: Path, certificates: Certificates
) -> None:
    """On the gate, which closes the line over whatever they do not allow."""
    with ExitStack() as stack:
        broker = stack.enter_context(Mosquitto(tmp_path))
        account = Provisioning(of_the_stack(), signed_by(certificates.authority, "pi-7"))
        stack.enter_context(ProvisioningService(broker, account))
        shadows = stack.enter_context(ShadowService(broker))
        jobs = stack.enter_context(JobsService(broker))
        gate = stack.enter_context(Gate(broker, certificates, {"claim": OF_THE_CLAIM, "pi-7": OF_THE_DEVICE}))
        sample = yaml.safe_load((ROOT / "etc/iotd.yaml").read_text("utf-8"))
        on_top = yaml.safe_load(ON_TOP)
        claim = certificates.authority.issue("claim")
        settings = configuration(
            gate, certificates, **{key: sample[key] for key in ("presence", "publish", "subscribe", "shadows")},
            jobs=on_top["jobs"], provision={
                **on_top["provision"], "parameters": {"SerialNumber": "7"},
                "claim": {"cert": str(claim.cert), "key": str(claim.key)}})
        del settings["thing"], settings["mqtt"]["tls"]["cert"], settings["mqtt"]["tls"]["key"]
        settings["mqtt"]["limits"] = "aws"
        device = stack.enter_context(Iotd(tmp_path / "device", {**settings, "log": {"level": "debug"}}))
        registered = device.wait_for("provision.registered", thing="pi-7")
        since = device.entries.index(registered)
        device.wait_for("session.connected", since=since)
        device.wait_for("message.published", since=since, topic="MQTTServer/pi-7/0")
        device.wait_for("shadow.accepted", since=since, shadow="device_0")
        shadows.update("pi-7", "device_0", {"desired": {"fan": 1}})
        device.wait_for("shadow.delta", since=since, shadow="device_0")
        jobs.create("pi-7", "job-1", {"operation": "unheard-of"})
        device.wait_for("job.rejected", since=since)
        renewed = subprocess.run([sys.executable, "-m", "iotd", "renew"], env=device.environment(), cwd=ROOT,
                                 capture_output=True, text=True, timeout=30)
        assert (renewed.returncode, renewed.stdout) == (0, "provisioned as pi-7\n")
        assert gate.rulings == []
    assert REGISTER.format("plant-fleet") in json.dumps(OF_THE_CLAIM)


class Missing(Exception):
    """ResourceNotFoundException of a client of AWS."""


class Exceptions:
    """The exceptions of a client of AWS."""

    ResourceNotFoundException = Missing


class Cloud:
    """The clients that the functions of the stack ask; `retained` by topic, `owners` by thing."""

    exceptions = Exceptions

    def __init__(self) -> None:
        self.retained: dict[str, bytes] = {}
        self.owners: dict[str, list[str]] = {}
        self.mails: list[dict[str, str]] = []
        self.mail_fails = False

    def get_retained_message(self, topic: str) -> dict[str, Any]:
        if topic not in self.retained:
            raise Missing
        return {"topic": topic, "payload": self.retained[topic]}

    def publish(self, TopicArn: str, Subject: str, Message: str) -> None:
        if self.mail_fails:
            raise ConnectionError("no")
        self.mails.append({"to": TopicArn, "subject": Subject, "text": Message})

    def list_thing_principals(self, thingName: str) -> dict[str, Any]:
        if thingName not in self.owners:
            raise Missing
        return {"principals": self.owners[thingName]}


def handler(name: str) -> Callable[..., Any]:
    """Return the handler of a function of the stack."""
    properties = dict(TEMPLATE.of_type("AWS::Lambda::Function"))[name]
    assert properties["Handler"] == "index.handler"
    names: dict[str, Any] = {}
    exec(compile(properties["Code"]["ZipFile"], f"{name}/index.py", "exec"), names)
    found: Callable[..., Any] = names["handler"]
    return found


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Cloud:
    monkeypatch.setenv("MAILS", "arn:mails")
    return Cloud()


def rule(name: str) -> sql.Statement:
    return sql.parse(dict(TEMPLATE.of_type("AWS::IoT::TopicRule"))[name]["TopicRulePayload"]["Sql"])


WILL = {"Hostname": "pi-7", "status": "Communication lost", "session": "a"}


def selected(name: str, topic: str, payload: Any) -> str:
    """Return what a rule puts into the queue for a message, as text."""
    found = rule(name).select(sql.Message(topic, payload))
    assert found is not None
    return json.dumps(found)


def looked(cloud: Cloud, *bodies: str) -> list[str]:
    """Have the function look at what is in the queue; return the bodies that it gives back."""
    records = [{"messageId": str(index), "body": body} for index, body in enumerate(bodies)]
    answer = handler("Look")({"Records": records}, None, cloud, cloud)
    return [bodies[int(failure["itemIdentifier"])] for failure in answer["batchItemFailures"]]


def lost(thing: str = "pi-7") -> str:
    return selected("LostRule", f"MQTTServer/{thing}/will", WILL)


def stands(cloud: Cloud, thing: str = "pi-7", **more: str) -> None:
    cloud.retained[f"MQTTServer/{thing}/will"] = json.dumps({**WILL, **more}).encode()


def test_a_device_that_is_still_lost_is_one_mail(cloud: Cloud) -> None:
    stands(cloud)
    assert looked(cloud, lost()) == []
    [mail] = cloud.mails
    assert mail["to"] == "arn:mails" and mail["subject"] == "pi-7 is lost" and "pi-7 is lost: " in mail["text"]


@pytest.mark.parametrize("more", [{"status": "Connected"}, {"status": "Stopped"}, {"session": "b"}])
def test_a_device_that_has_spoken_since_is_no_mail(cloud: Cloud, more: dict[str, str]) -> None:
    stands(cloud, **more)
    assert looked(cloud, lost()) == [] and cloud.mails == []


def test_a_presence_that_was_cleared_is_no_mail(cloud: Cloud) -> None:
    assert looked(cloud, lost()) == [] and cloud.mails == []


def test_a_shop_that_is_lost_is_one_mail(cloud: Cloud) -> None:
    things = [f"pi-{number}" for number in range(30)]
    for thing in things:
        stands(cloud, thing)
    assert looked(cloud, *(lost(thing) for thing in things)) == []
    [mail] = cloud.mails
    assert mail["subject"] == "pi-0 is lost and 29 more" and mail["text"].count("\n") == 29


def test_the_subject_of_a_mail_is_one_that_sns_takes(cloud: Cloud) -> None:
    stands(cloud, "p" * 128)
    looked(cloud, lost("p" * 128))
    assert len(cloud.mails[0]["subject"]) < 100 and cloud.mails[0]["subject"].isascii()


@pytest.mark.parametrize("body", ["", "{", "[]", "{}", json.dumps({"thing": "pi-7", "topic": "bad"})])
def test_a_message_that_cannot_be_read_is_named_and_comes_again_and_keeps_back_no_other(
    cloud: Cloud, body: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.retained["bad"] = b"\xff"
    stands(cloud)
    assert looked(cloud, body, lost()) == [body]
    assert len(cloud.mails) == 1
    named = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert any(line.get("failed") == body and line["reason"] for line in named)


def test_what_could_not_be_mailed_comes_again(cloud: Cloud) -> None:
    stands(cloud)
    cloud.mail_fails = True
    assert looked(cloud, lost()) == [lost()]


def documents(before: Any, now: Any) -> dict[str, Any]:
    return {"previous": before, "current": {"state": {"reported": {"state": now}}}}


REPORTS = "$aws/things/pi-7/shadow/name/device_0/update/documents"
WELL, NOT_WELL = "ヨシッ👉", "ダメ🙅"
WAS_WELL, WAS_NOT = ({"state": {"reported": {"state": state}}} for state in (WELL, NOT_WELL))


@pytest.mark.parametrize("before", [WAS_WELL, None, {}, {"state": {"desired": {}}}])
def test_a_device_that_turns_bad_or_begins_so_is_a_mail(cloud: Cloud, before: Any) -> None:
    assert looked(cloud, selected("HealthRule", REPORTS, documents(before, NOT_WELL))) == []
    [mail] = cloud.mails
    assert mail["subject"] == "pi-7 is not well" and NOT_WELL in mail["text"]


def test_a_device_that_turns_well_is_no_mail(cloud: Cloud) -> None:
    assert looked(cloud, selected("HealthRule", REPORTS, documents(WAS_NOT, WELL))) == [] and cloud.mails == []


def test_what_does_not_change_is_not_selected() -> None:
    assert rule("HealthRule").select(sql.Message(REPORTS, documents(WAS_NOT, NOT_WELL))) is None
    assert rule("LostRule").select(sql.Message("MQTTServer/pi-7/will", {**WILL, "status": "Stopped"})) is None


def test_the_topics_and_words_are_those_of_the_sample() -> None:
    sample = yaml.safe_load((ROOT / "etc/iotd.yaml").read_text("utf-8"))
    [shadow] = sample["shadows"]
    assert rule("LostRule").filter == sample["presence"]["topic"].replace("{thing}", "+")
    assert rule("HealthRule").filter == f"$aws/things/+/shadow/name/{shadow['name']}/update/documents"
    assert (shadow["healthy"], shadow["unhealthy"]) == (WELL, NOT_WELL)
    assert sample["presence"]["retain"] is True


@pytest.mark.parametrize("client, owners, status, allowed", [
    ("claim-7", None, "", True),
    ("claim-7", [], "", True),
    ("claim-7", ["arn:aws:iot:eu-central-1:1:cert/new"], "Connected", True),
    ("claim-7", ["arn:aws:iot:eu-central-1:1:cert/old"], "Connected", False),
    ("claim-7", ["arn:aws:iot:eu-central-1:1:cert/old"], "Communication lost", False),
    ("claim-7", ["arn:aws:iot:eu-central-1:1:cert/old"], "", True),
    ("claim-7", ["arn:aws:iot:eu-central-1:1:cert/brand-new"], "Connected", False),
    ("pi-7", ["arn:aws:iot:eu-central-1:1:cert/old"], "Connected", True),
    ("pi-8", ["arn:aws:iot:eu-central-1:1:cert/old"], "Connected", False),
], ids=["new thing", "prepared thing", "asked again", "other's thing", "other's lost thing", "never came up",
        "other's certificate", "renewal", "other thing"])
def test_a_claim_makes_new_things_and_takes_over_none(
    cloud: Cloud, client: str, owners: list[str] | None, status: str, allowed: bool
) -> None:
    if owners is not None:
        cloud.owners["pi-7"] = owners
    if status:
        stands(cloud, status=status)
    event = {"claimCertificateId": "claim", "certificateId": "new", "clientId": client,
             "parameters": {"SerialNumber": "7"}}
    assert handler("Hook")(event, None, cloud, cloud) == {"allowProvisioning": allowed}


def test_nobody_but_the_thing_itself_has_its_client_id() -> None:
    """Which is what the hook believes of a renewal."""
    [statement] = [each for each in OF_THE_CLAIM[0]["Statement"] if each["Action"] == "iot:Connect"]
    assert statement["Resource"].endswith(":client/claim-*")
