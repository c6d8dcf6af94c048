"""The figures as Markdown, with the machine and the versions they belong to."""

from __future__ import annotations

import os
import platform
import re
import sqlite3
import ssl
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Sequence

from iotd import __version__
from tests.bench.figures import SUBJECT, Figure, Section, Verdict, verdicts
from tests.bench.ground import BARE, peers_python

_HEAD = """\
# What iotd costs

Written by `script/bench`; do not edit.

Beside iotd run the simplest paho-mqtt script that does the same job (*bare paho*), and the same script written for
the AWS IoT Device SDK v2 and for the AWS IoT Python SDK v1: publish, retained, a message of about 150 bytes, report
one shadow every 30 s, hold a will, subscribe three filters, log what comes in. All talk to one local mosquitto with
mutual TLS. They are measured in turn or at the same time, never one after the other in blocks, so what disturbs the
machine disturbs all. A cell is the median, with the smallest and the largest sample where there are several.
"""


def page(sections: Sequence[Section], plots: Sequence[str]) -> str:
    """Return docs/performance.md; `plots` name the pictures beside it."""
    found = list(verdicts(sections))
    reached = sum(verdict.kept() for verdict in found)
    parts = [_HEAD, f"## What it must keep\n\n{reached} of {len(found)} bounds are kept.\n", bounds(found)]
    if missed := [f"- {verdict.figure.name}: {verdict.bound.why}." for verdict in found
                  if not verdict.kept() and verdict.bound.why]:
        parts.append("Why not:\n\n" + "\n".join(missed) + "\n")
    parts += [f"![{Path(name).stem}]({name})\n" for name in plots[:1]]
    parts += [table(section) for section in sections]
    parts += [f"![{Path(name).stem}]({name})\n" for name in plots[1:]]
    return "\n".join([*parts, machine()])


def bounds(found: Sequence[Verdict]) -> str:
    """Return what was measured for each bound, and whether it is kept."""
    rows = ["| | iotd | bound | |", "|---|---|---|---|"]
    for verdict in found:
        bound = verdict.bound
        of = f" × {bound.against}" if bound.against else f" {verdict.figure.unit}".rstrip()
        rows.append(f"| {verdict.figure.name} | {number(verdict.measured)}{of} "
                    f"| {'≥' if bound.floor else '≤'} {number(bound.limit)}{of} "
                    f"| {'kept' if verdict.kept() else '**not kept**'} |")
    return "\n".join(rows) + "\n"


def table(section: Section) -> str:
    """Return the section: its title, its text, a row for each figure and a column for each contender."""
    columns = list(dict.fromkeys(name for figure in section.figures for name in figure.samples))
    compared = SUBJECT in columns and BARE in columns
    rows = ["| | " + " | ".join(columns) + (f" | iotd / {BARE} |" if compared else " |"),
            "|---|" + "---|" * (len(columns) + compared)]
    for figure in section.figures:
        ratio = figure.ratio(BARE)
        cells = [f"{figure.name}, {figure.unit}" if figure.unit else figure.name,
                 *(cell(figure, name) for name in columns),
                 *(["–" if ratio is None else number(ratio)] if compared else [])]
        rows.append("| " + " | ".join(cells) + " |")
    return f"## {section.title}\n\n{section.text}\n\n" + "\n".join(rows) + "\n"


def cell(figure: Figure, column: str) -> str:
    """Return the median of the contender, and its extremes where there are several samples."""
    samples = figure.samples.get(column)
    if not samples:
        return "–"
    middle, low, high = number(figure.median(column)), number(min(samples)), number(max(samples))
    return middle if low == high else f"{middle} ({low} … {high})"


def number(value: float) -> str:
    """Return the number with three digits that count."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def machine() -> str:
    """Return what was measured on, and with; nothing that names the host."""
    peers = {name: _peer(name) for name in ("awsiotsdk", "awscrt", "AWSIoTPythonSDK")}
    versions = {"iotd": __version__, "Python": platform.python_version(), "paho-mqtt": version("paho-mqtt"),
                "mosquitto": _mosquitto(), "SQLite": sqlite3.sqlite_version,
                "OpenSSL": ssl.OPENSSL_VERSION.split()[1], **{name: text for name, text in peers.items() if text}}
    memory_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return (f"## Machine and versions\n\n{os.cpu_count()} cores, {_cpu()}, {memory_gb:.0f} GB of memory; "
            f"{platform.freedesktop_os_release()['PRETTY_NAME']}, Linux {platform.release().split('-')[0]} "
            f"{platform.machine()}.\n{', '.join(f'{name} {text}' for name, text in versions.items())}.\n")


def _cpu() -> str:
    text = Path("/proc/cpuinfo").read_text()
    found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1) if found else platform.machine()


def _mosquitto() -> str:
    told = subprocess.run(["mosquitto", "-h"], env={"PATH": os.environ.get("PATH", "") + ":/usr/sbin"},
                          capture_output=True, text=True).stdout
    return told.split()[2]


def _peer(name: str) -> str:
    if not peers_python().exists():
        return ""
    ask = f"import importlib.metadata; print(importlib.metadata.version({name!r}))"
    return subprocess.run([str(peers_python()), "-c", ask], capture_output=True, text=True).stdout.strip()
