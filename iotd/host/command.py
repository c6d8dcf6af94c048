"""Runs a command of the configuration's: no shell, an end to every wait, bounded memory, nothing left behind."""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from typing import Literal, NamedTuple

from iotd.host.identity import user_name
from iotd.host.unit import hidden_among

KEEP_BYTES = 4096
CHUNK_BYTES = 65536
LEFT_CHUNKS = 4  # read once the process has ended: what a pipe holds, and little of what a child may still write
POLL_S = 86400.0  # poll(2) takes no more than 24 days at once
MAX_LINE_BYTES = 1 << 20  # of `lines`; the rest of a longer one is the next
KILL_S = 2.0  # for a killed process to go; one that waits inside the kernel may not
REASON_CHARACTERS = 120

# Neither iotd's own variables (NOTIFY_SOCKET, WATCHDOG_USEC, …) nor an operator's reach a command.
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}

How = Literal["exited", "late", "stopped"]


class Ended(NamedTuple):
    """How a command ended: "exited", "late" (killed at its time-out), "stopped" (killed since iotd ends), "refused".

    `status` is the exit status, -N for the signal N, None where it did not even start. `output` is the beginning of
    what it wrote, standard error included. `reason` is empty for an exit with 0. Where the two were asked for apart,
    `data` is the beginning of its standard output and `output` the end of its standard error.
    """

    how: Literal["exited", "late", "stopped", "refused"]
    status: int | None
    output: str
    reason: str
    data: bytes = b""


class _Kept:
    """What is kept of a pipe: so many bytes from its beginning, or of its end."""

    def __init__(self, most: int, of_end: bool, heard: Callable[[bytes], None] | None = None) -> None:
        self.data = bytearray()
        self._most = most
        self._of_end = of_end
        self._heard = heard

    def take(self, pipe: int) -> bool:
        """Read what is there; tell whether there may be more."""
        try:
            data = os.read(pipe, CHUNK_BYTES)
        except BlockingIOError:
            return False
        if self._heard is not None and data:
            self._heard(data)
        if self._of_end:
            self.data += data
            del self.data[:-self._most]
        else:
            self.data += data[:self._most - len(self.data)]
        return bool(data)


def run(
    arguments: Sequence[str], timeout_s: float, stop: int | None = None, keep_bytes: int = KEEP_BYTES,
    given: bytes = b"", apart: bool = False, heard: Callable[[bytes], None] | None = None
) -> Ended:
    """Run a command to its end, or kill it after `timeout_s` or as soon as the file descriptor `stop` is readable.

    It runs in / in a session of its own, with `given` to read; whatever is left of its process group is killed when
    it ends, in one way or another. What it writes is read to the end, and dropped beyond `keep_bytes`; `apart` keeps
    its standard output and the last 4 KB of its standard error each for itself. `heard` is given what it writes to its
    standard output as it comes.
    """
    deadline = time.monotonic() + timeout_s
    try:
        process = subprocess.Popen(
            arguments, bufsize=0, stdin=subprocess.PIPE if given else subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if apart else subprocess.STDOUT, cwd="/", env=ENVIRONMENT, start_new_session=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL, or a text that is no UTF-8
        why = error.strerror if isinstance(error, OSError) else str(error)
        return Ended("refused", None, "", f"{arguments[0]} cannot be run: {why}{hidden_among(arguments[:1])}")
    assert process.stdout is not None
    out, errors = _Kept(keep_bytes, False, heard), _Kept(KEEP_BYTES, of_end=True)
    kept = {process.stdout.fileno(): out}
    if process.stderr is not None:
        kept[process.stderr.fileno()] = errors
    handle = os.pidfd_open(process.pid)
    try:
        how = _attend(process, kept, given, handle, deadline, stop)
        # Not reaped yet, so its number cannot be another group's by now.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait() if _ready(handle, KILL_S) else None
    finally:
        os.close(handle)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    output = (errors if apart else out).data.decode("utf-8", "replace")
    said = output or out.data[-KEEP_BYTES:].decode("utf-8", "replace")
    reason = _reason(how, status, said, timeout_s)
    if reason and how == "exited":
        reason += hidden_among(arguments)
    return Ended(how, status, output, reason, bytes(out.data) if apart else b"")


def program_problem(program: str) -> str | None:
    """Return why this user cannot run a program, None where it can."""
    if shutil.which(program, path=ENVIRONMENT["PATH"]):
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
    process: subprocess.Popen[bytes], kept: dict[int, _Kept], given: bytes, handle: int, deadline: float,
    stop: int | None
) -> How:
    """Read and write what there is until the process ends; a child of its that holds a pipe open is not waited for."""
    events = select.poll()
    for descriptor in (*kept, handle) if stop is None else (*kept, handle, stop):
        events.register(descriptor, select.POLLIN)
    for pipe in kept:
        os.set_blocking(pipe, False)
    to_it = -1
    if process.stdin is not None:
        to_it = process.stdin.fileno()
        os.set_blocking(to_it, False)
        events.register(to_it, select.POLLOUT)
    while (left_s := deadline - time.monotonic()) > 0:
        ready = {descriptor for descriptor, _ in events.poll(min(left_s, POLL_S) * 1000)}
        for pipe in kept.keys() & ready:
            if not kept[pipe].take(pipe):
                events.unregister(pipe)
        if to_it in ready:
            given = _give(to_it, given)
            if not given and process.stdin is not None:
                events.unregister(to_it)
                process.stdin.close()
        if handle in ready:
            for pipe, end in kept.items():
                for _ in range(LEFT_CHUNKS):
                    if not end.take(pipe):
                        break
            return "exited"
        if stop in ready:
            return "stopped"
    return "late"


def _give(pipe: int, data: bytes) -> bytes:
    """Write what the pipe takes; return the rest, nothing where nobody reads it."""
    try:
        return data[os.write(pipe, data[:CHUNK_BYTES]):]
    except BlockingIOError:
        return data
    except OSError:
        return b""


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
