"""Reads the configuration file, and opens the certificates and passwords that it names."""

from __future__ import annotations

import os
import re
import time
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from iotd.config import broker, layers, parse
from iotd.config.document import MAX_BYTES
from iotd.config.settings import Checked
from iotd.daemon.configuration import ACCEPTED
from iotd.daemon.world import Places
from iotd.errors import ConfigError, Problem
from iotd.host.files import Files
from iotd.host.identity import Given, Identity, given, identity, user_name
from iotd.mqtt import credentials
from iotd.mqtt.settings import Mqtt


class Read(NamedTuple):
    """A configuration without problems of its own, and its text."""

    parsed: parse.Loaded
    text: str


def own() -> Given | None:
    """Return what provisioning has given this host, None where that is nothing, or a pair that cannot be used."""
    found = given(Files(), places().state)
    return found if found is not None and credentials.fit(found.cert, found.key) else None


def read(file: str, directory: str = "", who: Identity | None = None, thing: str | None = None) -> Read:
    """Return what the file says with those that lie on top of it; raise ConfigError with every problem of them.

    For this host, or another one: `who` it is, and the name of its thing. `directory` is where a path begins.
    """
    text, above, unread = sources(file, directory)
    parsed = parse.parse(text, file, who or identity(), thing, above, None if who else own())
    warnings = [Problem(0, "", f"is not read; a file that lies on {file} ends in {layers.SUFFIX}", name)
                for name in unread]
    return Read(parsed._replace(warnings=(*parsed.warnings, *warnings)), parsed.text)


def sources(file: str, directory: str = "") -> tuple[str, list[tuple[str, str]], list[str]]:
    """Return the text of the file, those that lie on top of it in their order, and what is probably meant to.

    Raises ConfigError.
    """
    text, folder = _text(file, file, directory), layers.folder_of(file)
    try:
        names = os.listdir(os.path.join(directory, folder))
    except (FileNotFoundError, NotADirectoryError):
        names = []
    except OSError as error:
        raise ConfigError(file, [Problem(0, "", f"{error.strerror}; give it mode 0755", folder)]) from error
    chosen = layers.chosen(names)
    if len(chosen) > layers.MAX_FILES:
        raise ConfigError(file, [Problem(0, "", f"has {len(chosen)} files; {layers.MAX_FILES} are read at most",
                                         folder)])
    above = [(path, _text(file, path, directory)) for path in (f"{folder}/{name}" for name in chosen)]
    unread = [f"{folder}/{name}" for name in sorted(names) if name.endswith(".yml")]
    return text, above, unread


def _text(file: str, path: str, directory: str) -> str:
    """Return the text of the file, or of one at another path that lies on top of it."""
    where = "" if path == file else path
    try:
        with open(os.path.join(directory, path), "rb") as opened:
            content = opened.read(MAX_BYTES + 1)
        # What is too large is cut anywhere, and `parse` says so.
        return content.decode("utf-8", "replace" if len(content) > MAX_BYTES else "strict")
    except OSError as error:
        raise ConfigError(file, [Problem(0, "", f"{error.strerror}; {_mended(error, where)}", where)]) from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        text = f"is no UTF-8 text: byte 0x{content[error.start]:02x}; save it as UTF-8"
        raise ConfigError(file, [Problem(line, "", text, where)]) from error


def load(file: str, running: bool, directory: str = "") -> Checked:
    """Return what the file says; raise ConfigError with every problem of it and of the certificates.

    An expired certificate keeps nobody from `running`: it is the broker's to refuse, and the clock may be wrong; nor
    does what can never work on this host, since what is there now may be another thing tomorrow.
    """
    parsed, text = read(file, directory)
    problems, warnings = _of_files(parsed.settings.mqtt, running)
    if not parsed.settings.is_named:  # then these are the claim's
        problems, warnings = ([(re.sub(r"^mqtt\.tls\.(cert|key)$", r"provision.claim.\1", key), text)
                               for key, text in found] for found in (problems, warnings))
    if not running:
        problems += parse.impossible(parsed.settings)
        warnings += [*parse.hidden(parsed.settings), *parse.noticed(parsed.settings)]
    if problems:
        raise ConfigError(file, [parsed.problem(key, problem) for key, problem in problems])
    warnings = [*broker.warnings(parsed.settings), *warnings]
    found = [*parsed.warnings, *(parsed.problem(key, problem) for key, problem in warnings)]
    return Checked(parsed.settings, tuple(problem.render(file, "warning: ") for problem in sorted(found)), text)


def _mended(error: OSError, above: str) -> str:
    """Return what to do about a file that cannot be read; nothing is taken from its owner."""
    if not isinstance(error, PermissionError):
        return "write it as iotd.yaml(5) says"
    meant = "give it mode 0644" if above else "let it stand as /etc/iotd.yaml, with mode 0644"
    return f"user {user_name()} may not read it; {meant}"


def load_or_last(file: str, state: Path) -> Checked:
    """Return what the file says, or what the last one said that was accepted, for a device that nobody can visit.

    Raises ConfigError with the problems of the file where there is no other that can be used. Certificates keep nobody
    from it: they are read at every dialling, and may come.
    """
    try:
        return load(file, True)
    except ConfigError as error:
        last = last_accepted(file, state)
        if last is None:
            raise
        return last._replace(refused=tuple(error.lines()))


def last_accepted(file: str, state: Path) -> Checked | None:
    """Return the last configuration that was accepted, None where there is none that can be used or read."""
    try:
        text = Files().read_text(state / ACCEPTED)
        return Checked(parse.parse(text, file, identity(), given=own()).settings, (), text)
    except (OSError, ValueError, ConfigError):
        return None


def _of_files(mqtt: Mqtt, running: bool) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Open the files of the certificates and passwords; return the problems and the warnings, each with its key."""
    tls, proxy = mqtt.tls, mqtt.proxy
    problems: list[tuple[str, str]] = []
    warnings: list[tuple[str, str]] = []
    secrets = {"mqtt.password_file": mqtt.password_file, "mqtt.proxy.password_file": proxy and proxy.password_file}
    for key, path in secrets.items():
        try:
            if path:
                credentials.password(path)
        except ValueError as error:
            problems.append((key, str(error)))
    if mqtt.transport == "websockets" and find_spec("wsproto") is None:
        problems.append(("mqtt.transport", "websockets need the package python3-wsproto; run: apt install "
                                           "python3-wsproto"))
    paths: dict[str, str | None] = {}
    if tls is not None:
        problems += [(f"mqtt.tls.{key}", text) for key, text in credentials.unusable(tls, mqtt.alpn).items()]
        expired = [(f"mqtt.tls.{key}", text) for key, text in credentials.expired(tls, time.time()).items()]
        (warnings if running else problems).extend(expired)
        secrets["mqtt.tls.key"] = tls.key
        paths = {f"mqtt.tls.{key}": path for key, path in zip(tls._fields, tls)}
    warnings += [(key, text) for key, path in secrets.items() if path and (text := credentials.open_to_all(path))]
    for key, path in {**paths, **secrets}.items():
        if path and not running and (text := credentials.hidden(path)):  # a unit of one's own may show what ours hides
            warnings.append((key, text))
    return problems, warnings


def places() -> Places:
    """Return the two directories, by the variables that systemd sets for them."""
    state = os.environ.get("STATE_DIRECTORY", "/var/lib/iotd").split(":")[0]
    runtime = os.environ.get("RUNTIME_DIRECTORY", "/run/iotd").split(":")[0]
    return Places(Path(state), Path(runtime))
