"""What a job document asks for: steps, or why it is rejected. Pure.

Forms: `{"operation", "args"}`, and that of AWS's device client and managed templates, `{"version", "steps"}`. A
document chooses among what the configuration opens, and nothing else: `path` and `runAsUser` are passed over.
Sources: aws-iot-device-client, source/jobs/README.md; "Jobs managed templates" of the AWS IoT Core developer guide.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from iotd.config.template import fill_command
from iotd.jobs.names import is_listed, is_package, is_unit
from iotd.jobs.section import ARGUMENTS, BUILT_IN, Jobs
from iotd.vocabulary import Json

MAX_STEPS = 20
MAX_ARGUMENTS = 100
MAX_CHARACTERS = 32768  # of all arguments: a document has 32 KB
MAX_SHOWN = 80
COMMAND_TIMEOUT_S = 600.0

HANDLER, COMMAND, BUNDLE, REBOOT = "handler", "command", "bundle", "reboot"
OF_ROOT = ("restart", "upgrade", "install")  # and reboot, whose end nobody is there to tell

# The handlers that AWS's own documents name, and what iotd does in their place; with others of the list of
# `jobs.handlers` a document is as good as with these.
KNOWN_HANDLERS = {"reboot.sh": "reboot", "restart-services.sh": "restart", "install-packages.sh": "install"}

_OPERATION = {"operation", "args", "path", "runAsUser", "allowStdErr", "includeStdOut"}
_STEPS = {"version", "steps", "finalStep", "conditions", "includeStdOut"}
_ACTION = {"name", "type", "input", "runAsUser", "allowStdErr", "ignoreStepFailure"}


class Rejected(ValueError):
    """The document can never be followed here; the text says why, to who reads it in the console."""


class Step(NamedTuple):
    """One thing to do: `operation` is handler, command or one of the built-in ones, `name` a handler's name.

    `goes_on`: if it fails, the next step is taken all the same.
    """

    operation: str
    name: str
    arguments: tuple[str, ...] = ()
    goes_on: bool = False

    @property
    def called(self) -> str:
        """What it is called in the log and in the status."""
        return self.name if self.operation == HANDLER else self.operation


def steps(document: Json, jobs: Jobs) -> tuple[Step, ...]:
    """Return what is to be done, in order. Raises Rejected where any of it is not open, or not understood."""
    if not isinstance(document, dict):
        raise Rejected(f"the document is no object but {_shown(document)}")
    if "operation" in document:
        _known(document, _OPERATION, "the document")
        name = document["operation"]
        if not isinstance(name, str):
            raise Rejected(f"operation is no text but {_shown(name)}")
        return (_chosen(name, _arguments(document.get("args")), jobs, False),)
    if "steps" not in document:
        raise Rejected("the document has neither operation nor steps")
    _known(document, _STEPS, "the document")
    if document.get("version", "1.0") != "1.0":
        raise Rejected(f"version is {_shown(document['version'])}; iotd knows 1.0")
    if document.get("conditions"):
        raise Rejected("conditions are not evaluated by iotd; choose the things in the job instead")
    listed = document["steps"]
    if not isinstance(listed, list) or not listed:
        raise Rejected("steps is no list of steps")
    if document.get("finalStep"):
        listed = [*listed, document["finalStep"]]
    if len(listed) > MAX_STEPS:
        raise Rejected(f"there are {len(listed)} steps; iotd takes {MAX_STEPS}")
    return tuple(_step(step, jobs) for step in listed)


def command(step: Step, jobs: Jobs) -> tuple[tuple[str, ...], float]:
    """Return the command of a handler or of a job's own, and how long it may take. Raises Rejected."""
    if step.operation == COMMAND:
        if not jobs.commands:
            raise Rejected("commands of a job's own are not open here (jobs.commands)")
        return step.arguments, COMMAND_TIMEOUT_S
    handler = jobs.handlers.get(step.name)
    if handler is None:
        raise Rejected(f"{_shown(step.name)} is not in jobs.handlers")
    found: list[str] = []
    for argument in handler.command:
        if argument != f"{{{ARGUMENTS}}}":
            found += fill_command([argument], {})
            continue
        for given in step.arguments:
            if given.startswith("-") and "--" not in found:
                raise Rejected(f"the argument {_shown(given)} begins with -, which {step.name} may take for an option")
            found.append(given)
    if step.arguments and f"{{{ARGUMENTS}}}" not in handler.command:
        raise Rejected(f"{step.name} takes no arguments")
    return tuple(found), handler.timeout_s


