"""The way through an HTTP proxy: CONNECT (RFC 9110, 9.3.6) with basic authentication (RFC 7617). Loaded where one is
configured; runs on the MQTT thread.
"""

from __future__ import annotations

import re
import select
import socket
import time
from base64 import b64encode
from http import HTTPStatus

from iotd.mqtt import credentials
from iotd.mqtt.addresses import Wait, encoded
from iotd.mqtt.settings import Proxy
from iotd.mqtt.stream import StreamError, reached

ANSWER_S = 10.0
MAX_ANSWER_BYTES = 1 << 14

_PIECE_BYTES = 1 << 10
_END = b"\r\n\r\n"


def tunnel(proxy: Proxy, host: str, port: int, wait: Wait) -> socket.socket:
    """Return a socket whose other end is the broker, as far as the proxy can be believed.

    Raises StreamError with the cause proxy and the proxy's name in it, and as `wait`.
    """
    try:
        authorization = _authorization(proxy)
        sock = reached(proxy.host, proxy.port, wait)
    except ValueError as error:
        raise _failed(proxy, str(error)) from None
    except StreamError as error:
        if error.cause == "asked":
            raise
        raise _failed(proxy, f"is not reached: {error}") from error
    try:
        name = encoded(host).decode().partition("%")[0]
        place = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
        deadline = time.monotonic() + ANSWER_S
        request = f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n".encode() + authorization + b"\r\n"
        while request:
            request = _sent(sock, request)
            if request and not wait(sock, select.POLLOUT, deadline):
                raise _failed(proxy, f"took no request within {ANSWER_S:.0f} s")
        problem = judge(_answer(sock, proxy, wait, deadline), place, proxy.username)
        if problem:
            raise _failed(proxy, problem)
        return sock
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            raise _failed(proxy, f"ended the connection: {error.strerror or error}".lower()) from error
        raise


def judge(answer: bytes, place: str, username: str | None) -> str | None:
    """Return why an answer opens no tunnel to `place`, None where it does."""
    found = re.match(rb"HTTP/1\.[01] ([0-9]{3})\b", answer)
    if not found:
        return "answers no HTTP: is it of another kind, SOCKS or HTTPS?"
    code = int(found[1])
    # Never its own words, in which a proxy may repeat what it was sent.
    said = f"{code} {HTTPStatus(code).phrase}" if code in set(HTTPStatus) else str(code)
    if 200 <= code < 300:
        return None
    if code == 407:
        schemes = re.findall(rb"(?im)^proxy-authenticate:[ \t]*([a-z0-9-]+)", answer)
        if schemes and b"basic" not in map(bytes.lower, schemes):
            names = ", ".join(sorted({scheme.decode()[:20] for scheme in schemes}))
            return f"asks for authentication by {names}, and iotd knows Basic alone ({said})"
        if username is None:
            return f"asks for a user name; write mqtt.proxy.username and mqtt.proxy.password_file ({said})"
        return f"does not accept the user {username!r}; look at mqtt.proxy.username and its password_file ({said})"
    if code in (403, 405):
        return f"does not allow a tunnel to {place}; have it allowed there, or try mqtt.port 443 ({said})"
    if code in (502, 503, 504):
        return f"does not reach {place} ({said})"
    return f"opens no tunnel to {place} ({said})"


def _authorization(proxy: Proxy) -> bytes:
    """Return the header that says who this is. Raises ValueError as `credentials.password`."""
    if proxy.username is None:
        return b""
    password = credentials.password(proxy.password_file) if proxy.password_file else b""
    return b"Proxy-Authorization: Basic " + b64encode(proxy.username.encode() + b":" + password) + b"\r\n"


def _sent(sock: socket.socket, request: bytes) -> bytes:
    """Send what the socket takes of the request, and return the rest."""
    try:
        return request[sock.send(request):]
    except BlockingIOError:
        return request


def _answer(sock: socket.socket, proxy: Proxy, wait: Wait, deadline: float) -> bytes:
    """Return the head of the answer, and leave what follows it in the socket: that is the broker's."""
    answer = b""
    while _END not in answer:
        if len(answer) >= MAX_ANSWER_BYTES:
            raise _failed(proxy, f"answers more than {MAX_ANSWER_BYTES} bytes")
        if not wait(sock, select.POLLIN, deadline):
            raise _failed(proxy, f"gave no answer within {ANSWER_S:.0f} s")
        try:
            seen = sock.recv(min(_PIECE_BYTES, MAX_ANSWER_BYTES - len(answer)), socket.MSG_PEEK)
        except BlockingIOError:
            continue
        if not seen:
            raise _failed(proxy, "closed the connection instead of an answer")
        head, end, _ = (answer + seen).partition(_END)
        answer += sock.recv(len(head + end) - len(answer))
    return answer


def _failed(proxy: Proxy, why: str) -> StreamError:
    return StreamError("proxy", f"the proxy {proxy.host} port {proxy.port} {why}")
