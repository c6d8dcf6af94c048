"""The daemon as a process on a broker that is not AWS: a login, a proxy, no presence, and no secret anywhere."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Certificates, make_certificates
from tests.connect_proxy import ESTABLISHED, ConnectProxy
from tests.mosquitto import Mosquitto
from tests.observer import Observer
from tests.running import Iotd, configuration

PASSWORD, PROXY_PASSWORD = "geheim-am-broker", "geheim-am-proxy"
SECRETS = (PASSWORD, PROXY_PASSWORD, b64encode(f"u:{PROXY_PASSWORD}".encode()).decode())


def command(iotd: Iotd, *words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "iotd", *words], env=iotd.environment(), cwd="/",
                          capture_output=True, text=True, timeout=30)
    return done.stdout + done.stderr


@pytest.fixture
def named(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A server certificate for a name that no name server knows."""
    return make_certificates(tmp_path_factory.mktemp("named"), names=("DNS:broker.invalid",))


def test_a_login_through_a_proxy_leaves_no_secret_in_a_log_a_status_an_error_or_a_process_list(
    tmp_path: Path, named: Certificates
) -> None:
    """First without a file, then with wrong passwords, then with the right ones: each is named, none is told."""
    users, password, proxy_password = (tmp_path / name for name in ("users", "password", "proxy-password"))
    users.touch(0o600)
    subprocess.run(["mosquitto_passwd", "-b", str(users), "pi", PASSWORD], check=True, timeout=20)
    password.write_text("wrong")
    proxy_password.write_text("wrong\n")
    (tmp_path / "broker").mkdir()
    seen: list[str] = []

    def guard(request: bytes) -> bytes:  # whose refusal repeats what it was sent
        refusal = b"HTTP/1.1 407 " + request.split(b"\r\n")[2] + b"\r\n\r\n"
        return ESTABLISHED if SECRETS[2].encode() in request else refusal

    with Mosquitto(tmp_path / "broker", settings=[
        "allow_anonymous false", f"password_file {users}", f"certfile {named.server.cert}",
        f"keyfile {named.server.key}"
    ]) as broker, ConnectProxy({"broker.invalid": broker.port}, guard) as proxy:
        settings = configuration(broker, None, log={"level": "debug"}, publish=[
            {"topic": "t/x", "every": "1s", "payload": {"a": 1}}])
        settings["mqtt"] |= {
            "host": "broker.invalid", "port": 8883, "username": "pi", "password_file": str(password),
            "tls": {"ca": str(named.ca), "cert": "none"}, "client_id": "another id",
            "proxy": {"host": proxy.host, "port": proxy.port, "username": "u", "password_file": str(proxy_password)}}
        with Iotd(tmp_path / "iotd", settings) as iotd:
            failed = iotd.wait_for("session.connect_failed", cause="proxy")
            assert "does not accept the user 'u'" in failed["reason"]
            proxy_password.write_text(PROXY_PASSWORD + "\n")
            failed = iotd.wait_for("session.connect_failed", cause="refused")
            assert "not authorised, as the user 'pi'" in failed["reason"]
            password.unlink()
            failed = iotd.wait_for("session.connect_failed", cause="password")
            assert f"{password} does not exist" in failed["reason"] and failed["retry_in_s"] is not None
            seen.append(command(iotd, "check", "-c", str(iotd.file)))
            assert ": mqtt.password_file: " in seen[-1]
            password.write_text(PASSWORD + "\r\n")
            iotd.wait_for("session.connected")
            iotd.wait_for("message.published")
            seen += [command(iotd, "status", "--json"), command(iotd, "status"),
                     command(iotd, "check", "-c", str(iotd.file)),
                     Path(f"/proc/{iotd.process.pid}/cmdline").read_text(),
                     Path(f"/proc/{iotd.process.pid}/environ").read_text(),
                     *(path.read_bytes().decode("utf-8", "replace") for path in (tmp_path / "iotd").rglob("*")
                       if path.is_file())]
            iotd.signal(signal.SIGTERM)
            assert iotd.end() == 0
            seen += [json.dumps(iotd.entries), iotd.stderr(), *iotd.told]
        assert "as another id (" in broker.log.read_text()
    assert len(seen) > 10 and [secret for secret in (*SECRETS, "wrong") for text in seen if secret in text] == []


def test_without_presence_nothing_is_said_of_it_and_a_payload_may_be_a_text(
    tmp_path: Path, plain_broker: Mosquitto
) -> None:
    """Behind a proxy the broker has a name that is not this host's: it is warned of what goes in the clear."""
    publish: list[dict[str, Any]] = [{"topic": "feeds/word", "every": "1s", "payload": "{thing} ist 👉 da"},
                                     {"topic": "feeds/number", "every": "1s", "payload": "{timestamp}"}]
    with Observer(plain_broker) as observer, ConnectProxy({"broker.invalid": plain_broker.port}) as proxy:
        observer.subscribe("#")
        settings = configuration(plain_broker, None, presence=False, publish=publish)
        settings["mqtt"] |= {"host": "broker.invalid", "proxy": {"host": proxy.host, "port": proxy.port}}
        with Iotd(tmp_path / "iotd", settings) as iotd:
            warning = iotd.wait_for("config.warning")["message"]
            assert f"{iotd.file}:" in warning and ": warning: mqtt.tls: there is no mqtt.tls" in warning
            assert warning in command(iotd, "check", "-c", str(iotd.file))
            assert observer.wait_for("feeds/word").payload.decode() == "test-thing ist 👉 da"
            assert type(observer.wait_for("feeds/number").json()) is int
            iotd.signal(signal.SIGHUP)
            iotd.wait_for("daemon.reloaded")
            iotd.signal(signal.SIGTERM)
            assert iotd.end() == 0
            iotd.wait_for("session.disconnected", cause="asked")
        assert {message.topic for message in observer.messages} == {"feeds/word", "feeds/number"}
    log = plain_broker.log.read_text()
    assert "No will message specified" in log and "Received DISCONNECT from test-thing" in log
    assert "Received SUBSCRIBE from test-thing" not in log


def test_a_broker_that_takes_no_such_will_is_named_and_what_to_look_at(tmp_path: Path) -> None:
    (tmp_path / "broker").mkdir()
    with Mosquitto(tmp_path / "broker", settings=["max_qos 0"]) as broker, Iotd(
            tmp_path / "iotd", configuration(broker, None)) as iotd:
        assert "presence.qos" in iotd.wait_for("session.connect_failed", cause="closed")["reason"]
