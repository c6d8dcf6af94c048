"""Programs and a daemon as processes, on a real broker: the commands, and the socket itself."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mosquitto import Mosquitto
from tests.observer import Observer
from tests.running import Iotd, configuration

SECTIONS: dict[str, Any] = {
    "local": {"publish": ["plant/{thing}/#"]}, "subscribe": [{"topic": "plant/all/#"}, {"topic": "plant/one"}]}
TOPIC = "plant/test-thing/a"


@pytest.fixture
def iotd(tmp_path: Path, plain_broker: Mosquitto) -> Iterator[Iotd]:
    with device(tmp_path, plain_broker) as iotd:
        iotd.wait_for("session.connected")
        yield iotd


def device(path: Path, broker: Mosquitto, **sections: Any) -> Iotd:
    settings = configuration(broker, None, **SECTIONS, **sections)
    settings["mqtt"]["limits"] = "none"
    return Iotd(path / "iotd", settings)


def run(iotd: Iotd, *arguments: str, said: bytes = b"", timeout_s: float = 20.0) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "iotd", *arguments], env=iotd.environment(), cwd="/", input=said,
                          capture_output=True, timeout=timeout_s)


def begun(iotd: Iotd, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "iotd", *arguments], env=iotd.environment(), cwd="/",
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def connected(iotd: Iotd) -> socket.socket:
    iotd.wait_for("daemon.started")
    program = socket.socket(socket.AF_UNIX)
    program.settimeout(20.0)
    program.connect(str(iotd.directory / "runtime/iotd.sock"))
    return program


@pytest.mark.parametrize(("arguments", "said", "payload"), [
    (['{"x":1}'], b"", b'{"x": 1}'), (['"\\u00e9"'], b"", '"é"'.encode()), (["ヨシッ👉"], b"", "ヨシッ👉".encode()),
    (["--text", '{"x":1}'], b"", b'{"x":1}'), (["-5.50"], b"", b"-5.5"), (["--", "--qos"], b"", b"--qos"),
    (["-"], b"text\n\n", b"text\n"), ([], b'{"a":\n 1}\r\n', b'{"a": 1}'), ([], b"\xff\n", b"\xff"), ([], b"", b""),
    ([], b"\x01" * 100_000, b"\x01" * 100_000), (["NaN"], b"", b"NaN"), ([""], b"", b""),
], ids=range(13))
def test_a_payload_is_json_where_it_is_json_and_else_arrives_as_it_was(
    iotd: Iotd, watcher: Observer, arguments: list[str], said: bytes, payload: bytes
) -> None:
    done = run(iotd, "publish", "--qos", "1", TOPIC, *arguments, said=said)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert watcher.wait_for(TOPIC).payload == payload


def test_options_stand_anywhere_and_say_how_a_message_goes(iotd: Iotd, plain_broker: Mosquitto) -> None:
    assert run(iotd, "publish", TOPIC, "--retain", "1", "--qos", "0", "--offline", "drop").returncode == 0
    assert run(iotd, "publish", "--offline", "latest", TOPIC + "/b", "2", "--retain").returncode == 0
    with Observer(plain_broker, "later") as later:
        later.subscribe("plant/#")
        assert later.wait_for(TOPIC).json() == 1 and later.wait_for(TOPIC + "/b").json() == 2


def test_what_is_refused_or_dropped_is_said_with_exit_status_1(iotd: Iotd, plain_broker: Mosquitto) -> None:
    refused = run(iotd, "publish", "plant/other", "1")
    assert refused.returncode == 1 and b"plant/test-thing/#" in refused.stderr
    strange = run(iotd, "set", "strange", "1")
    assert strange.returncode == 1 and b"no such value" in strange.stderr
    plain_broker.stop()
    iotd.wait_for("session.disconnected")
    dropped = run(iotd, "publish", TOPIC, "1", "--offline", "drop")
    assert dropped.returncode == 1 and b"the line is down" in dropped.stderr
    assert run(iotd, "publish", TOPIC, "1").returncode == 0
    for wrong in (["publish"], ["publish", TOPIC, "x", "--qos", "2"], ["listen", "--count", "0"],
                  ["publish", TOPIC, "x", "--lines"]):
        done = run(iotd, *wrong)
        assert done.returncode == 2 and b"Traceback" not in done.stderr


def test_without_a_daemon_it_is_waited_for_five_seconds_and_the_exit_status_is_3(
    tmp_path: Path, plain_broker: Mosquitto
) -> None:
    iotd = device(tmp_path, plain_broker)
    waiting = {name: begun(iotd, *words) for name, words in (
        ("publish", ["publish", TOPIC, "1"]), ("set", ["set", "a", "1"]), ("listen", ["listen"]),
        ("lines", ["publish", TOPIC, "--lines"]))}
    began_at = time.monotonic()
    for name, process in waiting.items():
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out) == (3, b"") and b"not running" in err and b"Traceback" not in err, name
    assert time.monotonic() - began_at >= 4.0


def test_a_program_that_comes_before_the_daemon_is_served(
    tmp_path: Path, plain_broker: Mosquitto, watcher: Observer
) -> None:
    iotd = device(tmp_path, plain_broker)
    early = begun(iotd, "publish", TOPIC, "early")
    with iotd:
        assert early.wait(20) == 0
        assert watcher.wait_for(TOPIC).payload == b"early"
    early.communicate()


def test_lines_are_messages_in_order_and_a_refused_one_is_named(iotd: Iotd, watcher: Observer) -> None:
    lines = [b"%d" % number for number in range(5000)]
    done = run(iotd, "publish", TOPIC, "--lines", said=b"\n".join(lines))
    assert (done.returncode, done.stderr) == (0, b"")
    watcher.wait_for(TOPIC, lambda message: message.payload == lines[-1])
    assert [message.payload for message in watcher.messages] == lines
    bad = run(iotd, "publish", TOPIC + "/b", "--lines", said=b'{"x":1}\n\n' + b"x" * 300_000 + b"\n\xff\r\nlast")
    assert bad.returncode == 1 and b"line 3: refused" in bad.stderr
    watcher.wait_for(TOPIC + "/b", lambda message: message.payload == b"last")
    assert [message.payload for message in watcher.messages[5000:]] == [b'{"x":1}', b"", b"\xff", b"last"]


def test_lines_that_come_one_by_one_go_one_by_one(iotd: Iotd, watcher: Observer) -> None:
    with begun(iotd, "publish", TOPIC, "--lines") as process:
        assert process.stdin is not None
        for number in range(3):
            process.stdin.write(b"%d\n" % number)
            process.stdin.flush()
            watcher.wait_for(TOPIC, lambda message: message.json() == number)
        process.stdin.close()
        assert process.wait(20) == 0


def test_listen_prints_what_comes_in_over_a_restart_of_the_daemon(
    tmp_path: Path, plain_broker: Mosquitto, watcher: Observer
) -> None:
    with device(tmp_path, plain_broker) as iotd:
        iotd.wait_for("session.connected")
        listening = begun(iotd, "listen", "--count", "3")
        one = begun(iotd, "listen", "plant/all/horn", "--count", "2")
        wait_for_listeners(iotd, 2)
        watcher.publish("plant/all/horn", {"x": "é"})
        first = [_line(listening), _line(one)]
        iotd.signal(signal.SIGKILL)
        iotd.end()
    with device(tmp_path, plain_broker) as iotd:
        iotd.wait_for("session.connected")
        wait_for_listeners(iotd, 2)
        watcher.publish("plant/one", b"\xff")
        watcher.publish("plant/all/horn", b"text", qos=0)
        out, err = listening.communicate(timeout=20)
        assert (listening.returncode, err) == (0, b"")
        horn = {"topic": "plant/all/horn", "qos": 1, "retain": False, "payload": {"x": "é"}}
        last = {**horn, "qos": 0, "payload": "text"}
        odd = {"topic": "plant/one", "qos": 1, "retain": False, "payload_base64": "/w=="}
        assert first == [horn, horn]
        assert [json.loads(line) for line in out.splitlines()] == [odd, last]
        assert [json.loads(line) for line in one.communicate(timeout=20)[0].splitlines()] == [last]
        refused = run(iotd, "listen", "elsewhere")
        assert refused.returncode == 3 and b"it subscribes plant/all/#, plant/one" in refused.stderr


def _line(listening: subprocess.Popen[bytes]) -> Any:
    assert listening.stdout is not None
    return json.loads(listening.stdout.readline())


def wait_for_listeners(iotd: Iotd, count: int) -> None:
    """Wait until so many programs listen."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with connected(iotd) as program:
            program.sendall(b'{"status": true}\n')
            with program.makefile() as answers:
                if json.loads(answers.readline())["listeners"] >= count:
                    return
    raise AssertionError(f"no {count} programs listen")


