"""The configuration file over a run: the one in force is kept for a start that finds a bad one, and a file that was
refused stays known until it is mended.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from iotd.config.difference import changed
from iotd.config.settings import Checked, Settings
from iotd.errors import ConfigError
from iotd.host import log
from iotd.host.files import Files

ACCEPTED = "accepted.yaml"  # in the state directory
MAX_NAMED = 40  # keys that have changed


class Configuration:
    """What is in force. `load` reads and validates the file anew: where that has problems it returns the last one that
    was accepted, with them, or raises ConfigError where there is none.

    `refused` are the problems of a newer file that is not in force, as `iotd check` prints them.
    """

    def __init__(self, checked: Checked, load: Callable[[], Checked], files: Files, state: Path) -> None:
        self.refused = checked.refused
        self._checked = checked
        self._load = load
        self._files = files
        self._place = state / ACCEPTED

    def started(self) -> None:
        """The first one has taken effect: keep it, and say what is not right about it."""
        if self.refused:
            log.error("config.refused", "the configuration has problems; the last one that was accepted is in force",
                      problems=list(self.refused))
        self._keep()
        self._warn()

    def reload(self, take: Callable[[Settings], None], why: str = "") -> None:
        """Read and validate the file anew, and have it taken; one with problems changes nothing.

        `why` is what has changed beside the file, and takes effect whatever the file says: with the last one that was
        accepted, where it has problems.
        """
        old, known = self._checked, self.refused
        try:
            new = self._load()
            self.refused = new.refused
        except ConfigError as error:
            new, self.refused = None, tuple(error.lines())
        if self.refused and not (why and self.refused == known):
            log.error("daemon.reload_failed", "the configuration has problems; the old one stays in force",
                      problems=list(self.refused))
        if new is None or self.refused and not why:
            return
        self._checked = new
        take(new.settings)
        self._keep()
        keys = changed(old.text, new.text)
        said = f"changed: {', '.join(keys[:3])}{', …' * (len(keys) > 3)}" if keys else why or "nothing has changed"
        log.info("daemon.reloaded", f"the configuration was read anew; {said}", changed=keys[:MAX_NAMED])
        self._warn()

    def problem(self) -> str:
        """Return that a file was refused, in a sentence, nothing where none was."""
        if not self.refused:
            return ""
        more = f" (and {len(self.refused) - 1} more)" if len(self.refused) > 1 else ""
        return f"the configuration has problems and is not in force: {self.refused[0]}{more}"

    def _warn(self) -> None:
        """Say what is not right, and is used all the same."""
        for warning in self._checked.warnings:
            log.warning("config.warning", warning)

    def _keep(self) -> None:
        """Keep the text where it is another than the kept one."""
        if self.refused or not self._checked.text:
            return
        try:
            if self._kept() != self._checked.text:
                self._files.write_text(self._place, self._checked.text, durable=True)
        except OSError as error:
            log.warning("config.unkept", "the configuration cannot be kept; a start on a bad one would fail",
                        path=str(self._place), reason=str(error))

    def _kept(self) -> str | None:
        try:
            return self._files.read_text(self._place)
        except (OSError, ValueError):
            return None
