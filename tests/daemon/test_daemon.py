"""The daemon as a process on a real broker, through the life that a device leads."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Certificates
from tests.mosquitto import Mosquitto
from tests.observer import Observer
from tests.running import Iotd, configuration

TELEMETRY = {"topic": "t/{thing}/0", "every": "1s", "payload": {"n": "{sequence}", "run": "{run}", "msg": "ヨシッ👉"}}
PRESENCE = "MQTTServer/test-thing/will"


def status_of(message: Any) -> str:
    return str(message.json()["status"])


def test_a_device_lives_from_ready_to_its_will(
    tmp_path: Path, broker: Mosquitto, certificates: Certificates, observer: Observer
) -> None:
    """READY, Connected, publish, broker lost and back, reload, stop; then a kill and the will."""
    observer.subscribe("t/#", PRESENCE)
    settings = configuration(broker, certificates, publish=[TELEMETRY])
    with Iotd(tmp_path / "iotd", settings) as iotd:
        iotd.wait_told("READY=1")
        iotd.wait_for("session.connected", session_present=False)
        iotd.wait_told("STATUS=connected to")
        first = observer.wait_for(PRESENCE, lambda message: status_of(message) == "Connected").json()
        assert observer.wait_for("t/test-thing/0").json()["n"] == 1

        broker.kill()
        lost = iotd.wait_for("session.disconnected")
        assert lost["level"] == "warning" and lost["retry_in_s"] >= 1.0
        iotd.wait_for("session.connect_failed")
        broker.start()
        iotd.wait_for("session.connected", since=iotd.entries.index(lost))

        iotd.configure({**settings, "publish": [{**TELEMETRY, "topic": "t/{thing}/renamed"}]})
        iotd.signal(signal.SIGHUP)
        iotd.wait_for("daemon.reloaded")

        iotd.signal(signal.SIGTERM)
        assert iotd.end() == 0
        iotd.wait_told("STOPPING=1")
        iotd.wait_for("daemon.stopped")
    with Observer(broker, "later") as later:
        later.subscribe(PRESENCE, "t/test-thing/0", "t/test-thing/renamed")
        stopped = later.wait_for(PRESENCE).json()
        assert stopped["status"] == "Stopped" and stopped["session"] != first["session"]
        assert later.wait_for("t/test-thing/renamed").json()["msg"] == "ヨシッ👉"

        with Iotd(tmp_path / "iotd", settings) as iotd:
            connected = later.wait_for(PRESENCE, lambda message: status_of(message) == "Connected")
            iotd.wait_for("session.connected")
            iotd.signal(signal.SIGKILL)
            iotd.end()
            lost_word = later.wait_for(PRESENCE, since=connected.order + 1).json()
        assert lost_word == {"Hostname": connected.json()["Hostname"], "status": "Communication lost",
                             "session": connected.json()["session"]}


def test_what_was_made_while_the_broker_was_away_arrives_in_order_and_newest_retained(
    tmp_path: Path, broker: Mosquitto, certificates: Certificates
) -> None:
    broker.stop()
    settings = configuration(broker, certificates, publish=[{**TELEMETRY, "every": "100ms"}])
    settings["mqtt"]["limits"] = "none"
    with Iotd(tmp_path / "iotd", settings) as iotd:
        iotd.wait_for("session.connect_failed")
        iotd.signal(signal.SIGKILL)
        iotd.end()
    del settings["publish"]
    broker.start()
    with Observer(broker) as observer:
        observer.subscribe("t/#")
        with Iotd(tmp_path / "iotd", settings) as iotd:
            waiting = iotd.wait_for("session.connected")["waiting"]
            assert waiting > 0
            observer.wait_for("t/#", lambda message: message.json()["n"] == waiting)
            assert [message.json()["n"] for message in observer.messages] == list(range(1, waiting + 1))
        with Observer(broker, "later") as later:
            later.subscribe("t/test-thing/0")
            assert later.wait_for("t/test-thing/0").json()["n"] == waiting


def test_a_late_will_is_answered_by_connected(
    tmp_path: Path, broker: Mosquitto, certificates: Certificates, observer: Observer
) -> None:
    observer.subscribe(PRESENCE)
    with Iotd(tmp_path / "iotd", configuration(broker, certificates)):
        connected = observer.wait_for(PRESENCE, lambda message: status_of(message) == "Connected")
        late = {"Hostname": connected.json()["Hostname"], "status": "Communication lost", "session": "older"}
        observer.publish(PRESENCE, late, retain=True)
        again = observer.wait_for(PRESENCE, lambda message: status_of(message) == "Connected",
                                  since=connected.order + 1)
        assert again.json()["session"] == connected.json()["session"]


def subscribes_once(iotd_directory: Path, settings: dict[str, Any], broker: Mosquitto, topic: str) -> int:
    """Run iotd until a message on `topic` has come in; return how many SUBSCRIBEs the broker has seen of it so far."""
    with Iotd(iotd_directory, settings) as iotd, Observer(broker) as observer:
        iotd.wait_for("session.connected")
        observer.publish(topic, b"1", retain=True)
        iotd.wait_for("message.received", topic=topic, payload=1)
        iotd.signal(signal.SIGTERM)
        assert iotd.end() == 0
    return broker.log.read_text().count("Received SUBSCRIBE from test-thing")


def test_a_session_that_the_broker_kept_is_subscribed_again_only_for_what_changed(
    tmp_path: Path, broker: Mosquitto, certificates: Certificates
) -> None:
    settings = configuration(broker, certificates, subscribe=[{"topic": "in/1"}])
    assert subscribes_once(tmp_path / "iotd", settings, broker, "in/1") == 1
    assert subscribes_once(tmp_path / "iotd", settings, broker, "in/1") == 1
    settings["subscribe"].append({"topic": "in/2"})
    assert subscribes_once(tmp_path / "iotd", settings, broker, "in/2") == 2


def test_a_session_that_the_broker_lost_is_subscribed_again(
    tmp_path: Path, broker: Mosquitto, certificates: Certificates
) -> None:
    settings = configuration(broker, certificates, subscribe=[{"topic": "in/1"}])
    assert subscribes_once(tmp_path / "iotd", settings, broker, "in/1") == 1
    broker.kill()
    (broker.directory / "mosquitto.db").unlink(missing_ok=True)
    broker.start()
    assert subscribes_once(tmp_path / "iotd", settings, broker, "in/1") == 2


def test_a_bad_reload_is_named_and_the_old_configuration_stays(
    tmp_path: Path, broker: Mosquitto, certificates: Certificates
) -> None:
    settings = configuration(broker, certificates)
    with Iotd(tmp_path / "iotd", settings) as iotd:
        iotd.wait_for("session.connected")
        iotd.configure({**settings, "publsh": []})
        iotd.signal(signal.SIGHUP)
        problems = iotd.wait_for("daemon.reload_failed")["problems"]
        assert len(problems) == 1 and "publsh" in problems[0] and "publish" in problems[0]
        iotd.signal(signal.SIGTERM)
        assert iotd.end() == 0


def test_what_lies_on_top_is_seen_by_a_reload_and_the_last_good_is_started_on(
    tmp_path: Path, broker: Mosquitto, certificates: Certificates, observer: Observer
) -> None:
    observer.subscribe("t/#")
    above = tmp_path / "iotd/iotd.d/site.yaml"
    with Iotd(tmp_path / "iotd", configuration(broker, certificates, publish=[TELEMETRY])) as iotd:
        observer.wait_for("t/test-thing/0")
        above.parent.mkdir()
        above.write_text("publish: [{topic: \"t/{thing}/above\", every: 1s, payload: {}}]\nlog: {level: debug}\n")
        iotd.signal(signal.SIGHUP)
        assert "log.level" in iotd.wait_for("daemon.reloaded")["changed"]
        observer.wait_for("t/test-thing/above")
        above.write_text("log: {}\npublish: 3\n")
        iotd.signal(signal.SIGHUP)
        assert iotd.wait_for("daemon.reload_failed")["problems"][0].startswith(f"{above}:2: publish: ")
    since = len(observer.messages)
    with Iotd(tmp_path / "iotd", configuration(broker, certificates, publish=[TELEMETRY])) as iotd:
        assert str(above) in iotd.wait_for("config.refused")["problems"][0]
        observer.wait_for("t/test-thing/above", since=since)


def test_a_new_presence_topic_leaves_no_ghost_on_the_old_one(
    tmp_path: Path, broker: Mosquitto, certificates: Certificates, observer: Observer
) -> None:
    observer.subscribe(PRESENCE, "new/will")
    settings = configuration(broker, certificates)
    with Iotd(tmp_path / "iotd", settings) as iotd:
        iotd.wait_for("session.connected")
        iotd.configure({**settings, "presence": {"topic": "new/will"}})
        iotd.signal(signal.SIGHUP)
        observer.wait_for("new/will", lambda message: status_of(message) == "Connected")
        assert status_of(observer.wait_for(PRESENCE, lambda message: status_of(message) != "Connected")) == "Stopped"


@pytest.mark.parametrize("payload", [
    b"\x00\xff\xfe", b"[" * 100_000, b"null", b"[1]", b'{"version": "x", "state": 3}', b'"' + b"x" * 131_000 + b'"',
    b'{"status": "Communication lost", "Hostname": ["x"]}', b'{"current": 1, "previous": [], "version": true}',
], ids=range(8))
def test_whatever_a_broker_sends_is_one_line_and_nothing_else(
    tmp_path: Path, broker: Mosquitto, certificates: Certificates, observer: Observer, payload: bytes
) -> None:
    shadow = "$aws/things/test-thing/shadow/name/s"
    topics = ["in/1", PRESENCE, *(f"{shadow}/{answer}" for answer in (
        "update/delta", "update/documents", "update/accepted", "update/rejected", "get/accepted", "get/rejected"))]
    settings = configuration(broker, certificates, subscribe=[{"topic": "in/1"}, {"topic": "in/end"}],
                             shadows=[{"name": "s"}])
    with Iotd(tmp_path / "iotd", settings) as iotd:
        iotd.wait_for("session.connected")
        observer.publish("in/end", b"0", retain=True)
        iotd.wait_for("message.received", topic="in/end")
        before = len(iotd.entries)
        for topic in topics:
            observer.publish(topic, payload)
        observer.publish("in/end", b"1")
        iotd.wait_for("message.received", topic="in/end", payload=1)
        lines = iotd.entries[before:-1]
        assert len(lines) <= len(topics)
        assert {line["event"] for line in lines} <= {
            "message.received", "presence.unreadable", "presence.overruled", "shadow.unreadable",
            "shadow.unanswered"}
        iotd.signal(signal.SIGTERM)
        assert iotd.end() == 0


def command(iotd: Iotd, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "iotd", *arguments], env=iotd.environment(), cwd="/",
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)


def test_status_tells_by_its_exit_whether_the_daemon_is_well(
    tmp_path: Path, broker: Mosquitto, certificates: Certificates
) -> None:
    iotd = Iotd(tmp_path / "iotd", configuration(broker, certificates, publish=[TELEMETRY]))
    absent = command(iotd, "status")
    assert (absent.returncode, absent.stdout) == (3, "") and "not running" in absent.stderr
    with iotd:
        iotd.wait_for("session.connected")
        iotd.wait_told("STATUS=connected")
        well = command(iotd, "status", "--json")
        assert well.returncode == 0
        status = json.loads(well.stdout)
        assert (status["connected"], status["healthy"], status["stale"]) == (True, True, False)
        broker.kill()
        iotd.wait_for("session.disconnected")
        iotd.wait_told("STATUS=not connected")
        ill = command(iotd, "status")
        assert ill.returncode == 1 and "problem: not connected" in ill.stdout
        iotd.signal(signal.SIGKILL)
        iotd.end()
        dead = command(iotd, "status")
        assert dead.returncode == 3 and "stale" in dead.stdout
        assert (iotd.directory / "runtime" / "status.json").stat().st_mode & 0o777 == 0o644


def test_bad_configuration_ends_with_78_and_every_problem_and_no_traceback(tmp_path: Path) -> None:
    iotd = Iotd(tmp_path / "iotd", {})
    iotd.file.write_text("mqtt:\n  prt: 8883\n  keepalive: 60\nlog: {level: loud}\n")
    for verb in ("check", "run"):
        result = command(iotd, verb, "-c", str(iotd.file))
        lines = result.stderr.splitlines()
        assert (result.returncode, result.stdout) == (78, "")
        assert [line.split(": ")[1] for line in lines] == ["mqtt.host", "mqtt.prt", "mqtt.keepalive", "log.level"]
        assert all(line.startswith(str(iotd.file)) for line in lines)


def test_a_missing_file_and_a_missing_certificate_are_named(tmp_path: Path, certificates: Certificates) -> None:
    iotd = Iotd(tmp_path / "iotd", {"mqtt": {"host": "localhost", "tls": {
        "ca": str(certificates.ca), "cert": "/nonexistent/cert.pem", "key": str(certificates.client.key)}}})
    missing = command(iotd, "check", "-c", "/nonexistent.yaml")
    assert missing.returncode == 78 and missing.stderr.startswith("/nonexistent.yaml: ")
    result = command(iotd, "check", "-c", str(iotd.file))
    assert result.returncode == 78 and "mqtt.tls.cert: /nonexistent/cert.pem" in result.stderr


def test_usage_is_told_with_2_and_the_version_with_0(tmp_path: Path) -> None:
    iotd = Iotd(tmp_path / "iotd", {})
    assert command(iotd, "fly").returncode == 2
    assert command(iotd, "--version").stdout.startswith("iotd ")