def test_the_whole_talk_on_one_connection(iotd: Iotd, watcher: Observer) -> None:
    with connected(iotd) as program, program.makefile() as answers:
        program.sendall(b'{"listen": "plant/one"}\n{"publish": "%s", "payload": [1]}\nnonsense\n{"status": true}\n'
                        % TOPIC.encode())
        assert json.loads(answers.readline()) == {"listening": "plant/one"}
        assert json.loads(answers.readline()) == {"kept": 1}
        assert "no JSON" in json.loads(answers.readline())["refused"]
        status = json.loads(answers.readline())
        assert (status["connected"], status["thing"], status["healthy"]) == (True, "test-thing", True)
        watcher.wait_for(TOPIC)  # which has followed the subscriptions on iotd's line
        watcher.publish("plant/one", b"1")
        assert json.loads(answers.readline())["payload"] == 1
        program.sendall(b'{"publish": "MQTTServer/test-thing/will", "text": "Stopped"}\n')
        assert "presence topic" in json.loads(answers.readline())["refused"]


def test_what_was_answered_kept_outlives_a_kill(tmp_path: Path, plain_broker: Mosquitto) -> None:
    plain_broker.stop()
    with device(tmp_path, plain_broker) as iotd:
        with connected(iotd) as program, program.makefile() as answers:
            for number in range(300):
                program.sendall(b'{"publish": "%s", "payload": %d}\n' % (TOPIC.encode(), number))
            kept = [json.loads(answers.readline())["kept"] for _ in range(300)]
            iotd.signal(signal.SIGKILL)
            iotd.end()
    assert kept == list(range(1, 301))
    plain_broker.start()
    with Observer(plain_broker) as observer:
        observer.subscribe("plant/#")
        with device(tmp_path, plain_broker):
            observer.wait_for(TOPIC, lambda message: message.json() == 299)
            assert [message.json() for message in observer.messages] == list(range(300))


