"""`iotd bundle`: what support needs of a device, in one file, without its secrets."""

from __future__ import annotations

import io
import json
import os
import platform
import re
import sys
import tarfile
import time
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from iotd import __version__
from iotd.cli import doctor, log, output, told
from iotd.cli.load import places, read, sources
from iotd.config import layers
from iotd.config.bare import bare, without_secrets
from iotd.config.document import Unreadable
from iotd.errors import EXIT_FAULT, ConfigError
from iotd.host import command
from iotd.host.files import Files

MAX_JOURNAL_BYTES = 1_400_000  # of text, the newest; with all else it stays below 2 MB however it packs
MAX_PART_BYTES = 64 * 1024
JOURNAL_S, COMMAND_S, UPLOAD_S = 20.0, 5.0, 60.0
MAX_URL, MAX_ANSWER = 32768, 65536
COMMANDS = {
    "ip.txt": (("ip", "address"), ("ip", "route"), ("ip", "-6", "route"), ("ip", "-s", "link")),
    "nmcli.txt": (("nmcli", "device"), ("nmcli", "device", "show"), ("nmcli", "connection")),
    "systemd.txt": (("systemctl", "show", "iotd.service"), ("timedatectl", "show"), ("df", "-h"), ("free", "-h"),
                    ("openssl", "version")),
}


def run(options: Any) -> int:
    """Write the bundle, or upload it; return 0, 1 where it cannot be written or the server does not take it."""
    here, file = Path.cwd(), os.path.abspath(options.file)
    if options.upload:
        return _upload(made(file), sys.stdin.readline(MAX_URL).strip())
    name = options.bundle or time.strftime(f"iotd-{_thing(file)}-%Y%m%dT%H%M%S.tar.gz")
    path = here / name
    content = made(file)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as opened:
            opened.write(content)
    except OSError as error:
        output.complain(f"{path} cannot be written: {error.strerror}")
        return EXIT_FAULT
    return 0 if output.say(f"{path}: {len(content)} bytes, for support; look into it before it leaves the device: "
                           f"tar -xzOf {path} | less") else EXIT_FAULT


def _upload(content: bytes, url: str) -> int:
    """Put the bundle to an https URL, whose signature is a secret: it is shown nowhere."""
    from http.client import HTTPException, HTTPSConnection
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.username is not None:
            raise ValueError("expected an https:// URL on standard input")
        connection = HTTPSConnection(parts.hostname, parts.port, timeout=UPLOAD_S)
        with closing(connection):
            connection.request("PUT", f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/",
                               content)
            answer = connection.getresponse()
            said = answer.read(MAX_ANSWER).decode("utf-8", "replace")
    except (HTTPException, OSError, ValueError) as error:
        output.complain(f"the bundle cannot be uploaded: {getattr(error, 'strerror', None) or error}")
        return EXIT_FAULT
    if not 200 <= answer.status < 300:
        code = re.search(r"<Code>([A-Za-z]{1,64})</Code>", said)  # of S3; the rest may repeat the signature
        output.complain(f"the server does not take the bundle: {answer.status} {answer.reason}"
                        f"{f', {code[1]}' if code else ''}")
        return EXIT_FAULT
    return 0 if output.say(f"{len(content)} bytes are uploaded to {parts.hostname}") else EXIT_FAULT


def made(file: str) -> bytes:
    """Return the bundle as a tar.gz of at most 2 MB, for the configuration in this file."""
    text = _text(file)
    secrets = _secrets(text)
    parts = {"doctor.json": _json(doctor.as_json(doctor.examined(file)[1])), "iotd.yaml": _configuration(text),
             "versions.txt": _versions(), **{name: _said(commands) for name, commands in COMMANDS.items()}}
    if found := told.read(places().runtime):
        parts["status.json"] = _json({**found.status, "age_s": found.age_s, "lives": found.lives})
    parts["last_reboot.json"] = _json(Files().read_json(places().state / "last_reboot.json"))
    parts = {name: part.encode("utf-8", "replace")[:MAX_PART_BYTES].decode("utf-8", "ignore")
             for name, part in parts.items()}
    parts["journal.txt"], parts["outages.txt"] = _journal()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, part in parts.items():
            content = without_secrets(part, secrets).encode("utf-8", "replace")
            entry = tarfile.TarInfo(f"iotd/{name}")
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _thing(file: str) -> str:
    try:
        return re.sub(r"[^A-Za-z0-9_-]", "_", read(file).parsed.settings.thing)[:64]
    except ConfigError:
        return re.sub(r"[^A-Za-z0-9_-]", "_", platform.node())[:64] or "device"


def _text(file: str) -> str:
    """Return the configuration as one text; that of the file alone where it cannot be one with those on top of it."""
    try:
        text, above, _ = sources(file)
        return layers.text_of(layers.merged(text, above)) if above else text
    except (ConfigError, Unreadable):
        with suppress(OSError, ValueError):
            return Files().read_text(Path(file))
        return ""


def _configuration(text: str) -> str:
    try:
        return bare(text)
    except Unreadable as error:
        return f"# line {error.line}: {error}\n"


def _secrets(text: str) -> list[str]:
    """Return each line of the files that the configuration names as a key or a password: they are in no text."""
    found = []
    for name in re.findall(r"(?m)\b(?:key|password_file):\s*[\"']?(/[^\s\"',}]+)", text):
        with suppress(OSError, ValueError):
            found += [line for line in Files().read_text(Path(name)).splitlines()
                      if len(line) >= 6 and not line.startswith("-----")]
    return sorted(found, key=len, reverse=True)


def _versions() -> str:
    lines = [f"iotd {__version__}", f"Python {sys.version}", " ".join(platform.uname())]
    with suppress(Exception):  # whatever a package's data look like
        from importlib.metadata import version
        lines += [f"{name} {version(name)}" for name in ("paho-mqtt", "PyYAML", "python-json-logger", "sdnotify")]
    with suppress(OSError):
        lines.append(Path("/etc/os-release").read_text("utf-8", "replace"))
    return "\n".join(lines)


def _said(commands: Iterable[tuple[str, ...]]) -> str:
    texts = []
    for words in commands:
        ended = command.run(words, COMMAND_S, keep_bytes=MAX_PART_BYTES // 4)
        texts.append(f"$ {' '.join(words)}\n{ended.output}{ended.reason}\n")
    return "\n".join(texts)


def _journal() -> tuple[str, str]:
    """Return the last day of iotd's units, a line an event, the newest of it; and the outages apart."""
    lines: list[str] = []
    outages: list[str] = []
    size, deadline = 0, time.monotonic() + JOURNAL_S
    words = [*log.JOURNAL, "--since=-1d", "--reverse"]
    with suppress(OSError), closing(command.lines(words)) as records:
        for record in records:
            text = log.line(record, False)
            size += len(text.encode("utf-8", "replace")) + 1
            if size > MAX_JOURNAL_BYTES or time.monotonic() > deadline:
                break
            lines.append(text)
            if " outage.over: " in text or " doctor.verdict: " in text:
                outages.append(text)
    return "\n".join(reversed(lines)), "\n".join(reversed(outages))[:MAX_PART_BYTES]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1)
