"""The layers in order, what explains the failure of each, and how each is judged. Pure.

A layer is judged by its own facts; then what failed below it takes the blame, and the lowest failed layer without a
failed cause is the verdict's. So a missing route is named, and not the name server that nobody can reach over it.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from iotd.doctor import layers
from iotd.doctor.facts import FAILED, NOT_SEEN, WARNING, Facts, Finding


class Row(NamedTuple):
    """One layer: `after` names those whose failure explains its own; `judge` takes what was seen of it, and all facts;
    `unseen` says what it was that was not seen.
    """

    layer: str
    after: tuple[str, ...]
    judge: Callable[[Any, Facts], layers.Judgement]
    unseen: str


def judge(facts: Facts) -> list[Finding]:
    """Return the finding of every layer, in order; of what failed, the cause that it follows from."""
    found: dict[str, Finding] = {}
    roots: dict[str, str] = {}
    for row in ROWS:
        seen = getattr(facts, row.layer)
        level, finding, fix = (NOT_SEEN, row.unseen, "") if seen is None else row.judge(seen, facts)
        cause = next((roots[layer] for layer in row.after if layer in roots), None)
        if level == FAILED:
            roots[row.layer] = cause or row.layer
        found[row.layer] = Finding(row.layer, level, finding, fix, cause if level == FAILED else None)
    return list(found.values())


def cause(findings: Iterable[Finding]) -> Finding | None:
    """Return the lowest failed layer that nothing else explains, None where nothing failed."""
    return next((finding for finding in findings if finding.level == FAILED and finding.consequence_of is None), None)


def verdict(findings: list[Finding]) -> str:
    """Return what it comes to, in a sentence."""
    lowest = cause(findings)
    if lowest is not None:
        return f"{lowest.layer}: {lowest.finding}"
    warnings = sum(finding.level == WARNING for finding in findings)
    return "all is well" + (f", with {warnings} warning{'s' * (warnings > 1)}" if warnings else "")


ROWS = (
    Row("configuration", (), layers.configuration, "the configuration was not looked at"),
    Row("certificates", ("configuration",), layers.certificates,
        "the connection is without certificates, or they may not be read"),
    Row("clock", (), layers.clock, "the clock was not looked at"),
    Row("interface", (), layers.interface, "no interface is watched, and none leads out"),
    Row("association", ("interface",), layers.association, "no Wi-Fi is watched"),
    Row("address", ("association", "interface"), layers.address, "no interface to look at"),
    Row("gateway", ("address", "association", "interface"), layers.gateway, "the routes were not looked at"),
    Row("dns", ("gateway", "address", "association", "interface"), layers.dns, "no name to look up"),
    Row("tcp", ("dns", "gateway", "address", "association", "interface"), layers.tcp, "no address to connect to"),
    Row("tls", ("clock", "tcp", "dns", "gateway", "address", "association", "interface"), layers.tls,
        "the connection is without TLS, its certificates may not be read, or nobody was there to shake hands with"),
    Row("mqtt", ("configuration", "certificates", "clock", "tls", "tcp", "dns", "gateway", "address", "association",
                 "interface"), layers.mqtt, "nobody is connected and nobody has tried"),
    Row("policy", ("mqtt",), layers.policy, "only the running daemon knows what is denied"),
    Row("backlog", ("mqtt",), layers.backlog, "only the running daemon knows what waits"),
    Row("disk", (), layers.disk, "the state directory was not looked at"),
    Row("host", (), layers.host, "the host was not looked at"),
    Row("daemon", ("configuration",), layers.daemon, "systemd was not asked"),
)
