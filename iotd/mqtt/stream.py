"""A stream to the broker that never blocks and whose every step has an end: DNS, TCP, TLS, then bytes.

`Stream` reads and writes in large pieces, so that to ask for one byte costs no system call; paho is given it as its
socket to write to. Runs on the MQTT thread; a name is looked up on a thread of its own, since getaddrinfo(3) takes no
deadline.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
import time
from typing import Any

from iotd.mqtt import advice
from iotd.mqtt.addresses import Address, Wait, connected, encoded, in_turn
from iotd.mqtt.settings import Proxy

DNS_S = 10.0
TCP_S = 10.0
TLS_S = 20.0
CLOSE_S = 2.0

WRITE_BYTES = 1 << 20  # that wait to be written; then no more are taken

_READ_BYTES = 1 << 14  # no record of TLS is longer, so that none is left in OpenSSL, where poll(2) sees nothing
_HEAD_BYTES = 8

_NOT_YET_VALID = 9  # X509_V_ERR_CERT_NOT_YET_VALID


class StreamError(Exception):
    """The line could not be opened, or has ended; `cause` and `layer` are slugs of vocabulary.Down, the text is for
    a person.
    """

    def __init__(self, cause: str, reason: str, layer: str = "") -> None:
        super().__init__(reason)
        self.cause = cause
        self.layer = layer


class Stream:
    """A connected socket, plain or TLS, with a buffer on either side; a StreamError ends it.

    What cannot be written is told by the next `recv` that finds nothing more: the peer's last words explain its end.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = memoryview(bytearray(_READ_BYTES))  # kept: 16 KB for each read would wear holes into the heap
        self._input = b""
        self._position = 0
        self.is_dry = False  # whether the last look at the socket found nothing
        self.is_secured = isinstance(sock, ssl.SSLSocket)
        self.head = b""  # the first bytes that came: a peer that speaks another protocol shows it there
        self._output = bytearray()
        self._unwritable: StreamError | None = None

    def fileno(self) -> int:
        """Return the file descriptor, -1 when closed."""
        return self._sock.fileno()

    def setblocking(self, flag: bool) -> None:
        """Paho asks for it; a stream never blocks."""

    def recv(self, size: int) -> bytes:
        """Return up to `size` bytes; raise BlockingIOError where none are here yet."""
        if self._position == len(self._input):
            self._input, self._position = self._read(), 0
            if not self._input:
                raise StreamError("closed", "the broker closed the line")
            self.head = self.head or self._input[:_HEAD_BYTES]
        piece = self._input[self._position:self._position + size]
        self._position += len(piece)
        return piece

    def has_input(self) -> bool:
        """Tell whether `recv` has something to say that poll(2) does not know of."""
        return self._position < len(self._input) or self._unwritable is not None

    def send(self, data: bytes | bytearray) -> int:
        """Take the bytes for the next `flush`; raise BlockingIOError where too many wait already."""
        if len(self._output) >= WRITE_BYTES:
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
            self._output.clear()
            self._unwritable = _end(error)
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
            raise self._unwritable or BlockingIOError from None
        except OSError as error:
            raise _end(error) from error


def open_stream(
    host: str, port: int, context: ssl.SSLContext | None, wait: Wait, proxy: Proxy | None = None,
    path: str | None = None
) -> Stream:
    """Return a line to the broker, its certificate and name verified where `context` is given.

    Through a `proxy` the broker's name is the proxy's to look up; with a `path` the line is a websocket. Raises
    StreamError with the step that failed as its cause: dns, tcp, proxy, tls, certificate, clock or websocket.
    """
    try:
        name = encoded(host)
    except UnicodeError as error:
        raise StreamError("dns", f"{host} is no name of a host: {error}") from error
    if proxy is None:
        sock = reached(host, port, wait)
    else:
        from iotd.mqtt.proxy import tunnel  # few have one

        sock = tunnel(proxy, host, port, wait)
    line = sock
    try:
        line = sock if context is None else secured(sock, context, name, wait)
        return Stream(line) if path is None else _framed(line, name, port, path, wait)
    except BaseException:
        line.close()
        raise


