"""`iotd publish`: hand messages over to the running daemon."""

from __future__ import annotations

import base64
import json
import os
import select
import sys
from argparse import ArgumentParser
from collections import deque
from functools import partial
from json.encoder import encode_basestring  # type: ignore[attr-defined]
from socket import MSG_DONTWAIT
from typing import Any

from iotd.cli.socket_line import EXIT_REFUSED, READ_BYTES, Line, NoLine, answer, carried_out, told

MAX_LINE_BYTES = 256 * 1024  # what the daemon takes for one request
UNANSWERED = 4096  # requests on their way, which a restart would have to repeat
UNANSWERED_BYTES = 1 << 20

_STDIN = 0


def arguments(parser: ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("topic", metavar="TOPIC")
    parser.add_argument("payload", metavar="PAYLOAD", nargs="?", default="-",
                        help="JSON, or else text; - or none reads standard input, whose last line end is dropped")
    parser.add_argument("--retain", action="store_true", help="the broker keeps the message for who comes later")
    parser.add_argument("--qos", type=int, choices=(0, 1), default=1, help="default: %(default)s")
    parser.add_argument("--offline", choices=("queue", "latest", "drop"), default="queue",
                        help="where it cannot be sent now: wait, wait until a newer one comes, or be dropped; "
                             "default: %(default)s")
    parser.add_argument("--text", action="store_true", help="send what is JSON as it is written too")
    parser.add_argument("--lines", action="store_true", help="each line of standard input is a message, as it stands")


def run(options: Any) -> int:
    """Publish; exit status 0 kept or sent, 1 refused or dropped, 3 not running."""
    if options.lines and options.payload != "-":
        print("iotd publish: --lines reads standard input; leave out PAYLOAD", file=sys.stderr)
        return 2
    return carried_out(partial(_lines if options.lines else _one, options))


def head(options: Any) -> bytes:
    """Return how every request begins."""
    return json.dumps({"publish": options.topic, "qos": options.qos, "retain": options.retain,
                       "offline": options.offline})[:-1].encode()


def request(start: bytes, payload: bytes, verbatim: bool) -> bytes:
    """Return the line that asks for a message with this payload; `verbatim`: even where it is JSON."""
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError:
        return start + _as_base64(payload)
    if not verbatim and _is_json(text):
        # A line end in it is white space.
        return start + b', "payload": ' + payload.replace(b"\n", b" ").replace(b"\r", b" ") + b"}\n"
    quoted: str = encode_basestring(text)
    line = start + b', "text": ' + quoted.encode() + b"}\n"
    return line if len(line) <= MAX_LINE_BYTES else start + _as_base64(payload)


def _as_base64(payload: bytes) -> bytes:
    return b', "base64": "' + base64.b64encode(payload) + b'"}\n'


def _is_json(text: str) -> bool:
    try:
        _decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _no_json(constant: str) -> None:
    raise ValueError(constant)


_decode = json.JSONDecoder(parse_constant=_no_json).decode


def _one(options: Any, line: Line) -> int:
    if options.payload == "-":
        payload = _without_end(sys.stdin.buffer.read())
    else:
        payload = os.fsencode(options.payload)
    why = told(line.ask(request(head(options), payload, options.text)))
    if why:
        print(f"iotd publish: {why}", file=sys.stderr)
    return EXIT_REFUSED if why else 0


def _without_end(text: bytes) -> bytes:
    """Return the text without its last line end."""
    return text.removesuffix(b"\n").removesuffix(b"\r") if text.endswith(b"\n") else text


def _lines(options: Any, line: Line) -> int:
    lines = Lines(options, line)
    try:
        lines.run()
    except NoLine as error:
        raise NoLine(f"{error}\niotd publish: of {lines.read} lines that were read {lines.left} are not kept",
                     error.exit_status) from None
    return EXIT_REFUSED if lines.reasons else 0


class Lines:
    """The lines of standard input on their way; each is asked for again where a restart took its answer along."""

    def __init__(self, options: Any, line: Line) -> None:
        self.read = 0
        self.reasons: set[str] = set()  # why lines were not kept
        self._head = head(options)
        self._line = line
        self._input = b""
        self._ended = False
        self._unanswered: deque[bytes] = deque()
        self._unanswered_bytes = 0
        self._outgoing = bytearray()

    @property
    def left(self) -> int:
        """How many lines have no answer yet."""
        return len(self._unanswered)

    def run(self) -> None:
        """Return when every line is answered. Raises NoLine."""
        while not self._ended or self._unanswered:
            room = self.left < UNANSWERED and self._unanswered_bytes < UNANSWERED_BYTES
            poller = select.poll()
            poller.register(self._line.socket, select.POLLIN | select.POLLOUT * bool(self._outgoing))
            if room and not self._ended:
                poller.register(_STDIN, select.POLLIN)
            ready = dict(poller.poll())
            if _STDIN in ready:
                self._take(os.read(_STDIN, READ_BYTES))
            if self._line.socket.fileno() in ready and self._gone(ready[self._line.socket.fileno()]):
                self._line.again()
                self._outgoing[:] = b"".join(self._unanswered)

    def _take(self, chunk: bytes) -> None:
        """Ask for what the next lines say."""
        self._ended = not chunk
        *lines, self._input = (self._input + chunk).split(b"\n")
        if self._ended and self._input:
            lines.append(self._input)
        for line in lines:
            asked = request(self._head, line.removesuffix(b"\r"), verbatim=True)
            self._unanswered.append(asked)
            self._unanswered_bytes += len(asked)
            self._outgoing += asked
        self.read += len(lines)

    def _gone(self, events: int) -> bool:
        """Send what the daemon takes and hear its answers; tell whether it has gone."""
        if events & ~select.POLLOUT:
            answers = self._line.read()
            if answers is None:
                return True
            for said in answers:
                self._answered(said)
        if events & select.POLLOUT:
            try:
                sent = self._line.socket.send(self._outgoing, MSG_DONTWAIT)
            except BlockingIOError:
                return False
            except ConnectionError:
                return False  # what it has said before is read first
            del self._outgoing[:sent]
        return False

    def _answered(self, said: bytes) -> None:
        if not self._unanswered:
            return
        number = self.read - self.left + 1
        self._unanswered_bytes -= len(self._unanswered.popleft())
        if said.startswith(b'{"kept"'):
            return
        why = told(answer(said))
        if why and why not in self.reasons:
            self.reasons.add(why)
            print(f"iotd publish: line {number}: {why}", file=sys.stderr)
