"""Measured figures, and the bounds that they have to keep. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Iterable, Iterator, Mapping, Sequence

SUBJECT = "iotd"  # whose figures the bounds are about


@dataclass(frozen=True, slots=True)
class Bound:
    """What a figure must keep: `limit` times that of the contender `against`, or (None) `limit` itself.

    At most so much, or with `floor` at least. `why` tells what stands in the way, where it is not reached.
    `tolerance` is what the quick run passes over (0.25: a quarter of it), since the machine may be shared.
    """

    limit: float
    against: str | None = None
    floor: bool = False
    why: str = ""
    tolerance: float = 0.25


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity: the samples of each contender, and what iotd's must keep."""

    name: str
    unit: str
    samples: Mapping[str, Sequence[float]]
    bounds: Sequence[Bound] = ()

    def median(self, column: str) -> float:
        """Return the median of the samples of a contender."""
        return median(self.samples[column])

    def ratio(self, against: str) -> float | None:
        """Return how many times the figure of `against` iotd's is; None where one was not measured or is 0."""
        if not self.samples.get(SUBJECT) or not self.samples.get(against) or not self.median(against):
            return None
        return self.median(SUBJECT) / self.median(against)

    def kindest_ratio(self, against: str, floor: bool) -> float:
        """Return the ratio that suits iotd best of those that the samples allow."""
        ours, theirs = self.samples[SUBJECT], self.samples[against]
        return max(ours) / min(theirs) if floor else min(ours) / max(theirs)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bound and what was measured for it."""

    figure: Figure
    bound: Bound
    measured: float

    def kept(self, tolerance: float = 0.0) -> bool:
        """Tell whether the bound is kept, or missed by no more than `tolerance` (0.25: a quarter of it)."""
        return self._kept(self.measured, tolerance)

    def is_missed_for_sure(self) -> bool:
        """Tell whether it is missed by more than its tolerance, whichever of the samples are taken: on a machine that
        others share, what a figure is times another's changes from one minute to the next.
        """
        against, tolerance = self.bound.against, self.bound.tolerance
        kindest = self.measured if against is None else self.figure.kindest_ratio(against, self.bound.floor)
        return not (self.kept(tolerance) or self._kept(kindest, tolerance))

    def _kept(self, measured: float, tolerance: float) -> bool:
        if self.bound.floor:
            return measured >= self.bound.limit / (1.0 + tolerance)
        return measured <= self.bound.limit * (1.0 + tolerance)


@dataclass(frozen=True, slots=True)
class Section:
    """The figures that belong in one table; `text` stands above it."""

    title: str
    text: str
    figures: Sequence[Figure]


def verdicts(sections: Iterable[Section]) -> Iterator[Verdict]:
    """Yield a verdict for each bound whose contenders were measured."""
    for section in sections:
        for figure in section.figures:
            for bound in figure.bounds:
                if bound.against is None:
                    yield Verdict(figure, bound, figure.median(SUBJECT))
                elif (ratio := figure.ratio(bound.against)) is not None:
                    yield Verdict(figure, bound, ratio)


def most_within(times: Iterable[float], window_s: float) -> int:
    """Return how many of the times the fullest window of this length holds."""
    ordered = sorted(times)
    first = most = 0
    for last, at in enumerate(ordered):
        while ordered[first] <= at - window_s:
            first += 1
        most = max(most, last - first + 1)
    return most
