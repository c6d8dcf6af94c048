"""Reads the configuration file, and opens the certificates that it names."""

from __future__ import annotations

import os
import time
from pathlib import Path

from iotd.config import parse
from iotd.config.document import MAX_BYTES
from iotd.config.settings import Checked
from iotd.daemon.world import Places
from iotd.errors import ConfigError, Problem
from iotd.host.identity import identity
from iotd.mqtt import credentials


def load(file: str, running: bool) -> Checked:
    """Return what the file says; raise ConfigError with every problem of it and of the certificates.

    An expired certificate keeps nobody from `running`: it is the broker's to refuse, and the clock may be wrong.
    """
    try:
        with open(file, "rb") as opened:
            content = opened.read(MAX_BYTES + 1)
        # What is too large is cut anywhere, and `parse` says so.
        text = content.decode("utf-8", "replace" if len(content) > MAX_BYTES else "strict")
    except OSError as error:
        raise ConfigError(file, [Problem(0, "", f"{error.strerror}; write it as iotd.yaml(5) says")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(file, [Problem(0, "", f"not UTF-8: {error}; save it as UTF-8")]) from error
    parsed = parse.parse(text, file, identity())
    tls = parsed.settings.mqtt.tls
    if tls is None:
        return Checked(parsed.settings, ())
    problems = credentials.unusable(tls, parsed.settings.mqtt.port)
    expired = credentials.expired(tls, time.time())
    if problems or (expired and not running):
        raise ConfigError(file, [Problem(parsed.line(f"mqtt.tls.{key}"), f"mqtt.tls.{key}", text)
                                 for found in (problems, expired) for key, text in found.items()])
    hidden = [] if running else credentials.hidden(tls)  # a unit of one's own may show what ours hides
    return Checked(parsed.settings, (*credentials.warnings(tls), *hidden, *expired.values()))


def places() -> Places:
    """Return the two directories, by the variables that systemd sets for them."""
    state = os.environ.get("STATE_DIRECTORY", "/var/lib/iotd").split(":")[0]
    runtime = os.environ.get("RUNTIME_DIRECTORY", "/run/iotd").split(":")[0]
    return Places(Path(state), Path(runtime))
