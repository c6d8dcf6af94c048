"""Threads for work that may block: one for each task while it runs, never two under one key, none when idle."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable, Hashable
from typing import Any

Work = Callable[[int], Any]
Failed = Callable[[str], Any]


class Tasks:
    """The running tasks; `post` takes what each returns, on the task's thread."""

    def __init__(self, post: Callable[[Any], None]) -> None:
        self._post = post
        self._threads: dict[Hashable, threading.Thread] = {}
        self._stop, self._give_up = os.pipe()

    def start(self, key: Hashable, work: Work, failed: Failed) -> bool:
        """Run `work` on a thread of its own; False where the last one under this key has not ended, or none can start.

        It is given a file descriptor that becomes readable when it should give up. A bug in it ends nothing but this
        task: `failed` makes of the traceback what is posted instead.
        """
        self._threads = {name: thread for name, thread in self._threads.items() if thread.is_alive()}
        if key in self._threads:
            return False
        thread = threading.Thread(target=self._run, args=(work, failed), name=f"task {key}"[:40], daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the host is out of threads or memory; what works without this task goes on
            return False
        self._threads[key] = thread
        return True

    def close(self, limit_s: float) -> None:
        """Ask every task to give up and wait for that, at most `limit_s`; one that hangs is left behind."""
        os.write(self._give_up, b"\n")
        deadline = time.monotonic() + limit_s
        for thread in self._threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))

    def cancel(self, limit_s: float) -> None:
        """Ask every task to give up as `close` does, and be ready for others."""
        self.close(limit_s)
        if any(thread.is_alive() for thread in self._threads.values()):
            self._stop, self._give_up = os.pipe()  # the old one is for those that hang
        else:
            os.read(self._stop, 1)

    def _run(self, work: Work, failed: Failed) -> None:
        try:
            event = work(self._stop)
        except BaseException:  # a bug: the owner must hear of it, whatever it is
            event = failed(traceback.format_exc())
        self._post(event)
