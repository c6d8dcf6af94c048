"""`iotd doctor` as a command, against real brokers, certificates and daemons with one thing wrong at a time."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.certificates import Certificates, make_certificates
from tests.doctor.asked import PATIENCE_S, doctor, found, lowest_but_daemon, stopped
from tests.mosquitto import Mosquitto
from tests.running import Iotd, configuration


def test_a_device_that_is_well_is_well_in_every_layer(
    tmp_path: Path, broker: Mosquitto, certificates: Certificates
) -> None:
    with Iotd(tmp_path / "iotd", configuration(broker, certificates)) as iotd:
        iotd.wait_for("session.connected")
        iotd.wait_told("STATUS=connected")
        body = found(iotd)
        text = doctor(iotd).stdout
    failed = {layer for layer, finding in body["layers"].items() if finding["level"] == "failed"}
    assert (failed, body["exit"], body["cause"]) == (set(), 0, None)
    assert body["layers"]["mqtt"]["finding"] == "the broker takes this device (seen by the daemon)"
    assert text.startswith("all is well") and len(text.splitlines()) >= 2 + 16


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("shut", [[], ["iotd.yaml"], ["state"], ["iotd.yaml", "state"]])
def test_a_device_that_is_well_is_well_for_every_user(
    broker: Mosquitto, certificates: Certificates, shut: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as directory:  # that of the tests is root's alone, the certificates' too
        path = Path(directory)
        path.chmod(0o755)
        with Iotd(path / "iotd", configuration(broker, certificates)) as iotd:
            iotd.wait_for("session.connected")
            iotd.wait_told("STATUS=connected")
            for name in shut:
                (iotd.directory / name).chmod(0o700)
            python = os.path.realpath(sys.executable)
            result = subprocess.run([python, "-m", "iotd", "doctor", "--json", "-c", str(iotd.file)],
                                    env=iotd.environment(), cwd="/", capture_output=True, text=True, user="nobody",
                                    timeout=PATIENCE_S)
    body = json.loads(result.stdout)
    assert (result.returncode, body["cause"], result.stderr) == (0, None, ""), body
    levels = {finding["layer"]: finding["level"] for finding in body["findings"]}
    assert (levels["mqtt"], levels["certificates"], levels["daemon"]) == ("ok", "not seen", "ok")


def test_a_stopped_daemon_is_named_and_the_broker_is_asked_under_its_name(
    tmp_path: Path, broker: Mosquitto, certificates: Certificates
) -> None:
    body = found(stopped(tmp_path, broker, certificates))
    assert (body["cause"], body["exit"]) == ("daemon", 1)
    assert body["layers"]["mqtt"]["finding"] == "the broker takes this device (seen by this look)"


def test_while_the_daemon_runs_nobody_connects_under_its_name(
    tmp_path: Path, broker: Mosquitto, certificates: Certificates
) -> None:
    with Iotd(tmp_path / "iotd", configuration(broker, certificates)) as iotd:
        iotd.wait_for("session.connected")
        iotd.wait_told("STATUS=connected")
        assert found(iotd)["exit"] == 0
        assert [entry for entry in iotd.entries if entry["event"] == "session.disconnected"] == []


def test_a_bad_configuration_is_the_cause_and_ends_with_78(tmp_path: Path, plain_broker: Mosquitto) -> None:
    iotd = stopped(tmp_path, plain_broker, None, publsh=[])
    body = found(iotd)
    assert (body["cause"], body["exit"]) == ("configuration", 78)
    assert "publsh" in body["layers"]["configuration"]["finding"]


def test_a_key_of_another_certificate_is_named(
    tmp_path: Path, broker: Mosquitto, certificates: Certificates
) -> None:
    settings = configuration(broker, certificates)
    settings["mqtt"]["tls"]["key"] = str(make_certificates(tmp_path / "other").client.key)
    body = found(Iotd(tmp_path / "iotd", settings))
    assert lowest_but_daemon(body) in ("configuration", "certificates")
    assert "does not fit" in body["verdict"]


def test_a_name_without_an_address_is_dns(tmp_path: Path, plain_broker: Mosquitto) -> None:
    settings = configuration(plain_broker, None)
    settings["mqtt"]["host"] = "no-such-host.invalid"
    body = found(Iotd(tmp_path / "iotd", settings))
    # Where the machine of the tests has no name server or no route, that is the cause, and rightly so.
    assert body["layers"]["dns"]["level"] == "failed"
    assert lowest_but_daemon(body) in ("interface", "address", "gateway", "dns")


def test_a_port_where_nobody_listens_is_tcp(tmp_path: Path, plain_broker: Mosquitto) -> None:
    settings = configuration(plain_broker, None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings["mqtt"]["port"] = server.getsockname()[1]
    body = found(Iotd(tmp_path / "iotd", settings))
    assert lowest_but_daemon(body) == "tcp" and "refused" in body["layers"]["tcp"]["finding"]


def test_a_broker_of_another_authority_is_tls(
    tmp_path: Path, broker: Mosquitto, certificates: Certificates
) -> None:
    settings = configuration(broker, certificates)
    settings["mqtt"]["tls"]["ca"] = str(make_certificates(tmp_path / "other").ca)
    body = found(Iotd(tmp_path / "iotd", settings))
    assert lowest_but_daemon(body) == "tls" and "refused" in body["layers"]["tls"]["finding"]


def test_tls_on_a_port_without_it_is_tls(
    tmp_path: Path, plain_broker: Mosquitto, certificates: Certificates
) -> None:
    assert lowest_but_daemon(found(stopped(tmp_path, plain_broker, certificates))) == "tls"


def test_a_port_of_tls_spoken_to_without_it_is_mqtt(
    tmp_path: Path, broker: Mosquitto, certificates: Certificates
) -> None:
    assert lowest_but_daemon(found(stopped(tmp_path, broker, None))) == "mqtt"


def test_a_broker_that_refuses_this_device_is_mqtt(tmp_path: Path) -> None:
    (tmp_path / "broker").mkdir()
    (tmp_path / "passwords").touch()
    with Mosquitto(tmp_path / "broker", None, settings=[
            "allow_anonymous false", f"password_file {tmp_path / 'passwords'}"]) as strict:
        body = found(stopped(tmp_path, strict, None))
    assert lowest_but_daemon(body) == "mqtt" and "refused the connection" in body["layers"]["mqtt"]["finding"]


def test_somebody_who_takes_the_connection_and_says_nothing_is_mqtt_within_the_limit(
    tmp_path: Path, plain_broker: Mosquitto
) -> None:
    settings = configuration(plain_broker, None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings["mqtt"]["port"] = server.getsockname()[1]
        started = time.monotonic()
        body = found(Iotd(tmp_path / "iotd", settings))
    assert lowest_but_daemon(body) == "mqtt" and time.monotonic() - started < 10.0


@pytest.mark.parametrize("status", [
    b"", b"[]", b'{"written_s": "x"}', b'{"written_s": null, "problems": 7}', b"\xff" * 100, b"[" * 100_000,
], ids=range(6))
def test_a_status_that_makes_no_sense_is_no_status(tmp_path: Path, plain_broker: Mosquitto, status: bytes) -> None:
    iotd = stopped(tmp_path, plain_broker, None)
    (iotd.directory / "runtime" / "status.json").write_bytes(status)
    assert found(iotd)["cause"] == "daemon"


def test_nothing_that_others_say_reaches_the_terminal_as_it_is(tmp_path: Path, plain_broker: Mosquitto) -> None:
    with Iotd(tmp_path / "iotd", configuration(plain_broker, None)) as iotd:
        iotd.wait_told("STATUS=connected")
        iotd.signal(signal.SIGSTOP)  # it writes its own no more
        path = iotd.directory / "runtime" / "status.json"
        status = json.loads(path.read_text())
        status.update(problems=["publish to \x1b[31mred\nnew line denied"], connected=True)
        path.write_text(json.dumps(status))
        result = doctor(iotd)
    assert "\x1b" not in result.stdout and "policy: denied" in result.stdout.splitlines()[0]
