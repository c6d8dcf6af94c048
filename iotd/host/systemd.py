"""What systemd wants to hear (sd_notify(3)); silent where it does not listen."""

from __future__ import annotations

import os

import sdnotify


class Systemd:
    """The notifications of one process, and how often its watchdog is to be fed."""

    def __init__(self) -> None:
        self._notifier = sdnotify.SystemdNotifier()
        self.feed_every_s = self._quarter_of_watchdog()
        self._status = ""

    def ready(self) -> None:
        """Say that the configuration is loaded and the threads run."""
        self._notifier.notify("READY=1")

    def stopping(self) -> None:
        """Say that the end has begun."""
        self._notifier.notify("STOPPING=1")

    def status(self, sentence: str) -> None:
        """Say in a sentence what the daemon is at, where it differs from the last one."""
        if sentence != self._status:
            self._status = sentence
            self._notifier.notify(f"STATUS={sentence}")

    def feed(self) -> None:
        """Say that the main loop has completed a turn and every thread lives."""
        self._notifier.notify("WATCHDOG=1")

    @staticmethod
    def _quarter_of_watchdog() -> float | None:
        """Return a quarter of the watchdog's time in seconds, None where it does not watch this process."""
        pid, microseconds = os.environ.get("WATCHDOG_PID"), os.environ.get("WATCHDOG_USEC", "")
        if not microseconds.isdecimal() or (pid is not None and pid != str(os.getpid())):
            return None
        return int(microseconds) / 4e6
