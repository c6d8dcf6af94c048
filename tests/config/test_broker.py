"""The way to any broker as the file says it: what it means, and what every wrong combination is told to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from iotd.cli.load import load as load_file
from iotd.config import broker
from iotd.config.parse import parse
from iotd.config.settings import Settings
from iotd.errors import ConfigError
from iotd.host.identity import Identity
from iotd.mqtt.settings import SYSTEM_CA, Proxy, Tls

IDENTITY = Identity(hostname="pi-7", machine_id="0123456789abcdef")
AWS = "a1b2-ats.iot.eu-central-1.amazonaws.com"


def load(lines: str, host: str = "broker.example", rest: str = "") -> Settings:
    return parse(f"mqtt:\n  host: {host}\n  {lines}\n{rest}", "iotd.yaml", IDENTITY).settings


def problem_of(lines: str, rest: str = "") -> str:
    with pytest.raises(ConfigError) as error:
        load(lines, rest=rest)
    [line] = error.value.lines()
    return line.removeprefix("iotd.yaml:")


def test_a_login_knows_who_this_is() -> None:
    login = "username: '{thing}@{hostname}'\n  client_id: 'x-{machine_id}'\n  password_file: /p"
    mqtt = load(login, rest="thing: t").mqtt
    assert (mqtt.username, mqtt.client_id, mqtt.password_file) == ("t@pi-7", "x-0123456789abcdef", "/p")


def test_the_client_id_is_the_thing_unless_told() -> None:
    assert load("port: 1").client_id == "pi-7"
    settings = load("client_id: 'other id'")
    assert (settings.client_id, settings.thing) == ("other id", "pi-7")


def test_a_websocket_has_a_path() -> None:
    assert load("port: 1").mqtt.websocket_path is None
    assert load("transport: websockets").mqtt.websocket_path == "/mqtt"
    assert load("transport: websockets\n  path: '/a?b=c'").mqtt.websocket_path == "/a?b=c"


def test_the_certificate_of_the_broker_alone_and_the_bundle_of_the_system() -> None:
    assert load("tls: {ca: system, cert: none}").mqtt.tls == Tls(SYSTEM_CA, "", "")
    assert load("tls: {ca: system}").mqtt.tls == Tls(SYSTEM_CA)


@pytest.mark.parametrize("written, proxy", [
    ("{host: p}", Proxy("p")), ("{host: '::1', port: 8080}", Proxy("::1", 8080)),
    ("{host: p, username: u, password_file: /p}", Proxy("p", 3128, "u", "/p")),
])
def test_values_of_the_proxy(written: str, proxy: Proxy) -> None:
    assert load(f"proxy: {written}").mqtt.proxy == proxy


@pytest.mark.parametrize("host, lines, alpn", [
    (AWS, "port: 443\n  tls: {}", "x-amzn-mqtt-ca"), (AWS, "tls: {}", None),
    (AWS, "port: 443\n  tls: {}\n  alpn: mqtt", "mqtt"),
    ("b", "port: 443\n  tls: {}", None), ("b", "port: 443\n  tls: {}\n  limits: aws", None),
    ("b", "tls: {}\n  alpn: mqtt", "mqtt"), (AWS, "port: 443\n  tls: {}\n  transport: websockets", None),
])
def test_a_protocol_is_asked_for_on_port_443_of_aws_or_where_the_file_says_so(
    host: str, lines: str, alpn: str | None
) -> None:
    assert load(lines, host).mqtt.alpn == alpn


@pytest.mark.parametrize("written", ["off", "'off'", "false", "no"])
def test_presence_can_be_off(written: str) -> None:
    settings = load("port: 1", rest=f"presence: {written}\npublish: [{{topic: a, every: 1s, payload: 5}}]\n")
    assert settings.presence.topic == ""


@pytest.mark.parametrize("payload", ["'{temperature}'", "'{hostname} is up'", "5", "-0.5", "'{{}}'"])
def test_a_payload_may_be_a_text_or_a_number(payload: str) -> None:
    load("port: 1", rest=f"publish: [{{topic: a, every: 1s, payload: {payload}}}]\n")


@pytest.mark.parametrize("lines, expected", [
    ("password: hunter2", "3: mqtt.password: is not read from this file; write it alone into the first line of a file "
     "that the daemon may read (root:iotd, mode 0640), and name that: password_file: /etc/iotd/certs/password"),
    ("proxy: {host: p, password: hunter2}", "3: mqtt.proxy.password: is not read from this file; write it alone"),
    ("pasword: hunter2", "3: mqtt.pasword: unknown key; did you mean password_file?"),
    ("password_file: hunter2", "3: mqtt.password_file: expected the path of a file, from /; the password itself"),
    ("password_file: {hunter2: 1}", "3: mqtt.password_file: expected the path of a file"),
    ("password_file: \"/hunter2\\0\"", "3: mqtt.password_file: expected the path of a file"),
    ("password_file: /p", "3: mqtt.password_file: stands there without a user name; write mqtt.username beside it"),
    ("proxy: {host: p, password_file: /p}",
     "3: mqtt.proxy.password_file: stands there without a user name; write mqtt.proxy.username beside it"),
    ("proxy: {host: p, username: 'a:b'}", "3: mqtt.proxy.username: has a colon or a control character"),
    ("proxy: {}", "3: mqtt.proxy.host: is required"),
    ("proxy: http://u:hunter2@p.example:8080/", "3: mqtt.proxy: expected a mapping of keys; write proxy: {host: "
     "p.example, port: 8080, username: …, password_file: /etc/iotd/certs/proxy-password}"),
    ("proxy: p.example", "3: mqtt.proxy: expected a mapping of keys; write proxy: {host: p.example, port: 3128}"),
    ("proxy: [hunter2]", "3: mqtt.proxy: expected a mapping of keys; write proxy: {host: proxy.example, port: 3128}"),
    ("proxy: {host: 'http://p.example:8080'}",
     "3: mqtt.proxy.host: expected the name or address of the proxy alone; write proxy: {host: p.example, port: 8080}"),
    ("proxy: {host: 'socks5://u:hunter2@p'}", "3: mqtt.proxy.host: expected the name or address of the proxy alone; "
     "write proxy: {host: p, port: 3128, username: …, password_file: /etc/iotd/certs/proxy-password}; iotd passes "
     "those proxies alone that take HTTP CONNECT"),
    ("tls: {key: /k}", "3: mqtt.tls.key: stands there without its certificate; write mqtt.tls.cert beside it"),
    ("tls: {cert: none, key: /k}", "3: mqtt.tls.key: belongs to a certificate, and mqtt.tls.cert is none"),
    ("tls: {cert: }", "3: mqtt.tls.cert: expected a path, found nothing; write none for a broker that asks for"),
    ("alpn: mqtt", "3: mqtt.alpn: is a part of TLS, and there is no mqtt.tls; add that section"),
    ("tls: {}\n  alpn: é", "4: mqtt.alpn: expected the name of a protocol, such as x-amzn-mqtt-ca or mqtt, found 'é'"),
    ("path: /x", "3: mqtt.path: is that of a websocket; write mqtt.transport: websockets beside it, or leave it out"),
    ("transport: websockets\n  path: mqtt", "4: mqtt.path: expected a path from /, of ASCII without blanks, such as"),
    ("transport: websocket", "3: mqtt.transport: expected tcp or websockets, found text 'websocket'; did you mean"),
    ("protocol: 5", "3: mqtt.protocol: is not known yet: iotd speaks MQTT 3.1.1; leave it out"),
    ("username: ''", "3: mqtt.username: is empty"),
    ("username: '{essid}'", "3: mqtt.username: {essid} has no value here"),
    ("username: \"a\\nb\"", "3: mqtt.username: 'a\\nb' has U+000A"),
    (f"client_id: {'é' * 32768}", "3: mqtt.client_id: '"),
    (f"limits: aws\n  client_id: {'x' * 129}", "4: mqtt.client_id: '"),
])
def test_every_wrong_combination_says_what_to_write_and_repeats_no_secret(lines: str, expected: str) -> None:
    told = problem_of(lines)
    assert told.startswith(expected), told
    assert "hunter2" not in told.replace("mqtt.password_file.hunter2", "")


@pytest.mark.parametrize("text", [
    "mqtt: {host: 'mqtt://u:hunter2@b'}", "mqtt: {host: 'u:hunter2@b'}",
    "mqtt:\n  password: \"hunter2\n", "mqtt: {host: b, password_file: /p, password: 'hunter2}",
    "mqtt:\n\tpassword: hunter2",
])
def test_a_secret_that_stands_where_it_should_not_is_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text, "iotd.yaml", IDENTITY)
    assert error.value.lines() and "hunter2" not in "".join(error.value.lines())


@pytest.mark.parametrize("host, lines, key", [
    ("broker.example", "port: 1883", "mqtt.tls"), ("192.0.2.1", "username: u", "mqtt.username"),
    ("localhost", "username: u", None), ("127.0.0.9", "port: 1883", None), ("'::1'", "port: 1883", None),
    ("a.localhost.", "port: 1883", None), ("127.example.com", "port: 1883", "mqtt.tls"),
    ("'::ffff:127.0.0.1'", "port: 1883", None), ("localhost.example", "port: 1883", "mqtt.tls"),
    ("broker.example", "username: u\n  tls: {}", None),
    ("broker.example", "limits: aws\n  port: 443\n  tls: {}", "mqtt.port"),
    ("broker.example", "limits: aws\n  port: 443\n  tls: {}\n  alpn: x-amzn-mqtt-ca", None),
])
def test_what_goes_in_the_clear_to_another_host_is_a_warning(host: str, lines: str, key: str | None) -> None:
    assert [found for found, _ in broker.warnings(load(lines, host))] == ([key] if key else [])


def test_check_opens_the_files_of_passwords_as_it_does_certificates(tmp_path: Path) -> None:
    def check(password: bytes | None, mode: int = 0o640) -> tuple[str, ...]:
        secret.unlink(missing_ok=True)
        if password is not None:
            secret.write_bytes(password)
            secret.chmod(mode)
        try:
            return load_file(str(file), False).warnings
        except ConfigError as error:
            return tuple(error.lines())

    file, secret = tmp_path / "iotd.yaml", tmp_path / "secret"
    file.write_text(f"mqtt:\n  host: localhost\n  username: u\n  password_file: {secret}\n"
                    f"  proxy:\n    host: p\n    username: u\n    password_file: {secret}\n")
    assert check(b"x\n") == ()
    for content, words in ((None, "does not exist"), (b"", "is empty"), (b"\r\nx", "is empty"),
                           (b"x" * 65536, "has a first line of 65536 bytes"),
                           (b"\0" * (1 << 21), "cannot be read: larger")):
        lines = check(content)
        assert [line.split(": ")[:2] for line in lines] == [
            [f"{file}:4", "mqtt.password_file"], [f"{file}:8", "mqtt.proxy.password_file"]]
        assert all(words in line for line in lines)
    open_to_all = f"{secret} has mode 0644, open to every user of this host; run: chmod 0640 {secret}"
    assert check(b"x\n", 0o644) == (f"{file}:4: warning: mqtt.password_file: {open_to_all}",
                                    f"{file}:8: warning: mqtt.proxy.password_file: {open_to_all}")
