"""The command `iotd`: one module a command, loaded when it is asked for.

Exit status 0, 1 fault or not healthy, 2 usage, 3 not running, 78 configuration.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from iotd import __version__
from iotd.cli import output
from iotd.errors import EXIT_CONFIG, EXIT_FAULT, ConfigError, nearest

DEFAULT_FILE = "/etc/iotd.yaml"
COMMANDS = {
    "run": "run the daemon in the foreground",
    "check": "read and validate the configuration, print every problem",
    "adopt": "put the certificate and key that were handed out into place, and their host and thing into the file",
    "provision": "have this device get an identity of its own by its claim, and wait for it",
    "renew": "have the running daemon get a new certificate, and wait for it",
    "status": "what the running daemon is doing",
    "publish": "hand messages over to the running daemon",
    "set": "tell the running daemon a value",
    "listen": "print the messages that come in",
    "doctor": "which layer fails, from the configuration up, and what to do about it",
    "retained": "on which topics the broker keeps a message of this device, and to clear them",
    "bundle": "what support needs of this device, in one file, without its secrets",
    "policy": "what the broker has to allow this configuration, and nothing more",
    "log": "what happened, one line an event, from the journal of iotd's units",
}
OF_PROGRAMS = ("publish", "set", "listen")  # whose options may stand anywhere; their modules say which


def main(arguments: list[str] | None = None) -> int:
    """Run the command with these arguments (those of the process) and return its exit status."""
    if arguments is None and sys.getfilesystemencoding() != "utf-8":
        # Under ISO-8859-1 a path of the configuration would be another one than for the daemon, or none at all.
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    output.prepare()
    try:
        options = _options(sys.argv[1:] if arguments is None else arguments)
    except SystemExit as end:  # argparse has printed the help, the version, or what is wrong with the usage
        return int(end.code or 0) if output.flushed() else EXIT_FAULT
    except OSError as error:  # or could not
        output.give_up(error)
        return EXIT_FAULT
    try:
        status = int(import_module(f"iotd.cli.{options.command}").run(options))
    except ConfigError as error:
        output.complain("\n".join(error.lines()))
        status = EXIT_CONFIG
    except KeyboardInterrupt:
        status = 130
    output.flushed()
    return status


def _options(arguments: list[str]) -> Any:
    match arguments:  # as the unit and its drop-ins say; to load argparse and make a parser is a tenth of the start
        case ["run"]:
            return SimpleNamespace(command="run", file=DEFAULT_FILE)
        case ["run", "-c", file]:
            return SimpleNamespace(command="run", file=file)
        case [name, *rest] if name in OF_PROGRAMS:
            return _options_of_a_program(name, rest)
        case ["log", *rest]:
            arguments = ["log", *_joined(rest)]
    from iotd.cli.parser import Parser

    parser = Parser(
        prog="iotd", description="Keeps this device on AWS IoT Core, or any MQTT broker.",
        epilog="See iotd(8) and iotd.yaml(5).")
    parser.add_argument("--version", action="version", version=f"iotd {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        not_read = "; as with all commands, and not read" if name in ("status", "log", "renew") else ""
        command.add_argument("-c", dest="file", default=DEFAULT_FILE, metavar="FILE",
                             help=f"default: %(default)s{not_read}")
        if name in ("status", "doctor"):
            command.add_argument("--json", action="store_true", help="print one JSON object, for programs")
        if name == "adopt":
            command.add_argument("paths", nargs="+", metavar="PATH", help="a file, a folder, or the console's zip")
            command.add_argument("--host", metavar="HOST", help="the broker; default: the one that a file mentions")
            command.add_argument("--dry-run", action="store_true", help="show what would be done")
            command.add_argument("--force", action="store_true", help="overwrite what is there")
        if name == "provision":
            command.add_argument("--again", action="store_true", help="also where there is an identity already")
        if name == "bundle":
            command.add_argument("bundle", nargs="?", metavar="FILE", help="default: iotd-THING-TIME.tar.gz, here")
            command.add_argument("--upload", action="store_true", help="PUT it to the https URL on standard input")
        if name == "retained":
            command.add_argument("--clear", nargs="?", const="", metavar="TOPIC",
                                 help="have the broker keep nothing on the topic any more")
            command.add_argument("--orphaned", action="store_true", help="all that are not published any more")
        if name == "policy":
            kind = command.add_mutually_exclusive_group(required=True)
            kind.add_argument("--aws", action="store_true", help="of a device's certificate on AWS IoT Core")
            kind.add_argument("--claim", action="store_true", help="of the one that devices ask for their own with")
            kind.add_argument("--mosquitto", action="store_true", help="an acl_file of mosquitto")
            command.add_argument("--region", default="*", metavar="R", type=_matching(r"\*|[a-z]+(-[a-z]+)+-[0-9]"),
                                 help="of AWS, such as eu-central-1 (default: any)")
            command.add_argument("--account", default="*", metavar="A", type=_matching(r"\*|[0-9]{12}"),
                                 help="of AWS, twelve digits (default: any)")
        if name == "log":
            command.add_argument("-f", dest="follow", action="store_true", help="go on with what comes")
            command.add_argument("--since", metavar="TIME", help="from when on, such as today, -2h or 2027-01-31 08:00")
            command.add_argument("-p", dest="priority", choices=("debug", "info", "warning", "error"),
                                 help="this level and those above it")
    if misplaced := _misplaced(arguments):
        parser.error(misplaced)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        named = any(map(os.path.isfile, unknown)) and "; a configuration is named by -c FILE"
        commands.choices[options.command].error(f"unrecognized arguments: {' '.join(unknown)}{named or ''}")
    return options


def _misplaced(arguments: list[str]) -> str:
    """Return what is wrong with the word in the place of the command, nothing where it is one or an option."""
    match arguments:
        case ["-c", _, name, *_] if name in COMMANDS:
            return f"-c stands behind the command: iotd {name} -c FILE"
        case [name, *_] if name not in COMMANDS and not name.startswith("-"):
            meant = nearest(name, COMMANDS)
            return f"there is no command {name}; " + (f"did you mean {meant}?" if meant else "see iotd --help")
    return ""


def _matching(pattern: str) -> Callable[[str], str]:
    """Return a reader of an option that has to look like this."""
    import re
    from argparse import ArgumentTypeError

    def read(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ArgumentTypeError(f"{value!r} is none; see iotd policy --help")
        return value
    return read


def _joined(arguments: list[str]) -> Iterator[str]:
    """Yield the arguments, the time of --since joined to it, which argparse would take for an option: -2h."""
    words = iter(arguments)
    for word in words:
        yield f"{word}={time}" if word == "--since" and (time := next(words, None)) is not None else word


def _options_of_a_program(name: str, arguments: list[str]) -> Any:
    from iotd.cli.parser import Parser

    parser = Parser(prog=f"iotd {name}", description=COMMANDS[name], epilog="See iotd(8).")
    parser.add_argument("-c", dest="file", default=DEFAULT_FILE, metavar="FILE", help="as with all commands; not read")
    import_module(f"iotd.cli.{name}").arguments(parser)
    options = parser.parse_intermixed_args(list(_marked(arguments)))
    values = {key: value.removeprefix(_NO_OPTION) if isinstance(value, str) else value
              for key, value in vars(options).items()}
    return SimpleNamespace(command=name, **values)


_NO_OPTION = "\0"  # which no argument of a process can hold


def _marked(arguments: list[str]) -> Iterator[str]:
    """Yield the arguments, those marked that argparse would take for options: -1e3, and whatever follows --."""
    words = iter(arguments)
    for word in words:
        if word == "--":
            yield from (_NO_OPTION + rest for rest in words)
        else:
            yield _NO_OPTION + word if word[:1] == "-" and word[1:2].isdecimal() else word
