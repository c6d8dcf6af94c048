"""A stream to the broker that never blocks and whose every step has an end: DNS, TCP, TLS, then bytes.

`Stream` is what paho is given as its socket. It reads and writes in large pieces, so that paho's habit of asking
for one byte costs no system call, and it refuses a packet larger than `MAX_PACKET_BYTES` before it is read.
Runs on the MQTT thread; a name is looked up on a thread of its own, since getaddrinfo(3) takes no deadline.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

DNS_S = 10.0
TCP_S = 10.0
TLS_S = 20.0
CLOSE_S = 2.0

MAX_PACKET_BYTES = 1 << 20
_READ_BYTES = 1 << 14  # no record of TLS is longer, so that none is left in OpenSSL, where poll(2) sees nothing
_WRITE_BYTES = 1 << 20

_NOT_YET_VALID = 9  # X509_V_ERR_CERT_NOT_YET_VALID


class StreamError(Exception):
    """The line could not be opened; `cause` is a slug of model.Down, the text is for a person."""

    def __init__(self, cause: str, reason: str) -> None:
        super().__init__(reason)
        self.cause = cause


class HasFileno(Protocol):
    """A socket, or anything else that poll(2) takes."""

    def fileno(self) -> int:
        """Return the file descriptor."""


# wait(what, events, deadline) returns whether `what` had one of `events` before the monotonic `deadline`. It is the
# caller's, so that the caller can be woken, and may raise StreamError("asked", …) when it is told to stop.
Wait = Callable[[HasFileno, int, float], bool]
Address = tuple[int, tuple[str, int]]


class Stream:
    """A connected socket, plain or TLS, with a buffer on either side; every failure is a ConnectionError."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = memoryview(bytearray(_READ_BYTES))  # kept: 16 KB for each read would wear holes into the heap
        self._input = b""
        self._position = 0
        self.is_dry = False  # whether the last look at the socket found nothing
        self._output = bytearray()
        self.failure = ""

    def fileno(self) -> int:
        """Return the file descriptor, -1 when closed."""
        return self._sock.fileno()

    def setblocking(self, flag: bool) -> None:
        """Paho asks for it; a stream never blocks."""

    def recv(self, size: int) -> bytes:
        """Return up to `size` bytes, none at the end of the stream; raise BlockingIOError where none are here yet."""
        if size > MAX_PACKET_BYTES:
            raise self._failed(f"a packet of {size} bytes came in, at most {MAX_PACKET_BYTES} are taken")
        if self._position == len(self._input):
            self._input, self._position = self._read(), 0
        piece = self._input[self._position:self._position + size]
        self._position += len(piece)
        return piece

    def has_input(self) -> bool:
        """Tell whether bytes are here that poll(2) does not know of."""
        return self._position < len(self._input)

    def send(self, data: bytes | bytearray) -> int:
        """Take the bytes for the next `flush`; raise BlockingIOError where too many wait already."""
        if len(self._output) >= _WRITE_BYTES:
            raise BlockingIOError
        self._output += data
        return len(data)

    def flush(self) -> bool:
        """Write what waits, as far as the socket takes it; tell whether anything is left."""
        try:
            while self._output:
                del self._output[:self._sock.send(self._output)]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return True
        except OSError as error:
            raise self._failed(_said(error)) from error
        return False

    def close(self) -> None:
        """Close at once."""
        self._sock.close()

    def finish(self, wait: Wait) -> None:
        """Write the rest, then close only after the peer has: a reset would overtake a DISCONNECT on its way."""
        deadline = time.monotonic() + CLOSE_S
        try:
            while self.flush() and wait(self, select.POLLOUT, deadline):
                pass
            self._sock.shutdown(socket.SHUT_WR)
            while wait(self, select.POLLIN, deadline) and self._read():
                pass
        except (OSError, StreamError):
            pass  # the line is over either way
        finally:
            self.close()

    def _read(self) -> bytes:
        self.is_dry = False
        try:
            return bytes(self._buffer[:self._sock.recv_into(self._buffer)])
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            self.is_dry = True
            raise BlockingIOError from None
        except OSError as error:
            raise self._failed(_said(error)) from error

    def _failed(self, reason: str) -> ConnectionError:
        self.failure = reason
        return ConnectionAbortedError(reason)


