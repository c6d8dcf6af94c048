"""Runs a command of the configuration's: no shell, an end to every wait, bounded memory, nothing left behind."""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Generator, Sequence
from typing import IO, Literal, NamedTuple

from iotd.host.identity import user_name

KEEP_BYTES = 4096
CHUNK_BYTES = 65536
POLL_S = 86400.0  # poll(2) takes no more than 24 days at once
MAX_LINE_BYTES = 1 << 20  # of `lines`; the rest of a longer one is the next
KILL_S = 2.0  # for a killed process to go; one that waits inside the kernel may not
REASON_CHARACTERS = 120

# Neither iotd's own variables (NOTIFY_SOCKET, WATCHDOG_USEC, …) nor an operator's reach a command.
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


class Ended(NamedTuple):
    """How a command ended: "exited", "late" (killed at its time-out), "stopped" (killed since iotd ends), "refused".

    `status` is the exit status, -N for the signal N, None where it did not even start. `output` is the beginning of
    what it wrote, standard error included. `reason` is empty for an exit with 0.
    """

    how: Literal["exited", "late", "stopped", "refused"]
    status: int | None
    output: str
    reason: str


def run(arguments: Sequence[str], timeout_s: float, stop: int | None = None) -> Ended:
    """Run a command to its end, or kill it after `timeout_s` or as soon as the file descriptor `stop` is readable.

    It runs in / in a session of its own, with nothing to read; whatever is left of its process group is killed when
    it ends, in one way or another. What it writes is read to the end and dropped after 4 KB.
    """
    deadline = time.monotonic() + timeout_s
    try:
        process = subprocess.Popen(arguments, bufsize=0, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, cwd="/", env=ENVIRONMENT, start_new_session=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL, or a text that is no UTF-8
        why = error.strerror if isinstance(error, OSError) else str(error)
        return Ended("refused", None, "", f"{arguments[0]} cannot be run: {why}")
    assert process.stdout is not None
    handle = os.pidfd_open(process.pid)
    try:
        how, output = _attend(process.stdout, handle, deadline, stop)
        # Not reaped yet, so its number cannot be another group's by now.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait() if _ready(handle, KILL_S) else None
    finally:
        os.close(handle)
        process.stdout.close()
    return Ended(how, status, output, _reason(how, status, output, timeout_s))


def program_problem(program: str) -> str | None:
    """Return why this user cannot run a program, None where it can; one with a placeholder is not known yet."""
    if "{" in program or shutil.which(program, path=ENVIRONMENT["PATH"]):
        return None
    if os.path.isfile(program):
        return f"{program} may not be executed by user {user_name()}; run: chmod a+x {program}"
    where = "" if "/" in program else f" in {ENVIRONMENT['PATH']}"
    return f"{program} does not exist{where}, or may not be seen by user {user_name()}; write the path of a program"


def lines(arguments: Sequence[str]) -> Generator[bytes, None, None]:
    """Yield each line that a command writes, as it comes; its errors go where ours go. It ends with the generator.

    Raises OSError where it cannot be run, or ends with an error. For commands of iotd's own that print for a person.
    """
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        while line := process.stdout.readline(MAX_LINE_BYTES):
            yield line
        if status := process.wait():
            raise OSError(0, f"exit status {status}")
    finally:
        process.stdout.close()
        process.terminate()
        process.wait()


def last_line(output: str) -> str:
    """Return the last line that says something, shortened and fit for a log or a report."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return "".join(character if character.isprintable() else "�" for character in lines[-1])[:REASON_CHARACTERS] \
        if lines else ""


def _attend(
    output: IO[bytes], handle: int, deadline: float, stop: int | None
) -> tuple[Literal["exited", "late", "stopped"], str]:
    """Read what comes until the process ends; a child of its that holds the pipe open is not waited for."""
    kept = bytearray()
    pipe = output.fileno()
    os.set_blocking(pipe, False)
    events = select.poll()
    for descriptor in (pipe, handle) if stop is None else (pipe, handle, stop):
        events.register(descriptor, select.POLLIN)
    how: Literal["exited", "late", "stopped"] = "late"
    while (left_s := deadline - time.monotonic()) > 0:
        ready = {descriptor for descriptor, _ in events.poll(min(left_s, POLL_S) * 1000)}
        if pipe in ready and not _take(pipe, kept):
            events.unregister(pipe)
        if handle in ready:
            while len(kept) < KEEP_BYTES and _take(pipe, kept):
                pass
            how = "exited"
            break
        if stop in ready:
            how = "stopped"
            break
    return how, kept.decode("utf-8", "replace")


def _take(pipe: int, kept: bytearray) -> bool:
    """Read what is there, keep its beginning; tell whether there may be more."""
    try:
        data = os.read(pipe, CHUNK_BYTES)
    except BlockingIOError:
        return False
    kept += data[:KEEP_BYTES - len(kept)]
    return bool(data)


def _ready(descriptor: int, limit_s: float) -> bool:
    events = select.poll()
    events.register(descriptor, select.POLLIN)
    return bool(events.poll(limit_s * 1000))


def _reason(how: str, status: int | None, output: str, timeout_s: float) -> str:
    if how == "late":
        return f"did not end within {timeout_s:g} s" + ("" if status is not None else " and cannot be killed")
    if how == "stopped":
        return "killed, since iotd ends"
    if status == 0:
        return ""
    ended = f"killed by signal {-status}" if status is not None and status < 0 else f"exit status {status}"
    said = last_line(output)
    return f"{ended}: {said}" if said else ended