def _framed(line: socket.socket, name: bytes, port: int, path: str, wait: Wait) -> Stream:
    """Return the line with a websocket opened on it. Raises StreamError."""
    try:
        from iotd.mqtt.websocket import WebSocketStream  # few have one
    except ImportError as error:
        raise StreamError("websocket", f"{error}; install the package python3-wsproto") from error
    host = name.decode().partition("%")[0]
    stream = WebSocketStream(line)
    stream.open(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", path, wait)
    return stream


def reached(host: str, port: int, wait: Wait) -> socket.socket:
    """Return a socket that is connected to the host and never blocks. Raises StreamError with the cause dns or tcp."""
    sock = _connected(host, _resolved(encoded(host), host, port, wait), wait)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _resolved(name: bytes, host: str, port: int, wait: Wait) -> list[Address]:
    try:
        return in_turn(socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
    except socket.gaierror:
        return in_turn(_looked_up(name, host, port, wait))


def _looked_up(name: bytes, host: str, port: int, wait: Wait) -> list[Any]:
    ours, theirs = socket.socketpair()
    answers: list[list[Any] | OSError] = []

    def look_up() -> None:
        try:
            answers.append(socket.getaddrinfo(name, port, type=socket.SOCK_STREAM))
        except OSError as error:
            answers.append(error)
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


def _connected(host: str, addresses: list[Address], wait: Wait) -> socket.socket:
    try:
        return connected(addresses, TCP_S, wait)
    except ConnectionError as error:
        address, port = addresses[0][1][:2]
        # Not each of more than one: their order changes with every answer of a name server, and with it the reason.
        where = address if len(addresses) == 1 else f"none of the {len(addresses)} addresses of {host} is reached,"
        raise StreamError("tcp", f"{where} port {port}: {str(error).lower()}") from error


def secured(sock: socket.socket, context: ssl.SSLContext, name: bytes, wait: Wait) -> socket.socket:
    """Return the socket under TLS, the peer verified as the one of this name; the socket is closed where that fails.

    The dot that ends a name and the zone of an address are the resolver's; no certificate has them (RFC 6066, 3).
    Raises StreamError.
    """
    verified: Any = name.partition(b"%")[0].removesuffix(b".")  # bytes: a text goes through the international tables
    line = sock
    try:
        line = context.wrap_socket(sock, server_hostname=verified, do_handshake_on_connect=False)
        _shake_hands(line, wait, time.monotonic() + TLS_S)
    except BaseException as error:
        line.close()
        if isinstance(error, ssl.SSLCertVerificationError):
            cause = "clock" if error.verify_code == _NOT_YET_VALID else "certificate"
            raise StreamError(
                cause, advice.unverified(name.decode(), error.verify_code, error.verify_message)) from error
        if isinstance(error, OSError):
            raise StreamError("tls", _tls_failure(error)) from error
        raise
    return line


def _shake_hands(line: ssl.SSLSocket, wait: Wait, deadline: float) -> None:
    while True:
        try:
            return line.do_handshake()
        except ssl.SSLWantReadError:
            answered = wait(line, select.POLLIN, deadline)
        except ssl.SSLWantWriteError:
            answered = wait(line, select.POLLOUT, deadline)
        if not answered:
            raise StreamError("tls", f"the TLS handshake was not done within {TLS_S:.0f} s")


def _end(error: OSError) -> StreamError:
    """Return how an open line has ended: by the broker (closed, reset), by TLS, or by the network in between."""
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return StreamError("closed", "the broker closed the line")
    if isinstance(error, ssl.SSLError):
        return StreamError("tls", _tls_failure(error))
    return StreamError("reset" if isinstance(error, ConnectionError) else "network", _said(error))


def _tls_failure(error: OSError) -> str:
    if isinstance(error, (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return advice.TLS_ENDED
    return advice.tls_failed(isinstance(error, ssl.SSLError) and error.reason or "", _said(error))


def _said(error: OSError) -> str:
    """Return what went wrong in words, without Python's decoration."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    if isinstance(error, socket.gaierror):
        return str(error.strerror)
    return os.strerror(error.errno).lower() if error.errno else str(error)