def _step(step: Json, jobs: Jobs) -> Step:
    action = step.get("action") if isinstance(step, dict) else None
    if not isinstance(action, dict):
        raise Rejected(f"a step has no action: {_shown(step)}")
    _known(step, {"action"}, "a step")
    _known(action, _ACTION, "an action")
    given = action.get("input")
    if not isinstance(given, dict):
        raise Rejected(f"an action has no input: {_shown(action)}")
    goes_on = str(action.get("ignoreStepFailure", "false")).lower() == "true"
    match action.get("type"):
        case "runHandler":
            _known(given, {"handler", "args", "path"}, "an input")
            name = given.get("handler")
            if not isinstance(name, str):
                raise Rejected(f"handler is no text but {_shown(name)}")
            return _chosen(name, _arguments(given.get("args")), jobs, goes_on)
        case "runCommand":
            _known(given, {"command"}, "an input")
            found = Step(COMMAND, COMMAND, _words(given.get("command")), goes_on)
            command(found, jobs)
            return found
        case other:
            raise Rejected(f"the type of an action is {_shown(other)}; iotd knows runHandler and runCommand")


def _chosen(name: str, arguments: tuple[str, ...], jobs: Jobs, goes_on: bool) -> Step:
    """Return the step that a name stands for, by the configuration's handlers first."""
    for handler in (name, name.removesuffix(".sh")):
        if handler in jobs.handlers:
            found = Step(HANDLER, handler, arguments, goes_on)
            command(found, jobs)
            return found
    operation = KNOWN_HANDLERS.get(name, name)
    if operation not in BUILT_IN:
        raise Rejected(f"{_shown(name)} is no operation of iotd's, and is not in jobs.handlers")
    return Step(operation, operation, _JUDGES[operation](arguments, jobs), goes_on)


def _reboot(arguments: tuple[str, ...], jobs: Jobs) -> tuple[str, ...]:
    if not jobs.reboot:
        raise Rejected("reboot is not open here (jobs.reboot)")
    if arguments:
        raise Rejected("reboot takes no arguments")
    return ()


def _restart(arguments: tuple[str, ...], jobs: Jobs) -> tuple[str, ...]:
    names = _names(arguments, "restart", "units")
    for name in names:
        if not is_unit(name):
            raise Rejected(f"{_shown(name)} is not the whole name of a unit")
        if name not in jobs.restart:
            raise Rejected(f"{name} is not in jobs.restart")
    return names


def _packages(arguments: tuple[str, ...], jobs: Jobs) -> tuple[str, ...]:
    names = _names(arguments, "upgrade and install", "packages")
    for name in names:
        if not is_package(name):
            raise Rejected(f"{_shown(name)} is not the name of a package")
        if not is_listed(name, jobs.upgrade):
            raise Rejected(f"{name} is not in jobs.upgrade")
    return names


def _bundle(arguments: tuple[str, ...], jobs: Jobs) -> tuple[str, ...]:
    if not jobs.bundle:
        raise Rejected("bundle is not open here (jobs.bundle)")
    if len(arguments) != 1 or not re.fullmatch(r"https://[^\s/@]+/[\x21-\x7e]*", arguments[0]):
        raise Rejected("bundle takes one argument, the https:// URL to put it to")  # which is a secret: not shown
    return arguments


_JUDGES: Mapping[str, Callable[[tuple[str, ...], Jobs], tuple[str, ...]]] = {
    "reboot": _reboot, "restart": _restart, "upgrade": _packages, "install": _packages, "bundle": _bundle}


def _names(arguments: tuple[str, ...], operation: str, what: str) -> tuple[str, ...]:
    """Return the names, each once; AWS's templates give several as one text with blanks between them."""
    names = tuple(dict.fromkeys(name for argument in arguments for name in argument.split()))
    if not names:
        raise Rejected(f"{operation} wants the names of {what} in args")
    return names


def _arguments(given: Json) -> tuple[str, ...]:
    """Return the arguments as texts: none for an optional parameter that was not given, which may be left as ""."""
    if given in (None, "", []):
        return ()
    if not isinstance(given, list):
        raise Rejected(f"args is no list but {_shown(given)}")
    found = []
    for one in given:
        if type(one) not in (str, int, float):
            raise Rejected(f"an argument is no text and no number but {_shown(one)}")
        found.append(one if isinstance(one, str) else json.dumps(one))
    return _bounded(found)


def _words(written: Json) -> tuple[str, ...]:
    """Return the words of a command, which commas separate; a comma that belongs to one is written \\, ."""
    if not isinstance(written, str) or not written.strip():
        raise Rejected(f"command is no text with words and commas but {_shown(written)}")
    words = [word.strip().replace("\\,", ",") for word in re.split(r"(?<!\\),", written)]
    if not words[0]:
        raise Rejected("command has no program before its first comma")
    return _bounded(words)


def _bounded(words: list[str]) -> tuple[str, ...]:
    if len(words) > MAX_ARGUMENTS or sum(map(len, words)) > MAX_CHARACTERS:
        raise Rejected(f"there are more than {MAX_ARGUMENTS} arguments, or {MAX_CHARACTERS} characters in them")
    if any("\0" in word for word in words):
        raise Rejected("an argument has a NUL character")
    try:
        "".join(words).encode()
    except UnicodeEncodeError:
        raise Rejected("an argument has half a character") from None
    return tuple(words)


def _known(given: Mapping[str, Json], known: Iterable[str], where: str) -> None:
    if unknown := given.keys() - set(known):
        raise Rejected(f"{where} has {_shown(sorted(unknown)[0])}, which iotd does not know")


def _shown(value: Json) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
