"""From the results of checks to one verdict, and to what the shadow reports of it. Pure."""

import json
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from iotd.shadows.findings import CheckResult, Finding
from iotd.shadows.section import Check
from iotd.vocabulary import Json

MISSED = 3  # so many intervals without a result, and the last one says nothing any more
MAX_REPORT_BYTES = 2048  # of the 8 KB that a shadow has for everything


class Doubt(NamedTuple):
    """A check that is not good: why, what it measured, and for how long its last result has stood."""

    name: str
    reason: str
    value: Json = None
    age_s: float | None = None


class Verdict(NamedTuple):
    """Whether a shadow is healthy: `failed` says no; `unknown` says nothing, for no data is not bad."""

    failed: tuple[Doubt, ...] = ()
    unknown: tuple[Doubt, ...] = ()

    @property
    def healthy(self) -> bool:
        """Tell whether no check has failed."""
        return not self.failed


def judge(checks: Iterable[Check], results: Mapping[Check, CheckResult], now: float) -> Verdict:
    """Judge the newest results as of the monotonic time `now`.

    There is no hysteresis: a check speaks once an interval, so that the interval bounds how often a verdict turns.
    """
    failed, unknown = [], []
    for check in checks:
        result = results.get(check)
        if result is None:
            unknown.append(Doubt(check.name, "no result yet"))
            continue
        age_s = max(0.0, now - result.at)
        if age_s > MISSED * check.every_s + check.timeout_s:
            unknown.append(Doubt(check.name, f"no result for {age_s:.0f} s; it hangs", age_s=age_s))
        elif result.outcome == "unknown":
            unknown.append(Doubt(check.name, result.reason, result.value, age_s))
        elif result.outcome == "bad":
            failed.append(Doubt(check.name, result.reason, result.value, age_s))
    return Verdict(tuple(failed), tuple(unknown))


def within(check: Check, value: Json, outside_since: float | None, now: float) -> tuple[Finding, float | None]:
    """Judge a value by the range of its check; return since when it has been outside as well, None for inside.

    It is bad once it has been outside for long enough. No value says nothing, and takes nothing back.
    """
    low, high, for_s = check.limit
    if value is None:
        return ("unknown", None, "there is no value"), outside_since
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ("unknown", None, "it is no number"), outside_since
    if (low is None or value >= low) and (high is None or value <= high):
        return ("good", value, ""), None
    since = now if outside_since is None else outside_since
    if now - since < for_s:
        return ("good", value, ""), since
    bound = f"at most {high:g}" if high is not None and value > high else f"at least {low:g}"
    lasting = f", for {now - since:.0f} s" if for_s else ""
    return ("bad", value, f"{value}, expected {bound}{lasting}"), since


def changed(old: Verdict, new: Verdict) -> bool:
    """Tell whether the difference is worth a report at once: other checks fail than before."""
    return _names(old.failed) != _names(new.failed)


def turned(old: Verdict, new: Verdict) -> tuple[list[Doubt], list[str], list[Doubt]]:
    """Return what the log should name: the checks that fail now, those well again, those of which nothing is known now.

    A check that has not ended for the first time yet is no news.
    """
    was, stays = _names(old.failed + _made(old.unknown)), _names(new.failed + new.unknown)
    return ([doubt for doubt in new.failed if doubt.name not in _names(old.failed)],
            sorted(was - stays),
            [doubt for doubt in _made(new.unknown) if doubt.name not in _names(_made(old.unknown))])


def reported(verdict: Verdict) -> dict[str, Json]:
    """Return the verdict for the reported state, at most 2 KB of it.

    Lists, since the shadow service replaces them whole: a check that recovers or is removed leaves no key behind.
    """
    room = MAX_REPORT_BYTES
    sections: dict[str, Json] = {"failed": [], "unknown": []}
    left_out = 0
    for section, doubts in (("failed", verdict.failed), ("unknown", verdict.unknown)):
        for doubt in doubts:
            entry = _entry(doubt)
            room -= len(json.dumps(entry, ensure_ascii=False).encode("utf-8", "replace")) + 2
            if room < 0:
                left_out += 1
            else:
                sections[section].append(entry)
    return {**sections, "left_out": left_out}


def _entry(doubt: Doubt) -> dict[str, Json]:
    entry = {"check": doubt.name, "reason": doubt.reason, "value": doubt.value,
             "age_s": None if doubt.age_s is None else round(doubt.age_s)}
    # The service refuses null in an array.
    return {key: value for key, value in entry.items() if value is not None}


def _made(doubts: tuple[Doubt, ...]) -> tuple[Doubt, ...]:
    return tuple(doubt for doubt in doubts if doubt.age_s is not None)


def _names(doubts: Iterable[Doubt]) -> set[str]:
    return {doubt.name for doubt in doubts}
