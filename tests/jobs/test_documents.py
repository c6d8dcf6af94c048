"""Job documents: what each asks for, and the reason that its author reads where it is rejected."""

from __future__ import annotations

from typing import Any

import pytest

from iotd.jobs import details
from iotd.jobs.documents import Rejected, Step, command, steps
from iotd.jobs.section import Handler, Jobs

OPEN = Jobs({"clean": Handler(("/bin/clean", "--", "{args}"), 60.0), "plain": Handler(("/bin/plain",)),
             "bare": Handler(("/bin/bare", "{args}", "{{}}")), "stop-services.sh": Handler(("/bin/stop", "{args}"))},
            True, ("kiosk.service",), ("iotd", "kiosk*"), True, True)


def action(handler: str, *arguments: Any, **more: Any) -> dict[str, Any]:
    """Return a step as AWS's templates have it."""
    return {"action": {"name": "n", "type": "runHandler", "runAsUser": "",
                       "input": {"handler": handler, "path": "", "args": list(arguments)}, **more}}


def document(*steps_: Any, **more: Any) -> dict[str, Any]:
    return {"version": "1.0", "steps": list(steps_), **more}


@pytest.mark.parametrize("asked, step", [
    ({"operation": "reboot"}, Step("reboot", "reboot")),
    ({"operation": "reboot", "args": None}, Step("reboot", "reboot")),
    ({"operation": "restart", "args": ["kiosk.service", "kiosk.service"]},
     Step("restart", "restart", ("kiosk.service",))),
    ({"operation": "upgrade", "args": ["iotd", "kiosk-web"]}, Step("upgrade", "upgrade", ("iotd", "kiosk-web"))),
    ({"operation": "install", "args": ["kiosk"]}, Step("install", "install", ("kiosk",))),
    ({"operation": "clean", "args": ["-rf", 3, "a b"]}, Step("handler", "clean", ("-rf", "3", "a b"))),
    ({"operation": "bundle", "args": ["https://s3.example/a?X-Sig=b%2F"]},
     Step("bundle", "bundle", ("https://s3.example/a?X-Sig=b%2F",))),
    ({"operation": "clean.sh", "path": "/tmp", "runAsUser": "root", "allowStdErr": 1, "includeStdOut": True},
     Step("handler", "clean")),
])
def test_an_operation_is_one_step(asked: Any, step: Step) -> None:
    assert steps(asked, OPEN) == (step,)


@pytest.mark.parametrize("asked, expected", [
    (document(action("reboot.sh")), [Step("reboot", "reboot")]),  # AWS-Reboot
    (document(action("install-packages.sh", "iotd kiosk-web")),  # AWS-Install-Application
     [Step("install", "install", ("iotd", "kiosk-web"))]),
    (document(action("restart-services.sh", "kiosk.service")),  # AWS-Restart-Application
     [Step("restart", "restart", ("kiosk.service",))]),
    (document(action("stop-services.sh", "kiosk.service")),  # AWS-Stop-Application, opened as a handler
     [Step("handler", "stop-services.sh", ("kiosk.service",))]),
    (document({"action": {"name": "Run-Command", "type": "runCommand", "runAsUser": "",  # AWS-Run-Command
                          "input": {"command": "echo,a\\,b, c"}}}), [Step("command", "command", ("echo", "a,b", "c"))]),
    (document(action("clean", "x", ignoreStepFailure="true"), finalStep=action("reboot.sh")),
     [Step("handler", "clean", ("x",), True), Step("reboot", "reboot")]),
    (document({"action": {"name": "Reboot", "type": "runHandler", "input": {"handler": "reboot.sh"}}},
              includeStdOut="true", conditions=[]), [Step("reboot", "reboot")]),
])
def test_the_documents_of_aws_are_understood(asked: Any, expected: list[Step]) -> None:
    assert list(steps(asked, OPEN)) == expected


