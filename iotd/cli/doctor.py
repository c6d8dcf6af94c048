"""`iotd doctor`: which layer fails, in one command, offline, in seconds; as root or not."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import Any

from iotd.cli import output, told
from iotd.cli.load import last_accepted, places, read
from iotd.cli.told import printable
from iotd.cli.user import as_daemon
from iotd.config import broker, parse
from iotd.config.settings import Settings
from iotd.doctor import looks, rows
from iotd.doctor.facts import FAILED, NOT_SEEN, OK, WARNING, Association, Configuration, Finding, Gateway
from iotd.errors import EXIT_CONFIG, ConfigError
from iotd.host.facts import HOST
from iotd.host.identity import user_name
from iotd.mqtt import credentials
from iotd.vocabulary import Json

EXIT_FAILED = 1
_MARKS = {OK: "ok      ", WARNING: "warning ", FAILED: "failed  ", NOT_SEEN: "not seen"}


def run(options: Any) -> int:
    """Print the verdict, then each layer. Exit status 0 all well, 1 something failed, 78 a bad configuration."""
    configuration, findings = examined(options.file)
    if options.json:
        printed = output.say_json(json.dumps(as_json(findings), ensure_ascii=False))
    else:
        printed = output.say("\n".join(_lines(findings)))
    if configuration is not None and configuration.problems:
        return EXIT_CONFIG
    return EXIT_FAILED if rows.cause(findings) or not printed else 0


def examined(file: str) -> tuple[Configuration | None, list[Finding]]:
    """Look at every layer; return what is wrong with the configuration, and all findings."""
    configuration, settings, certificates = _configuration(file)
    status, age_s = _status()
    return configuration, rows.judge(looks.gather(looks.Subject(
        configuration, settings, certificates, status, age_s, places().state, _association(settings), _gateway)))


def as_json(findings: list[Finding]) -> dict[str, Json]:
    """Return the findings as `--json` prints them."""
    lowest = rows.cause(findings)
    return {"verdict": rows.verdict(findings), "cause": lowest.layer if lowest else None,
            "findings": [finding.to_json() for finding in findings]}


def _lines(findings: list[Finding]) -> list[str]:
    lines = [printable(rows.verdict(findings)), ""]
    for finding in findings:
        follows = f" (follows from {finding.consequence_of})" if finding.consequence_of else ""
        lines.append(f"{_MARKS[finding.level]} {finding.layer:13} {printable(finding.finding)}{follows}")
        if finding.fix and finding.level != OK and not finding.consequence_of:
            lines.append(f"{'':22}  → {printable(finding.fix)}")
    return lines


def _configuration(file: str) -> tuple[Configuration | None, Settings | None, dict[str, str] | None]:
    """Return what is wrong with the file, the settings in force, and what is wrong with the certificates: as the daemon
    meets them, where that can be told. None is not seen: who asks may not read it.
    """
    path = os.path.abspath(file)
    told = as_daemon(partial(_judged, path))
    try:
        settings: Settings | None = read(path).parsed.settings
    except ConfigError:
        last = last_accepted(path, places().state)  # what the daemon runs on
        settings = last.settings if last else None
    configuration = Configuration(file, tuple(told["problems"]), tuple(told["warnings"]))
    return None if told["unseen"] else configuration, settings, told["certificates"]


def _judged(path: str) -> Json:
    told: dict[str, Json] = {"unseen": False, "problems": [], "warnings": [], "certificates": None}
    try:
        parsed = read(path).parsed
    except ConfigError as error:
        if isinstance(error.__cause__, PermissionError) and _is_a_guest():
            return {**told, "unseen": True}
        return {**told, "problems": error.lines()}
    settings = parsed.settings
    told["warnings"] = [warning.render(path) for warning in parsed.warnings]
    told["warnings"] += [f"{key}: {problem}" for key, problem in (*broker.warnings(settings), *parse.hidden(settings))]
    if not _is_a_guest():  # who may not see every program
        told["warnings"] += [f"{key}: {problem}" for key, problem in parse.impossible(settings)]
    tls = settings.mqtt.tls
    if tls is not None and not (_is_a_guest() and any(map(_is_shut, filter(None, tls)))):
        told["certificates"] = credentials.unusable(tls, settings.mqtt.alpn)
        told["warnings"] += filter(None, [credentials.open_to_all(tls.key)])
    return told


def _is_a_guest() -> bool:
    """Tell whether who asks may see less than the daemon."""
    return user_name() not in ("root", credentials.DAEMON_USER)


def _is_shut(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return False


def _status() -> tuple[dict[str, Json] | None, float | None]:
    """Return what the running daemon says, and how old that is; None where none runs."""
    found = told.read(places().runtime)
    return (found.status, found.age_s) if found is not None and found.lives else (None, None)


def _association(settings: Settings | None) -> Any:
    """Return a look at the Wi-Fi, where one is watched."""
    wifi: Any = settings.sections.get("wifi") if settings is not None else None
    if wifi is None:
        return None
    from iotd.wifi import nl80211
    from iotd.wifi.reading import ssid_text

    def look() -> Association:
        reading = nl80211.look(wifi.interface)
        essid = None if reading.ssid is None else ssid_text(reading.ssid)
        return Association(reading.outcome, essid, wifi.essid, reading.rssi_dbm, reading.reason)

    return look


def _gateway() -> Gateway:
    from iotd.shadows import gateway
    from iotd.shadows.section import Check

    tables = HOST.proc / "net"
    ipv6 = tables / "ipv6_route"
    found = gateway.default_gateways((tables / "route").read_text(), ipv6.read_text() if ipv6.exists() else "")
    if not found:
        return Gateway(None, None, "bad", "")
    outcome, _, reason = gateway.look(Check("", "gateway", True, timeout_s=3.0), None, HOST)
    return Gateway(found[0][0], found[0][1], outcome, reason)