def open_stream(host: str, port: int, context: ssl.SSLContext | None, wait: Wait) -> Stream:
    """Return a line to the broker, its certificate and name verified where `context` is given.

    Raises StreamError with the step that failed as its cause: dns, tcp, tls, certificate or clock.
    """
    sock = _connected(_resolved(host, port, wait), wait)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Stream(sock if context is None else _secured(sock, context, host, wait))
    except BaseException:
        sock.close()
        raise


def _resolved(host: str, port: int, wait: Wait) -> list[Address]:
    """Return one address of each family that the name has, in the resolver's order of preference."""
    found: list[Any]
    try:
        found = socket.getaddrinfo(_encoded(host), port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = _looked_up(host, port, wait)
    first: dict[int, Address] = {}
    for family, _, _, _, address in found:
        first.setdefault(family, (family, address))
    return list(first.values())


def _looked_up(host: str, port: int, wait: Wait) -> list[Any]:
    ours, theirs = socket.socketpair()
    answers: list[list[Any] | OSError] = []

    def look_up() -> None:
        try:
            answers.append(socket.getaddrinfo(_encoded(host), port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answers.append(error if isinstance(error, OSError) else OSError(str(error)))
        finally:
            theirs.close()

    with ours:
        threading.Thread(target=look_up, name="dns", daemon=True).start()
        if not wait(ours, select.POLLIN, time.monotonic() + DNS_S):
            raise StreamError("dns", f"no name server answered for {host} within {DNS_S:.0f} s")
    answer = answers[0]
    if isinstance(answer, OSError):
        raise StreamError("dns", f"the name {host} has no address: {_said(answer)}")
    return answer


def _connected(addresses: list[Address], wait: Wait) -> socket.socket:
    """Return a socket connected to the first address that takes it; each has its share of the time."""
    end = time.monotonic() + TCP_S
    reason = ""
    for left, (family, address) in zip(range(len(addresses), 0, -1), addresses):
        now = time.monotonic()
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.connect(address)
            return sock
        except BlockingIOError:
            pass
        except OSError as error:
            sock.close()
            reason = f"{address[0]} port {address[1]}: {_said(error)}"
            continue
        try:
            answered = wait(sock, select.POLLOUT, now + (end - now) / left)
        except BaseException:
            sock.close()
            raise
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if answered and code == 0:
            return sock
        sock.close()
        why = _said(OSError(code, "")) if answered else f"no answer within {TCP_S:.0f} s"
        reason = f"{address[0]} port {address[1]}: {why}"
    raise StreamError("tcp", reason)


def _secured(sock: socket.socket, context: ssl.SSLContext, host: str, wait: Wait) -> ssl.SSLSocket:
    """Return the socket under TLS; it is closed where that fails."""
    secured = context.wrap_socket(sock, server_hostname=_encoded(host), do_handshake_on_connect=False)
    try:
        _shake_hands(secured, wait, time.monotonic() + TLS_S)
    except BaseException as error:
        secured.close()
        if isinstance(error, ssl.SSLCertVerificationError):
            cause = "clock" if error.verify_code == _NOT_YET_VALID else "certificate"
            raise StreamError(cause, f"the certificate of {host} is refused: {error.verify_message}") from error
        if isinstance(error, OSError):
            raise StreamError("tls", f"the TLS handshake failed: {_said(error)}") from error
        raise
    return secured


def _shake_hands(secured: ssl.SSLSocket, wait: Wait, deadline: float) -> None:
    while True:
        try:
            return secured.do_handshake()
        except ssl.SSLWantReadError:
            answered = wait(secured, select.POLLIN, deadline)
        except ssl.SSLWantWriteError:
            answered = wait(secured, select.POLLOUT, deadline)
        if not answered:
            raise StreamError("tls", f"the TLS handshake was not done within {TLS_S:.0f} s")


def _encoded(host: str) -> Any:
    """Return the name as bytes where it is ASCII: of a text Python asks its tables of international names first."""
    return host.encode() if host.isascii() else host


def _said(error: OSError) -> str:
    """Return what went wrong in words, without Python's decoration."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    if isinstance(error, socket.gaierror):
        return str(error.strerror)
    return os.strerror(error.errno).lower() if error.errno else str(error)
