"""The socket, with real connections: what comes of lines and of half lines, of programs that never read or die."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pytest

from iotd.local.door import NAME, Asked, Door, Left
from iotd.local.orders import Answer, Heard, Release
from iotd.local.requests import MAX_LINE_BYTES, Refused, Status, Tell
from iotd.local.server import CONNECTIONS, REQUESTS_AT_ONCE, UNHEARD_BYTES

PATIENCE_S = 10.0


class House:
    """A door, and a main thread that the test plays."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.posted: SimpleQueue[Any] = SimpleQueue()
        self.door = Door(self.posted.put, path)
        self._programs: list[socket.socket] = []

    def program(self) -> socket.socket:
        """Return the end of a program that has just connected."""
        program = socket.socket(socket.AF_UNIX)
        program.settimeout(PATIENCE_S)
        program.connect(str(self.path / NAME))
        self._programs.append(program)
        return program

    def asked(self) -> Asked:
        """Return what is asked next."""
        event = self.posted.get(timeout=PATIENCE_S)
        assert isinstance(event, Asked), event
        return event

    def names(self) -> list[str]:
        """Return the names of the values that are told next, and answer."""
        event = self.asked()
        self.answer(event)
        return [request.name for request in event.requests]

    def answer(self, event: Asked, **more: bool) -> None:
        """Answer each request with its number."""
        lines = b"".join(b'{"answer": %d}\n' % number for number in range(len(event.requests)))
        self.door.order(Answer(event.connection, lines, **more))

    def nothing_comes(self) -> bool:
        """Tell whether nothing is asked that is not asked yet: another program's request comes first. Its answer comes
        after all that was ordered before.
        """
        probe = self.program()
        probe.sendall(tell("probe"))
        event = self.asked()
        self.answer(event)
        return event.requests == (Tell("probe", 1),) and probe.recv(1000) == b'{"answer": 0}\n'

    def close(self) -> None:
        self.door.close(PATIENCE_S)
        for program in self._programs:
            program.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


def tell(name: str) -> bytes:
    return json.dumps({"set": name, "value": 1}).encode() + b"\n"


def read_all(program: socket.socket) -> list[Any]:
    """Return every line until the end of the stream; it may be reset over what was never read of ours."""
    lines = b""
    with suppress(ConnectionError):
        while chunk := program.recv(65536):
            lines += chunk
    return [json.loads(line) for line in lines.splitlines()]


def test_the_socket_is_this_users_alone_and_gone_in_the_end(tmp_path: Path) -> None:
    house = House(tmp_path)
    mode = (tmp_path / NAME).stat().st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600
    house.close()
    assert not (tmp_path / NAME).exists()


def test_a_path_of_any_length_will_do(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["x" * 60] * 3)
    folder.mkdir(parents=True)
    house = House(folder)
    assert house.door.problem == "" and (folder / NAME).exists()
    house.close()


def test_a_socket_that_a_killed_run_has_left_is_replaced_and_one_in_use_is_not(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / NAME))
    house = House(tmp_path)
    assert house.door.problem == ""
    other = Door(house.posted.put, tmp_path)
    assert "Address already in use" in other.problem and other.alive(0.0)
    other.close(PATIENCE_S)
    house.program().sendall(tell("a"))
    assert house.names() == ["a"]
    house.close()


def test_a_directory_that_cannot_be_written_is_a_problem_and_no_end(tmp_path: Path) -> None:
    door = Door(lambda event: None, tmp_path / "nowhere")
    assert "no program can connect" in door.problem and "No such file" in door.problem
    door.close(PATIENCE_S)


def test_a_socket_of_systemds_is_taken_and_left_to_it(tmp_path: Path) -> None:
    """By a process of its own, since the socket has to be its descriptor 3."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as program:
        listener.bind(str(tmp_path / NAME))
        listener.listen()
        program.connect(str(tmp_path / NAME))  # before anybody is there to take it
        program.sendall(tell("early"))
        script = f"""
