"""Reads the configuration file, and opens the certificates that it names."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

from iotd.config import parse
from iotd.config.document import MAX_BYTES
from iotd.config.settings import Checked
from iotd.daemon.configuration import ACCEPTED
from iotd.daemon.world import Places
from iotd.errors import ConfigError, Problem
from iotd.host.files import Files
from iotd.host.identity import identity, user_name
from iotd.mqtt import credentials


class Read(NamedTuple):
    """A configuration without problems of its own, and its text."""

    parsed: parse.Loaded
    text: str


def read(file: str, directory: str = "") -> Read:
    """Return what the file says; raise ConfigError with every problem of it. `directory` is where a path begins."""
    try:
        with open(os.path.join(directory, file), "rb") as opened:
            content = opened.read(MAX_BYTES + 1)
        # What is too large is cut anywhere, and `parse` says so.
        text = content.decode("utf-8", "replace" if len(content) > MAX_BYTES else "strict")
    except OSError as error:
        raise ConfigError(file, [Problem(0, "", f"{error.strerror}; {_mended(error)}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(file, [Problem(0, "", f"not UTF-8: {error}; save it as UTF-8")]) from error
    return Read(parse.parse(text, file, identity()), text)


def load(file: str, running: bool, directory: str = "") -> Checked:
    """Return what the file says; raise ConfigError with every problem of it and of the certificates.

    An expired certificate keeps nobody from `running`: it is the broker's to refuse, and the clock may be wrong; nor
    does what can never work on this host, since what is there now may be another thing tomorrow.
    """
    parsed, text = read(file, directory)
    found = [] if running else parse.impossible(parsed.settings)
    tls = parsed.settings.mqtt.tls
    warned: list[str] = []
    if tls is not None:
        expired = credentials.expired(tls, time.time())
        for key, problem in credentials.unusable(tls, parsed.settings.mqtt.port).items():
            found.append((f"mqtt.tls.{key}", problem))
        if not running:
            found += [(f"mqtt.tls.{key}", problem) for key, problem in expired.items()]
            warned = credentials.hidden(tls)  # a unit of one's own may show what ours hides
        warned = [*credentials.warnings(tls), *warned, *expired.values()]
    if found:
        raise ConfigError(file, [Problem(parsed.line(key), key, problem) for key, problem in found])
    warnings = (*parsed.warnings, *(Problem(0, "", problem) for problem in warned))
    return Checked(parsed.settings, warnings, text)


def _mended(error: OSError) -> str:
    """Return what to do about a file that cannot be read; nothing is taken from its owner."""
    if not isinstance(error, PermissionError):
        return "write it as iotd.yaml(5) says"
    return f"user {user_name()} may not read it; let it stand as /etc/iotd.yaml, with mode 0644"


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
        return Checked(parse.parse(text, file, identity()).settings, (), text)
    except (OSError, ValueError, ConfigError):
        return None


def places() -> Places:
    """Return the two directories, by the variables that systemd sets for them."""
    state = os.environ.get("STATE_DIRECTORY", "/var/lib/iotd").split(":")[0]
    runtime = os.environ.get("RUNTIME_DIRECTORY", "/run/iotd").split(":")[0]
    return Places(Path(state), Path(runtime))
