"""The two pictures of docs/performance.md, as SVG that is legible on a light and on a dark page. Pure."""

from __future__ import annotations

import math
from collections import Counter
from typing import Mapping, Sequence
from xml.sax.saxutils import escape

from tests.bench.figures import Figure

_WIDTH = 760
_STYLE = """\
  <style>
    text { font: 13px sans-serif; fill: #1f2328; stroke: #ffffff; stroke-width: 3; paint-order: stroke }
    .small { font-size: 11px } .page { fill: #ffffff }
    .axis { stroke: #8c959f; fill: none } .limit { stroke: #cf222e; stroke-width: 2; stroke-dasharray: 4 3 }
    .c0 { fill: #0969da } .c1 { fill: #8c959f } .c2 { fill: #bf8700 } .c3 { fill: #8250df }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; stroke: #0d1117 } .page { fill: #0d1117 } .limit { stroke: #ff7b72 }
      .c0 { fill: #4493f8 } .c2 { fill: #d29922 } .c3 { fill: #ab7df8 }
    }
  </style>"""


def ratios(figures: Sequence[Figure], columns: Sequence[str], base: str, most: float = 2.5) -> str:
    """Return bars of each figure as a multiple of that of `base`, cut at `most`, with a line at its bound."""
    left, bar, gap = 275.0, 13.0, 16.0
    scale = (_WIDTH - left - 90) / most
    parts: list[str] = []
    values: list[str] = []
    y = 40.0
    for column, name in enumerate(columns):
        parts += [_rect(left + 110 * column, 12, 11, 11, column), _text(left + 110 * column + 16, 22, name)]
    for figure in figures:
        names = [name for name in columns if figure.samples.get(name)]
        parts.append(_text(left - 10, y + bar * len(names) / 2 + 4, figure.name, "end"))
        top = y
        for name in names:
            ratio = figure.median(name) / figure.median(base)
            width = scale * min(ratio, most)
            parts.append(_rect(left, y, width, bar - 2, columns.index(name)))
            values.append(_text(left + width + 5, y + bar - 3, f"{ratio:.2f}" + (" →" if ratio > most else ""),
                                small=True))
            y += bar
        parts += [_line("limit", left + scale * bound.limit, top - 3, left + scale * bound.limit, y + 1)
                  for bound in figure.bounds if bound.against == base]
        y += gap
    parts += [*values, _line("axis", left, 34, left, y - 8),
              _text(left, y + 8, f"× {base}; the dashed line is the bound", small=True)]
    return _page(y + 22, parts)


def spread(times: Mapping[str, Sequence[float]], window_s: float, limit: int) -> str:
    """Return a panel for each name: how many of its times fall into each window, with a line at `limit`."""
    left, height, panel = 50.0, 120.0, 175.0
    end_s = max(max(seen) for seen in times.values()) + window_s
    scale = (_WIDTH - left - 20) / end_s
    parts: list[str] = []
    for row, (name, seen) in enumerate(times.items()):
        counts = Counter(int(at / window_s) for at in seen)
        most = max(*counts.values(), limit)
        floor = 40 + row * panel + height
        parts.append(_text(left, floor - height - 14,
                           f"{name}: {len(seen)} CONNECTs after the broker's return, in each {window_s * 1000:.0f} ms"))
        parts += [_rect(left + index * window_s * scale, floor - height * count / most,
                        max(1.0, window_s * scale - 0.5), height * count / most, row)
                  for index, count in sorted(counts.items())]
        level = floor - height * limit / most
        parts += [_line("axis", left, floor, _WIDTH - 20, floor), _line("axis", left, floor, left, floor - height),
                  _line("limit", left, level, _WIDTH - 20, level), _text(left - 6, level + 4, str(limit), "end", True)]
        if most > 1.2 * limit:
            parts.append(_text(left - 6, floor - height + 4, str(most), "end", True))
        parts += [_text(left + second * scale, floor + 15, f"{second} s", "middle", True)
                  for second in range(0, int(end_s) + 1, max(1, round(end_s / 10)))]
    return _page(40 + panel * len(times), parts)


def cumulative(seconds: Sequence[float], what: str) -> str:
    """Return how many of the times, which are sorted, are over after how long, in per cent over a logarithmic axis."""
    left, top, height = 60.0, 40.0, 200.0
    floor = top + height
    decades = max(1, math.ceil(math.log10(max(seconds[-1], 10.0))))
    scale = (_WIDTH - left - 20) / decades
    parts = [_text(left, 24, f"{len(seconds)} {what}, in %, after so many seconds")]
    for index, second in enumerate(seconds):
        x = left + scale * max(0.0, math.log10(max(second, 1.0)))
        end = seconds[index + 1] if index + 1 < len(seconds) else 10.0 ** decades
        width = left + scale * max(0.0, math.log10(max(end, 1.0))) - x
        if width > 0:
            share = height * (index + 1) / len(seconds)
            parts.append(_rect(x, floor - share, width, share, 0))
    parts += [_line("axis", left, floor, _WIDTH - 20, floor), _line("axis", left, floor, left, top)]
    parts += [_text(left - 6, floor - height * part / 100 + 4, str(part), "end", True) for part in (0, 50, 95)]
    parts += [_line("limit", left, floor - height * part / 100, _WIDTH - 20, floor - height * part / 100)
              for part in (50, 95)]
    parts += [_text(left + scale * decade, floor + 15, f"{10 ** decade} s", "middle", True)
              for decade in range(decades + 1)]
    return _page(floor + 30, parts)


def _page(height: float, parts: Sequence[str]) -> str:
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}">', _STYLE,
        f'  <rect class="page" width="{_WIDTH}" height="{height:.0f}" rx="6"/>', *parts, "</svg>", ""])


def _rect(x: float, y: float, width: float, height: float, colour: int) -> str:
    return f'  <rect class="c{colour}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'  <line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start", small: bool = False) -> str:
    kind = ' class="small"' if small else ""
    return f'  <text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
