"""Reads the configuration file, and opens the certificates and passwords that it names."""

from __future__ import annotations

import os
import time
from importlib.util import find_spec
from pathlib import Path

from iotd.config import broker, parse
from iotd.config.document import MAX_BYTES
from iotd.config.settings import Checked
from iotd.daemon.world import Places
from iotd.errors import ConfigError, Problem
from iotd.host.identity import identity
from iotd.mqtt import credentials
from iotd.mqtt.settings import Mqtt


def load(file: str, running: bool) -> Checked:
    """Return what the file says; raise ConfigError with every problem of it and of the files that it names.

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
    problems, warnings = _of_files(parsed.settings.mqtt, running)
    if problems:
        raise ConfigError(file, [Problem(parsed.line(key), key, text) for key, text in problems])
    found = (Problem(parsed.line(key), key, text) for key, text in (*broker.warnings(parsed.settings), *warnings))
    return Checked(parsed.settings, tuple(problem.render(file, "warning: ") for problem in sorted(found)))


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
