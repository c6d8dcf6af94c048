"""`iotd doctor`: which layer fails, in one command, offline, in seconds; as root or not."""

from __future__ import annotations

import json
from typing import Any

from iotd.cli import told
from iotd.cli.load import last_accepted, load, places
from iotd.cli.told import printable
from iotd.config.settings import Settings
from iotd.doctor import looks, rows
from iotd.doctor.facts import Association, Configuration, Finding, Gateway
from iotd.errors import EXIT_CONFIG, ConfigError
from iotd.host.facts import HOST
from iotd.vocabulary import Json

EXIT_FAILED = 1
_MARKS = {rows.OK: "ok      ", rows.WARNING: "warning ", rows.FAILED: "failed  ", rows.NOT_SEEN: "not seen"}


def run(options: Any) -> int:
    """Print the verdict, then each layer. Exit status 0 all well, 1 something failed, 78 a bad configuration."""
    configuration, settings = _configuration(options.file)
    status, age_s = _status()
    findings = rows.judge(looks.gather(looks.Subject(
        configuration, settings, status, age_s, places().state, _association(settings), _gateway)))
    lowest = rows.cause(findings)
    if options.json:
        print(json.dumps({"verdict": rows.verdict(findings), "cause": lowest.layer if lowest else None,
                          "findings": [finding.to_json() for finding in findings]}, ensure_ascii=False))
    else:
        print("\n".join(_lines(findings)))
    if configuration.problems:
        return EXIT_CONFIG
    return EXIT_FAILED if lowest else 0


def _lines(findings: list[Finding]) -> list[str]:
    lines = [printable(rows.verdict(findings)), ""]
    for finding in findings:
        follows = f" (follows from {finding.consequence_of})" if finding.consequence_of else ""
        lines.append(f"{_MARKS[finding.level]} {finding.layer:13} {printable(finding.finding)}{follows}")
        if finding.fix and finding.level != rows.OK and not finding.consequence_of:
            lines.append(f"{'':22}  → {printable(finding.fix)}")
    return lines


def _configuration(file: str) -> tuple[Configuration, Settings | None]:
    try:
        checked = load(file, True)
    except ConfigError as error:
        last = last_accepted(file, places().state)  # what the daemon runs on
        return Configuration(file, tuple(error.lines())), last.settings if last else None
    return Configuration(file, (), checked.warnings), checked.settings


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
