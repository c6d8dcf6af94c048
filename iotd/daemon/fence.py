"""A bug in a part ends nothing but what that part was at: it is told with its traceback, and the part rests a while."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from iotd.daemon.part import Part
from iotd.host import log

REST_S = 60.0  # before a part that has failed is called by time again
FAILURES = 3  # in a row; then only a restart may help
TOLD_S = 3600.0  # for so long a failure is a problem in the status

Answer = TypeVar("Answer")


class Fence:
    """Calls parts, and knows which have failed.

    `calling` is the part that is called just now, if any: what it hands over to be called back is its own.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.calling: Part | None = None
        self._monotonic = monotonic
        self._told: dict[Part, str] = {}
        self._failed_at: dict[Part, float] = {}
        self._in_a_row: dict[Part, int] = {}
        self._rest_until: dict[Part, float] = {}

    def rests(self, part: Part, now: float) -> bool:
        """Tell whether the part has failed just now at what was due."""
        return now < self._rest_until.get(part, now)

    def keep(self, part: Part, now: float) -> float:
        """Have a part do what is due; return when it is due next. The third failure in a row goes on to the caller."""
        self.calling = part
        try:
            part.keep(now)
            due_at = part.next_due()
        except Exception:
            self._tell(part, now)
            self._in_a_row[part] = self._in_a_row.get(part, 0) + 1
            if self._in_a_row[part] >= FAILURES:
                raise
            self._rest_until[part] = now + REST_S
            return now + REST_S
        finally:
            self.calling = None
        if self._in_a_row:
            self._in_a_row.pop(part, None)
        return due_at

    def call(self, part: Part | None, do: Callable[..., Any], *arguments: Any) -> Any:
        """Call what is a part's, or was handed over by it; return None where that fails. None is the kernel itself."""
        if part is None:
            return do(*arguments)
        before, self.calling = self.calling, part
        try:
            return do(*arguments)
        except Exception:
            self._tell(part, self._monotonic())
            return None
        finally:
            self.calling = before

    def ask(self, part: Part, question: Callable[..., Answer], *arguments: Any) -> Answer:
        """Return a part's answer to a question of `Part`, as `Part.filters`; where that fails, that of a part which has
        nothing to say.
        """
        before, self.calling = self.calling, part
        try:
            answer: Answer = getattr(part, question.__name__)(*arguments)
            return answer
        except Exception:
            self._tell(part, self._monotonic())
            return question(part, *arguments)
        finally:
            self.calling = before

    def problems(self, parts: list[Part], now: float) -> list[str]:
        """Return which parts have failed within the last hour, a sentence each."""
        return [f"a bug in iotd: {_name(part)} has failed; its traceback is in the journal" for part in parts
                if part in self._failed_at and now < self._failed_at[part] + TOLD_S]

    def _tell(self, part: Part, now: float) -> None:
        """Log the bug, unless it is the same as the last one."""
        text = traceback.format_exc()
        self._failed_at[part] = now
        if self._told.get(part) != text:
            self._told[part] = text
            log.error("part.fault", f"a bug in iotd: {_name(part)} has failed", part=_name(part), traceback=text)


def _name(part: Part) -> str:
    return type(part).__name__