@pytest.mark.parametrize("asked, told", [
    (None, "no object"), ([], "no object"), ("reboot", "no object"), ({}, "neither operation nor steps"),
    ({"operation": 1}, "operation is no text"), ({"operation": "fly"}, "is no operation of iotd's"),
    ({"operation": "../../bin/sh"}, "is no operation"), ({"operation": "reboot", "user": "x"}, '"user"'),
    ({"operation": "reboot", "args": ["now"]}, "takes no arguments"),
    ({"operation": "clean", "args": "x"}, "args is no list"), ({"operation": "clean", "args": [{}]}, "an argument is"),
    ({"operation": "clean", "args": [True]}, "an argument is"),
    ({"operation": "clean", "args": ["a\0"]}, "NUL"), ({"operation": "clean", "args": ["\ud800"]}, "half a character"),
    ({"operation": "clean", "args": ["x"] * 101}, "more than 100 arguments"),
    ({"operation": "bare", "args": ["-x"]}, "begins with -"), ({"operation": "plain", "args": ["x"]}, "no arguments"),
    ({"operation": "restart"}, "wants the names"), ({"operation": "restart", "args": ["kiosk"]}, "whole name"),
    ({"operation": "restart", "args": ["ssh.service"]}, "not in jobs.restart"),
    ({"operation": "restart", "args": ["--force kiosk.service"]}, "whole name"),
    ({"operation": "upgrade"}, "wants the names"), ({"operation": "upgrade", "args": ["iotd-"]}, "not the name"),
    ({"operation": "upgrade", "args": ["iotd=1.0"]}, "not the name"),
    ({"operation": "upgrade", "args": ["iotd/stable"]}, "not the name"),
    ({"operation": "upgrade", "args": ["./iotd.deb"]}, "not the name"),
    ({"operation": "upgrade", "args": ["kiosk*"]}, "not the name"),
    ({"operation": "upgrade", "args": ["?essential"]}, "not the name"),
    ({"operation": "upgrade", "args": ["-o Foo=1"]}, "not the name"),
    ({"operation": "upgrade", "args": ["kiosk+"]}, "not the name"),
    ({"operation": "install", "args": ["nmap"]}, "not in jobs.upgrade"),
    ({"operation": "bundle"}, "one argument"), ({"operation": "bundle", "args": ["http://a/b"]}, "https://"),
    ({"operation": "bundle", "args": ["https://u:p@a/b"]}, "https://"),
    ({"operation": "bundle", "args": ["https://a/b\nX: y"]}, "https://"),
    ({"operation": "bundle", "args": ["file:///etc/passwd"]}, "https://"),
    ({"steps": []}, "no list of steps"), ({"steps": {}}, "no list of steps"), ({"steps": [1]}, "no action"),
    ({"steps": [{"action": {}}]}, "no input"), ({"version": "2.0", "steps": [1]}, "iotd knows 1.0"),
    (document(action("reboot.sh"), conditions=[{"key": "a"}]), "conditions are not evaluated"),
    (document(action("reboot.sh"), more=1), '"more"'), (document(*[action("reboot.sh")] * 21), "21 steps"),
    (document(action("remove-packages.sh", "kiosk")), "remove-packages.sh"),  # AWS-Remove-Application
    (document(action("download-file.sh", "https://a/b", "/etc/shadow")), "download-file.sh"),
    (document(action("reboot.sh"), action("fly.sh")), "fly.sh"),  # all in order, or none
    (document({"action": {"type": "runShell", "input": {}}}), "knows runHandler and runCommand"),
    (document({"action": {"type": "runCommand", "input": {"command": " "}}}), "no text with words"),
    (document({"action": {"type": "runCommand", "input": {"command": ",x"}}}), "no program"),
    (document({"action": {"type": "runHandler", "input": {"handler": 1}}}), "handler is no text"),
])
def test_what_cannot_be_followed_is_rejected_with_its_reason(asked: Any, told: str) -> None:
    with pytest.raises(Rejected) as rejected:
        steps(asked, OPEN)
    assert told in str(rejected.value) and details.fit({"reason": rejected.value})["reason"]


@pytest.mark.parametrize("asked", [
    {"operation": "reboot"}, {"operation": "restart", "args": ["kiosk.service"]}, {"operation": "clean"},
    {"operation": "upgrade", "args": ["iotd"]}, {"operation": "bundle", "args": ["https://a/b"]},
    document({"action": {"type": "runCommand", "input": {"command": "id"}}}),
])
def test_nothing_is_open_by_itself(asked: Any) -> None:
    with pytest.raises(Rejected):
        steps(asked, Jobs())


def test_the_arguments_of_a_job_become_one_argument_each() -> None:
    assert command(Step("handler", "clean", ("a b", "-x")), OPEN) == (("/bin/clean", "--", "a b", "-x"), 60.0)
    assert command(Step("handler", "bare", ("{x}",)), OPEN) == (("/bin/bare", "{x}", "{}"), 300.0)


def test_details_keep_to_the_rules_of_the_service() -> None:
    found = details.fit({
        "reason": "", "stderr": "one\n\ttwo\r\n\x1b[31mthree\u200d", "exit_status": 3, "none": None,
        "stdout": "x" * 2000 + "end", "long": "begin" + "y" * 2000, **{str(n): n for n in range(20)}})
    assert len(found) == 10 and found["stderr"] == "one / two / �[31mthree�" and found["exit_status"] == "3"
    assert found["stdout"].startswith("…x") and found["stdout"].endswith("end") and len(found["stdout"]) == 1024
    assert found["long"].startswith("begin") and len(found["long"]) == 1024
