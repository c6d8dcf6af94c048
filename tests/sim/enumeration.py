"""Every sequence up to a length, not a sample: what chance may leave out for years is tried in a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

State = TypeVar("State")
Event = TypeVar("Event")


def every(state: State, events: Sequence[Event], length: int, step: Callable[[State, Event], State | None],
          path: tuple[Event, ...] = ()) -> Iterator[tuple[tuple[Event, ...], State]]:
    """Yield every sequence of events up to this length with the state after it; `step` is a pure function.

    A state that is None cannot be: what would follow it is left out. A step that fails tells its sequence.
    """
    if length == 0:
        return
    for event in events:
        taken = (*path, event)
        try:
            after = step(state, event)
        except AssertionError as error:
            raise AssertionError(f"{error} after {taken}") from error
        if after is not None:
            yield taken, after
            yield from every(after, events, length - 1, step, taken)


def count(found: Iterator[object]) -> int:
    """Return how many sequences there were; to count them is to try them."""
    return sum(1 for _ in found)