import os, queue
from pathlib import Path
os.dup2({listener.fileno()}, 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
from iotd.local.door import Door
from iotd.local.orders import Answer
posted = queue.SimpleQueue()
door = Door(posted.put, Path({str(tmp_path / "by-hand")!r}))
assert not door.problem and not os.get_inheritable(3)
door.order(Answer(posted.get(timeout=10).connection, b"well\\n"))
door.close(10)
"""
        done = subprocess.run([sys.executable, "-c", script], pass_fds=[listener.fileno()], capture_output=True,
                              text=True, timeout=30, cwd=Path(__file__).parents[2])
        assert (done.returncode, done.stderr) == (0, "")
        assert program.recv(100) == b"well\n"
        assert (tmp_path / NAME).exists() and not (tmp_path / "by-hand").exists()


def test_requests_come_in_order_however_the_bytes_come(house: House) -> None:
    program = house.program()
    for byte in tell("a") + tell("b")[:5]:
        program.sendall(bytes([byte]))
    assert house.names() == ["a"]
    program.sendall(tell("b")[5:] + tell("c"))
    assert house.names() == ["b", "c"]


def test_many_lines_are_one_event_and_no_more_are_read_before_its_answer(house: House) -> None:
    program = house.program()
    names = [f"v{number}" for number in range(3 * REQUESTS_AT_ONCE)]
    program.sendall(b"".join(map(tell, names)))
    first = house.asked()
    assert house.nothing_comes()
    house.answer(first)
    seen = [request.name for request in first.requests]
    while len(seen) < len(names):
        seen += house.names()
    assert seen == names and len(first.requests) <= REQUESTS_AT_ONCE


def test_a_status_ends_its_event_since_its_answer_is_long(house: House) -> None:
    house.program().sendall(b'{"status": true}\n' * 2 + tell("a"))
    for expected in ((Status(),), (Status(),), (Tell("a", 1),)):
        event = house.asked()
        assert event.requests == expected
        house.answer(event)


def test_garbage_is_refused_in_its_place_and_the_connection_stays(house: House) -> None:
    program = house.program()
    program.sendall(b"\xff\x00garbage\n" + tell("a") + b"\n")
    event = house.asked()
    assert [type(request) for request in event.requests] == [Refused, Tell, Refused]
    house.answer(event)
    program.sendall(tell("b"))
    assert house.names() == ["b"]


@pytest.mark.parametrize("rest", [b"", b"\n", b"\n" + tell("after")])
def test_a_line_over_the_bound_is_refused_and_then_closed(house: House, rest: bytes) -> None:
    program = house.program()

    def send() -> None:
        with suppress(ConnectionError):  # closed while it was still writing
            program.sendall(tell("before") + b"x" * (MAX_LINE_BYTES + 1) + rest)

    sender = threading.Thread(target=send)
    sender.start()
    requests: list[Any] = []
    while len(requests) < 2:
        event = house.asked()
        requests += event.requests
        house.answer(event)
    assert requests[0] == Tell("before", 1) and isinstance(requests[1], Refused) and "256 KB" in requests[1].why
    assert len(read_all(program)) == 2
    sender.join()
    assert house.nothing_comes()


def test_a_line_at_the_bound_is_taken(house: House) -> None:
    line = json.dumps({"set": "a", "value": ""}).encode()
    line = line[:-2] + b"x" * (MAX_LINE_BYTES - len(line)) + line[-2:] + b"\n"
    program = house.program()
    sender = threading.Thread(target=program.sendall, args=[line])
    sender.start()
    assert house.names() == ["a"]
    sender.join()


def test_half_a_line_at_the_end_is_no_request_and_a_half_closed_connection_gets_its_answers(house: House) -> None:
    program = house.program()
    program.sendall(tell("a") + tell("b")[:-1])
    program.shutdown(socket.SHUT_WR)
    event = house.asked()
    assert house.nothing_comes()
    house.answer(event)
    assert read_all(program) == [{"answer": 0}]


def test_what_a_program_has_said_before_it_died_is_done(house: House) -> None:
    program = house.program()
    names = [f"v{number}" for number in range(2 * REQUESTS_AT_ONCE)]
    program.sendall(b"".join(map(tell, names)) + b'{"set": "half')
    program.close()
    seen: list[str] = []
    while len(seen) < len(names):
        seen += house.names()
    assert seen == names and house.nothing_comes()


def test_a_program_that_never_reads_holds_up_itself_alone(house: House) -> None:
    program = house.program()
    program.settimeout(0.2)
    answered = 0
    with pytest.raises(TimeoutError):
        while True:
            program.sendall(b"{}\n" * 1000)
            while True:
                try:
                    event = house.posted.get(timeout=0.05)
                except Empty:
                    break
                answered += len(event.requests)
                house.door.order(Answer(event.connection, b"x" * 100 * len(event.requests)))
    assert answered * 100 < 2 << 20, "more is answered than the two buffers hold"
    assert house.nothing_comes()


def test_a_held_program_is_read_no_more_until_all_are_released(house: House) -> None:
    program = house.program()
    program.sendall(tell("a"))
    house.answer(house.asked(), hold=True)
    program.sendall(tell("b"))
    assert house.nothing_comes()
    house.door.order(Release())
    assert house.names() == ["b"]


def test_one_that_died_while_it_was_held_is_heard_to_its_end(house: House) -> None:
    program = house.program()
    program.sendall(tell("a"))
    event = house.asked()
    program.sendall(tell("b"))
    house.answer(event, hold=True)
    program.close()
    assert house.nothing_comes()
    house.door.order(Release())
    assert house.names() == ["b"]


def test_a_listener_that_does_not_read_keeps_nothing_from_another(house: House) -> None:
    slow, quick = house.program(), house.program()
    numbers: list[int] = []
    for program in (slow, quick):
        program.sendall(tell("a"))
        event = house.asked()
        numbers.append(event.connection)
        house.answer(event, listens=True)
    with quick.makefile("rb") as lines:
        lines.readline()
        for number in range(2 * UNHEARD_BYTES // 1000):
            house.door.order(Heard(tuple(numbers), b'{"n": %d, "fill": "%s"}\n' % (number, b"x" * 1000)))
            assert json.loads(lines.readline())["n"] == number


def test_a_listener_that_reads_again_is_told_how_many_it_lost(house: House) -> None:
    program = house.program()
    program.sendall(tell("a"))
    event = house.asked()
    house.answer(event, listens=True)
    # More than waits for a listener and what the kernel of this machine takes for a socket besides.
    fill = b"x" * ((2 * UNHEARD_BYTES + 4 * program.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)) // 3000 + 1000)
    for number in range(3000):
        house.door.order(Heard((event.connection,), b'{"n": %d, "fill": "%s"}\n' % (number, fill)))
    assert house.nothing_comes()
    numbers: list[int] = []
    lost = 0
    with program.makefile("rb") as lines:
        lines.readline()
        while not numbers or numbers[-1] != 2999:
            said = json.loads(lines.readline())
            lost += said.get("lost", 0)
            numbers += [said["n"]] if "n" in said else []
    assert numbers == sorted(numbers) and lost == 3000 - len(numbers) > 0


def test_a_listener_that_goes_is_told_of(house: House) -> None:
    program = house.program()
    program.sendall(tell("a"))
    event = house.asked()
    house.answer(event, listens=True)
    program.recv(100)
    program.shutdown(socket.SHUT_WR)  # it has nothing more to ask, and still listens
    house.door.order(Heard((event.connection,), b"{}\n"))
    assert program.recv(100) == b"{}\n"
    program.close()
    assert house.posted.get(timeout=PATIENCE_S) == Left(event.connection)


def test_the_connection_beyond_the_last_is_refused_and_closed_and_one_that_goes_makes_room(house: House) -> None:
    programs = [house.program() for _ in range(CONNECTIONS)]
    for _ in range(1000):
        [refused] = read_all(last := house.program())
        assert "64 programs" in refused["refused"]
        last.close()
    programs[5].close()
    programs[6].sendall(tell("a"))
    assert house.names() == ["a"]
    programs.append(house.program())
    programs[-1].sendall(tell("b"))
    assert house.names() == ["b"]


def test_the_daemons_own_user_is_known_by_its_socket(house: House) -> None:
    house.program().sendall(tell("a"))
    event = house.asked()
    assert event.trusted
    house.answer(event)


@pytest.mark.skipif(os.geteuid() != 0, reason="to be somebody else takes root")
def test_another_user_is_not_trusted() -> None:
    with tempfile.TemporaryDirectory() as folder, closing(House(Path(folder))) as house:
        os.chmod(folder, 0o755)
        os.chmod(house.path / NAME, 0o666)
        script = (f"import os, socket; os.setresuid(65534, 65534, 65534); s = socket.socket(socket.AF_UNIX); "
                  f"s.connect({str(house.path / NAME)!r}); s.sendall({tell('a')!r}); s.recv(100)")
        with subprocess.Popen([sys.executable, "-c", script]) as other:
            event = house.asked()
            house.answer(event)
            assert other.wait(PATIENCE_S) == 0
    assert not event.trusted


def test_answers_that_are_there_are_sent_before_the_end(house: House) -> None:
    program = house.program()
    program.sendall(tell("a"))
    house.answer(house.asked())
    house.door.close(PATIENCE_S)
    assert read_all(program) == [{"answer": 0}]


def test_nobody_came_and_nothing_else_was_loaded(tmp_path: Path) -> None:
    script = f"""
import sys, threading
from pathlib import Path
from iotd.local.door import Door
door = Door(print, Path({str(tmp_path)!r}))
assert door.alive(0.0) and threading.active_count() == 2
door.close(10)
assert not door.alive(0.0)
print(*(name for name in sys.modules if name.startswith("iotd.local.")))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True, text=True,
                          timeout=30)
    assert done.stdout.split() == ["iotd.local.door"], done.stderr