def test_a_reload_opens_and_closes_topics_without_a_restart(iotd: Iotd, plain_broker: Mosquitto) -> None:
    settings = configuration(plain_broker, None, local={"publish": ["new/#"]})
    settings["mqtt"]["limits"] = "none"
    iotd.configure(settings)
    assert run(iotd, "publish", TOPIC, "1").returncode == 0
    iotd.signal(signal.SIGHUP)
    iotd.wait_for("daemon.reloaded")
    assert run(iotd, "publish", TOPIC, "1").returncode == 1
    assert run(iotd, "publish", "new/a", "1").returncode == 0
    assert b"subscribes nothing" in run(iotd, "listen").stderr


def test_a_daemon_that_stops_answers_what_it_has_taken_and_takes_the_rest_along(
    tmp_path: Path, plain_broker: Mosquitto, watcher: Observer
) -> None:
    """--lines asks again for what was not answered: every line arrives, in order but for what comes twice."""
    lines = [b"%d" % number for number in range(6_000)]
    with device(tmp_path, plain_broker) as iotd:
        iotd.wait_for("session.connected")
        process = begun(iotd, "publish", TOPIC, "--lines")
        assert process.stdin is not None
        process.stdin.write(b"\n".join(lines[:3_000]) + b"\n")
        process.stdin.flush()
        watcher.wait_for(TOPIC)
        iotd.signal(signal.SIGTERM)
        assert iotd.end() == 0
    with device(tmp_path, plain_broker) as iotd:
        out, err = process.communicate(b"\n".join(lines[3_000:]) + b"\n", timeout=60)
        assert (process.returncode, err) == (0, b"")
        watcher.wait_for(TOPIC, lambda message: message.payload == lines[-1], timeout_s=60)
    seen = [message.payload for message in watcher.messages]
    assert list(dict.fromkeys(seen)) == lines


def test_bad_programs_disturb_neither_the_daemon_nor_a_good_one(iotd: Iotd, watcher: Observer) -> None:
    bad = [connected(iotd) for _ in range(30)]
    for number, program in enumerate(bad):
        program.setblocking(False)
        for piece in ([b"\xff\x00" * 30_000 + b"\n"], [b'{"publish": "a", '], [b"[" * 200_000 + b"\n"],
                      [b"x" * 100_000] * 3, [b'{"status": true}\n'] * 500, [b"\n" * 100_000])[number % 6]:
            try:
                program.send(piece)
            except OSError:
                break
        if number % 4 == 0:
            program.close()
    assert run(iotd, "publish", TOPIC, "good").returncode == 0
    assert watcher.wait_for(TOPIC).payload == b"good"
    for program in bad:
        program.close()
    assert run(iotd, "publish", TOPIC, "--lines", said=b"1\n" * 1000).returncode == 0
    iotd.signal(signal.SIGTERM)
    assert iotd.end() == 0
    assert {entry["level"] for entry in iotd.entries} == {"info"}
