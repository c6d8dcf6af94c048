"""Whether what is desired of a key answers our own report of it: a fight, told from a person by its cause. Pure.

A program that answers each report of a key by desiring something else never comes to an end. A person at a slider
changes it as often, but not because we report. So after some changes that each followed our report of the very same
key, the next report of that key is held back; what is desired is done at once all the same. Who goes on meanwhile does
not do so because of us: all suspicion is dropped. Who is silent as long as we are, and goes on as soon as we have
reported, answers our report. It is named after three such holds in a row, and each hold is twice as long as the last,
so that a fight ends in one round an hour. Steady changes never count twice in a row, since a hold of h counts only for
an interval from h to 2 h.

The other fight is over the same value: somebody else reports the key as well, with another value, after our report of
it was taken. That needs no test: it is named after some rounds, and our reports of it are held back in the same way.
"""

import math
from typing import NamedTuple

TURNS = 5  # changes that followed our report, until the first hold
ROUNDS = 3  # reports of ours that were overruled, until the first hold
WITHIN_S = 60.0  # what comes later is no answer
HOLD_FIRST_S, HOLD_MAX_S = 1.0, 3600.0
CERTAIN = 3  # holds in a row that were answered


class Loop(NamedTuple):
    """What is known of one key.

    `told` is the version of the shadow in which the service took our report of what is applied, at `told_at`;
    `held_until` is set while that report is held back, for `hold_s`.
    """

    told: int | None = None
    told_at: float = 0.0
    turns: int = 0
    rounds: int = 0
    hold_s: float = 0.0
    held_until: float = math.inf
    answered: int = 0
    named: bool = False

    @property
    def is_held(self) -> bool:
        """Whether our report of this key is held back."""
        return self.held_until < math.inf


def told(loop: Loop, version: int, now: float) -> Loop:
    """The service has taken our report of this key, as it is applied."""
    return loop if loop.told is not None else loop._replace(told=version, told_at=now)


def changed(loop: Loop, acted: bool, version: int, now: float) -> tuple[Loop, bool]:
    """Something else is desired as of `version`; tell whether that is to be named as a fight.

    `acted`: what was desired before was done, and not only begun.
    """
    if not acted or loop.is_held or now - loop.told_at > WITHIN_S and loop.told is not None:
        return Loop(), False  # we had said nothing that this could answer
    if loop.told is None or version <= loop.told:
        return loop, False  # it crossed our report
    turns, hold_s = loop.turns + 1, loop.hold_s
    if turns <= TURNS:
        return loop._replace(turns=turns), False
    answered = loop.answered + 1 if hold_s and now - loop.told_at <= hold_s else 0
    named = loop.named or answered >= CERTAIN
    return loop._replace(turns=turns, hold_s=_longer(hold_s), answered=answered, named=named), named and not loop.named


def done(loop: Loop, now: float) -> Loop:
    """What is desired was done: it is to be reported now, or held back."""
    return loop._replace(told=None, held_until=now + loop.hold_s if loop.hold_s else math.inf)


def overruled(loop: Loop, now: float) -> tuple[Loop, bool]:
    """Somebody else has reported the key after us; tell whether that is to be named as a fight."""
    if now - loop.told_at > WITHIN_S:
        loop = Loop()
    if loop.rounds < ROUNDS:
        return loop._replace(rounds=loop.rounds + 1, told=None), False
    hold_s = _longer(loop.hold_s)
    return loop._replace(told=None, hold_s=hold_s, held_until=now + hold_s, named=True), not loop.named


def released(loop: Loop) -> Loop:
    """The hold is over."""
    return loop._replace(held_until=math.inf)


def _longer(hold_s: float) -> float:
    return min(HOLD_MAX_S, 2 * hold_s) or HOLD_FIRST_S
