"""The layers in order, what explains the failure of each, and how each is judged. Pure.

A layer is judged by its own facts; then what failed below it takes the blame, and the lowest failed layer without a
failed cause is the verdict's. So a missing route is named, and not the name server that nobody can reach over it.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from iotd.doctor import layers
from iotd.doctor.facts import FAILED, WARNING, Facts, Finding


class Row(NamedTuple):
    """One layer: `after` names those whose failure explains its own, `judge` takes all facts."""

    layer: str
    after: tuple[str, ...]
    judge: Callable[[Facts], layers.Judgement]


def judge(facts: Facts) -> list[Finding]:
    """Return the finding of every layer, in order; of what failed, the cause that it follows from."""
    found: dict[str, Finding] = {}
    roots: dict[str, str] = {}
    for row in ROWS:
        level, finding, fix = row.judge(facts)
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
    Row("configuration", (), layers.configuration),
    Row("certificates", ("configuration",), layers.certificates),
    Row("clock", (), layers.clock),
    Row("interface", (), layers.interface),
    Row("association", ("interface",), layers.association),
    Row("address", ("association", "interface"), layers.address),
    Row("gateway", ("address", "association", "interface"), layers.gateway),
    Row("dns", ("gateway", "address", "association", "interface"), layers.dns),
    Row("tcp", ("dns", "gateway", "address", "association", "interface"), layers.tcp),
    Row("tls", ("clock", "tcp", "dns", "gateway", "address", "association", "interface"), layers.tls),
    Row("mqtt", ("configuration", "certificates", "clock", "tls", "tcp", "dns", "gateway", "address", "association",
                 "interface"), layers.mqtt),
    Row("policy", ("mqtt",), layers.policy),
    Row("backlog", ("mqtt",), layers.backlog),
    Row("disk", (), layers.disk),
    Row("host", (), layers.host),
    Row("daemon", ("configuration",), layers.daemon),
)
