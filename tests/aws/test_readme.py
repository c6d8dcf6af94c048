"""docs/aws/README.md, and what other pages have people paste: AWS, the shell and iotd take it; its figures are right.

What the AWS CLI adds to the models of botocore stands here as CUSTOM, after "AWS CLI Command Reference"; what a call
does with its values is not looked at.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from iotd import cli
from iotd.config.parse import parse
from iotd.host.identity import Identity
from tests.aws import cloudformation
from tests.aws.venv import VENV
from tests.certificates import make_certificates
from tests.running import ROOT

PAGE = (ROOT / "docs/aws/README.md").read_text("utf-8")
BLOCKS = [block for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
          for block in re.findall(r"(?s)```sh\n(.+?)```", page.read_text("utf-8"))]
TEMPLATE = cloudformation.Template((ROOT / "docs/aws/fleet.yaml").read_text("utf-8"), Mail="you@example.com")

EVERYWHERE = {"query", "output", "region", "cli-binary-format"}
OUTFILES = {"certificate-pem-outfile", "private-key-outfile", "public-key-outfile"}
CUSTOM = {("iot", "create-keys-and-certificate"): OUTFILES}
OWN = {("cloudformation", "deploy"): {"stack-name", "template-file", "capabilities", "parameter-overrides"},
       ("logs", "tail"): {"since", "follow", "filter-pattern"}}  # calls that no model has


def fleet_file() -> str:
    """Return the file that the page puts into /etc/iotd.d, filled in."""
    text: str
    [text] = re.findall(r"(?s)cat >image/fleet\.yaml <<END\n(.+?)END\n", PAGE)
    return text.replace("$ENDPOINT", "abcdefghijklmn-ats.iot.eu-central-1.amazonaws.com").replace("$ESSID", "fleet-ap")


def commands(block: str) -> Iterator[list[str]]:
    """Yield the words of each command of a block, those within $( ) too."""
    text = re.sub(r"(?s)<<END\n.+?\nEND\n", "\n", block)
    # A command within quotes is one all the same: "$(aws …)".
    text = re.sub(r'"\$\((.+?)\)"', r'$(\1)', text.replace("\\\n", " "))
    for line in text.splitlines():
        words: list[str] = []
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for token in [*lexer, ";"]:
            if re.fullmatch(r"[();|&]+", token):
                yield from filter(None, [words])
                words = []
            elif words or token not in ("do", "done", "for", "sudo"):
                words.append(token)


ALL = [words for block in BLOCKS for words in commands(block)]
AWS = [words for words in ALL if words[0] == "aws"]
IOTD = [words for words in ALL if words[0] == "iotd"]


def test_no_command_is_missed() -> None:
    code = "".join(re.sub(r"(?s)<<END\n.+?\nEND\n", "", block) for block in BLOCKS)
    assert len(AWS) == len(re.findall(r"\baws [a-z]", code)) > 30
    assert len(IOTD) == len(re.findall(r"\biotd [a-z]", code)) > 6


@pytest.mark.parametrize("block", BLOCKS)
def test_a_shell_reads_every_block(block: str) -> None:
    assert subprocess.run(["sh", "-n"], input=block, text=True, capture_output=True, timeout=10).stderr == ""


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """The calls of the services that the page names."""
    program = VENV / "bin/python"
    assert program.exists(), "the models of the AWS CLI are missing; run: script/bootstrap aws"
    services = {words[1] for words in AWS}
    done = subprocess.run([program, Path(__file__).with_name("cli_models.py"), *services], capture_output=True,
                          text=True, timeout=60, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def wrong(words: list[str], models: dict[str, Any]) -> str:
    """Return what the AWS CLI would not take of a command, nothing where it takes all."""
    service, call = words[1:3]
    given = {word.removeprefix("--").partition("=")[0] for word in words[3:] if word.startswith("--")}
    if (service, call) in OWN:
        known, required = OWN[service, call], []
    elif call not in models[service]:
        return f"{service} has no call {call}"
    else:
        known, required = models[service][call]
    unknown = given - set(known) - EVERYWHERE - CUSTOM.get((service, call), set())
    missing = set(required) - given
    return " ".join([*(f"{call} has no option --{name}" for name in unknown),
                     *(f"{call} needs --{name}" for name in missing)])


@pytest.mark.parametrize("words", AWS, ids=[" ".join(words[1:3]) for words in AWS])
def test_the_aws_cli_has_every_call_and_option(words: list[str], models: dict[str, Any]) -> None:
    assert wrong(words, models) == ""


@pytest.mark.parametrize("line, problem", [
    ("aws iot create-thin --thing-name a", "iot has no call create-thin"),
    ("aws iot create-thing --thingname a", "create-thing has no option --thingname create-thing needs --thing-name"),
    ("aws iot attach-policy --policy-name a", "attach-policy needs --target"),
])
def test_a_wrong_call_is_seen(line: str, problem: str, models: dict[str, Any]) -> None:
    assert wrong(line.split(), models) == problem


@pytest.mark.parametrize("words", IOTD, ids=" ".join)
def test_iotd_has_every_command_and_option(words: list[str]) -> None:
    assert cli._options(words[1:]).command == words[1]


def test_iotd_takes_the_file_of_the_image_on_top_of_the_sample() -> None:
    sample = (ROOT / "etc/iotd.yaml").read_text("utf-8")
    who = Identity("raspberrypi", "0123456789abcdef", "10000000abcdef01")
    for text in (fleet_file(), fleet_file().replace('{essid: ["fleet-ap"]}', "null")):
        loaded = parse(sample, "/etc/iotd.yaml", who, above=[("/etc/iotd.d/fleet.yaml", text)])
        assert loaded.warnings == () and loaded.settings.thing == "claim-10000000abcdef01"


def test_iotd_adopts_the_folder_of_the_second_step(tmp_path: Path) -> None:
    """The files as the AWS CLI names and fills them there."""
    certificates = make_certificates(tmp_path / "made", "AWS IoT Certificate")
    folder = tmp_path / "pi-first"
    folder.mkdir()
    shutil.copy(certificates.client.cert, folder / "pi-first.cert.pem")
    shutil.copy(certificates.client.key, folder / "pi-first.private.key")
    (folder / "endpoint.txt").write_text("abcdefghijklmn-ats.iot.eu-central-1.amazonaws.com\n")
    file = tmp_path / "iotd.yaml"
    sample = (ROOT / "etc/iotd.yaml").read_text("utf-8")
    file.write_text(sample.replace("/etc/iotd/certs", str(tmp_path / "certs")), "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "iotd", "adopt", str(folder), "-c", str(file)], cwd=ROOT, capture_output=True,
        text=True, timeout=60)
    written = yaml.safe_load(file.read_text("utf-8"))
    assert (written["thing"], written["mqtt"]["host"]) == (
        "pi-first", "abcdefghijklmn-ats.iot.eu-central-1.amazonaws.com"), done.stderr


def test_the_names_are_those_of_the_stack() -> None:
    policies = {properties["PolicyName"] for _, properties in TEMPLATE.of_type("AWS::IoT::Policy")}
    asked = set(re.findall(r"--policy-name (\S+)", PAGE))
    assert asked and asked <= policies
    for kind, key in (("AWS::IoT::TopicRule", "RuleName"), ("AWS::IoT::ThingType", "ThingTypeName"),
                      ("AWS::IoT::ProvisioningTemplate", "TemplateName"), ("AWS::IoT::Policy", "PolicyName")):
        for _, properties in TEMPLATE.of_type(kind):
            assert f"`{properties[key]}`" in PAGE
    assert set(re.findall(r"--logical-resource-id (\w+)", PAGE)) <= set(TEMPLATE.resources)
    output = TEMPLATE.resolved(TEMPLATE.document["Outputs"]["Indexing"]["Value"])
    assert output.split()[-1] in PAGE


def costs(every_s: float) -> list[int]:
    """Return what AWS counts for a device in a month of 30 days: minutes, messages, operations, at most, rules."""
    sample = yaml.safe_load((ROOT / "etc/iotd.yaml").read_text("utf-8"))
    [message], [shadow] = sample["publish"], sample["shadows"]
    assert message["every"] == shadow["every"] == "30s" and message["retain"] is True
    each = round(30 * 86400 / every_s)
    return [30 * 24 * 60, each * 2, each, each * (1 + 2 + 2), each]


def test_the_figures_of_a_month_are_those_of_the_sample() -> None:
    rows = [line for line in PAGE.splitlines() if re.search(r"\| [0-9,]+ \|$", line)]
    found = [[int(cell.replace(",", "")) for cell in line.split("|")[2:5]] for line in rows]
    assert found == [[one, one * 1000, rare * 1000] for one, rare in zip(costs(30), costs(300))]


def test_a_will_is_believed_after_the_same_time_everywhere() -> None:
    wait = TEMPLATE.parameters["LostAfter"]
    assert f"believed {wait} s later" in " ".join(PAGE.split())
    front = (ROOT / "README.md").read_text("utf-8")
    assert f"believe it when it still stands {wait} s later" in " ".join(front.split())
