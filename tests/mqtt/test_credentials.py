"""Certificates as they come from the field, made with openssl: each fault is named, and none asks for a password."""

from __future__ import annotations

import os
import pwd
import socket
import ssl
import subprocess
import tempfile
import threading
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Iterator

import pytest

from iotd.cli.load import load
from iotd.config.parse import parse
from iotd.errors import ConfigError
from iotd.host.identity import Identity
from iotd.mqtt import credentials
from iotd.mqtt.settings import Tls
from tests.certificates import EC, RSA, Authority, Certificates, make_certificates

NOW = datetime.now(timezone.utc).timestamp()
DAY_S = 86400.0

# AWS IoT Core Developer Guide, "Transport security": IoTSecurityPolicy_TLS13_1_2_2022_10.
AWS_SUITES = {
    "TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256",
    *(f"ECDHE-{kind}-{suite}" for kind in ("RSA", "ECDSA") for suite in (
        "AES128-GCM-SHA256", "AES128-SHA256", "AES128-SHA", "AES256-GCM-SHA384", "AES256-SHA384", "AES256-SHA")),
    "AES128-GCM-SHA256", "AES128-SHA256", "AES128-SHA", "AES256-GCM-SHA384", "AES256-SHA256", "AES256-SHA",
}


@pytest.fixture
def tls(certificates: Certificates, tmp_path: Path) -> Tls:
    """Copies of the three files of a thing, in order and to be spoilt."""
    def copy(original: Path) -> str:
        (tmp_path / original.name).write_bytes(original.read_bytes())
        (tmp_path / original.name).chmod(0o640)
        return str(tmp_path / original.name)

    return Tls(copy(certificates.ca), copy(certificates.client.cert), copy(certificates.client.key))


def found(tls: Tls, at: float = NOW, directory: str = credentials.DIRECTORY) -> list[tuple[str, str]]:
    """Return the key and text of every problem."""
    return [*credentials.unusable(tls, directory=directory).items(), *credentials.expired(tls, at).items()]


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


def test_a_set_in_order_has_no_problem_and_no_warning(tls: Tls) -> None:
    assert found(tls) == []
    assert credentials.open_to_all(tls.key) is None


def test_every_missing_file_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "iotd.yaml"
    file.write_text("mqtt:\n  host: localhost\n  tls:\n    ca: /no/ca\n    cert: /no/cert\n    key: /no/key\n")
    with pytest.raises(ConfigError) as raised:
        load(str(file), running=True)
    problems = raised.value.problems
    assert [(problem.line, problem.key) for problem in problems] == [
        (4, "mqtt.tls.ca"), (5, "mqtt.tls.cert"), (6, "mqtt.tls.key")]
    assert "/no/cert does not exist" in problems[1].text


def test_a_default_path_stands_in_the_line_of_its_section(tls: Tls) -> None:
    loaded = parse("mqtt:\n  host: localhost\n  tls:\n", "f", Identity("h", "m"))
    problems = credentials.unusable(tls._replace(ca="/no/ca"))
    assert [loaded.problem(f"mqtt.tls.{key}", "").line for key in problems] == [3]


def test_a_directory_is_not_read(tls: Tls, tmp_path: Path) -> None:
    assert found(tls._replace(ca=str(tmp_path))) == [("ca", f"{tmp_path} cannot be read: Is a directory")]


@pytest.mark.parametrize("key, content, words", [
    ("ca", b"", "holds no certificate in PEM form"),
    ("cert", b"hello\n", "holds no certificate in PEM form"),
    ("key", b"hello\n", "holds no private key in PEM form"),
    ("cert", b"-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n", "holds a damaged certificate"),
    ("ca", b"-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n", "holds a damaged certificate"),
    ("key", b"-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n", "cannot be used with"),
    ("key", b"\xff\xfe\x00", "holds no private key in PEM form"),
])
def test_what_is_no_pem_is_named(tls: Tls, key: str, content: bytes, words: str) -> None:
    path = getattr(tls, key)
    Path(path).write_bytes(content)
    [(name, text)] = found(tls)
    assert name == key and text.startswith(path) and words in text


@pytest.mark.parametrize("key, command", [("ca", "x509"), ("cert", "x509"), ("key", "pkey")])
def test_der_is_told_how_to_become_pem(tls: Tls, key: str, command: str) -> None:
    path = getattr(tls, key)
    openssl(command, "-in", path, "-outform", "der", "-out", path + ".der")
    [(_, text)] = found(tls._replace(**{key: path + ".der"}))
    assert f"convert it: openssl {command} -inform der -in {path}.der" in text


def test_swapped_files_are_both_named(tls: Tls) -> None:
    assert found(tls._replace(cert=tls.key, key=tls.cert)) == [
        ("cert", f"{tls.key} holds no certificate in PEM form, but a private key; have cert and key changed places?"),
        ("key", f"{tls.cert} holds no private key in PEM form, but a certificate; have cert and key changed places?")]


@pytest.mark.parametrize("algorithm", [EC, RSA])
def test_a_key_of_another_certificate_does_not_fit(tls: Tls, tmp_path: Path, algorithm: tuple[str, ...]) -> None:
    other = Authority(tmp_path / "other", key=algorithm).own
    assert found(tls._replace(key=str(other.key))) == [
        ("key", f"{other.key} does not fit the certificate {tls.cert}; the two come as a pair")]


@pytest.mark.parametrize("form", [["pkcs8", "-topk8"], ["ec"]])
def test_a_key_behind_a_password_is_named_and_nobody_is_asked(tls: Tls, form: list[str]) -> None:
    cipher = ["-v2", "aes256"] if form[0] == "pkcs8" else ["-aes256"]
    openssl(*form, *cipher, "-in", tls.key, "-out", tls.key + ".locked", "-passout", "pass:secret")
    locked = tls._replace(key=tls.key + ".locked")
    [(key, text)] = found(locked)
    assert key == "key" and "is protected by a password" in text
    with pytest.raises(ssl.SSLError, match="is protected by a password"):
        credentials.context(locked)


def test_an_expired_certificate_is_named_with_its_date(tls: Tls, certificates: Certificates) -> None:
    ended = datetime.now(timezone.utc) - timedelta(days=2)
    old = certificates.authority.issue("old", starts=timedelta(days=-9), ends=timedelta(days=-2))
    [(key, text)] = found(tls._replace(cert=str(old.cert), key=str(old.key)))
    assert key == "cert"
    assert f"{old.cert} expired on {ended:%Y-%m-%d}" in text


def test_expiry_stands_apart_from_what_cannot_be_used(tls: Tls) -> None:
    assert credentials.unusable(tls) == {}
    assert list(credentials.expired(tls, NOW + 31 * DAY_S)) == ["cert"]
    assert list(credentials.expired(tls, NOW + 3651 * DAY_S)) == ["ca", "cert"]


def test_an_expired_certificate_and_a_missing_key_are_named_together(tls: Tls) -> None:
    problems = found(tls._replace(key="/no/key"), NOW + 31 * DAY_S)
    assert [key for key, _ in problems] == ["key", "cert"]


def test_a_certificate_of_the_future_is_a_matter_of_the_clock(tls: Tls, certificates: Certificates) -> None:
    assert found(tls, at=0.0) == []
    coming = certificates.authority.issue("coming", starts=timedelta(days=2), ends=timedelta(days=9))
    assert found(tls._replace(cert=str(coming.cert), key=str(coming.key))) == []


def test_a_certificate_for_the_next_century_has_its_date_read(tls: Tls, certificates: Certificates) -> None:
    """From 2050 on, the date is a GeneralizedTime (RFC 5280 4.1.2.5)."""
    late = certificates.authority.issue("late", ends=timedelta(days=36500))
    tls = tls._replace(cert=str(late.cert), key=str(late.key))
    expired_at = NOW + 36500 * DAY_S
    assert list(credentials.expired(tls, expired_at - DAY_S))[1:] == []
    assert list(credentials.expired(tls, expired_at + DAY_S))[1:] == ["cert"]


def test_one_good_authority_is_enough(tls: Tls, tmp_path: Path) -> None:
    """A bundle keeps an old root beside the new one for a while."""
    root = Authority(tmp_path / "root")
    old = root.issue("old root", starts=timedelta(days=-9), ends=timedelta(days=-2))
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(b"Subject: CN = old root\n" + old.cert.read_bytes() + Path(tls.ca).read_bytes())
    assert found(tls._replace(ca=str(bundle))) == []
    assert [key for key, _ in found(tls._replace(ca=str(old.cert)))] == ["ca"]


@contextmanager
def unprivileged() -> Iterator[str]:
    """Give up root for a while; yields the name of the user that remains."""
    own, nobody = os.geteuid(), pwd.getpwnam("nobody").pw_uid
    os.seteuid(nobody if own == 0 else own)
    try:
        yield pwd.getpwuid(os.geteuid()).pw_name
    finally:
        os.seteuid(own)


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user can reach, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_an_unreadable_file_is_told_who_may_not_and_how_to_mend_it(tls: Tls, public: Path) -> None:
    key = public / "private.pem.key"
    key.write_bytes(Path(tls.key).read_bytes())
    key.chmod(0)
    with unprivileged() as user:
        [text] = [text for name, text in found(tls._replace(key=str(key)), directory=str(public)) if name == "key"]
    assert text.startswith(f"user {user} may not read {key}; ")
    assert "sudo -u iotd iotd check" in text and text.endswith(f"&& chmod 0640 {key}")


def test_a_directory_that_is_shut_is_what_gets_mended(tls: Tls, public: Path) -> None:
    certs = public / "certs"
    certs.mkdir()
    (certs / "ca.pem").write_bytes(Path(tls.ca).read_bytes())
    certs.chmod(0)
    with unprivileged():
        text = dict(found(tls._replace(ca=str(certs / "ca.pem")), directory=str(public)))["ca"]
    certs.chmod(0o700)
    assert text.endswith(f"{certs} && chmod 0750 {certs}")


@pytest.mark.parametrize("shut", ["", "below"])
@pytest.mark.parametrize("mode", [0o750, 0o755])
def test_no_advice_takes_anything_away_from_its_owner_outside_the_directory_of_the_package(
    tls: Tls, public: Path, shut: str, mode: int
) -> None:
    """`chown root:iotd /home` locked the owner of a device out."""
    ours, theirs = public / "iotd", public / "theirs" / "below"
    for place in (ours, theirs):
        place.mkdir(parents=True)
    key = theirs / "private.pem.key"
    key.write_bytes(Path(tls.key).read_bytes())
    key.chmod(0)
    (ours / "link").symlink_to(key)
    (public / "theirs" / shut).chmod(mode & ~0o005)
    with unprivileged():
        texts = [dict(found(tls._replace(key=str(path)), directory=str(ours)))["key"]
                 for path in (key, ours / "link", ours / ".." / "theirs" / "below" / key.name)]
    for text in texts:
        assert "may not read" in text and text.endswith("put the file into /etc/iotd/certs, and write that path")
        assert "chown" not in text and "chmod" not in text


@pytest.mark.parametrize("path", ["/home/pi/certs/key", "/root/key", "/run/user/1000/key"])
def test_what_the_unit_hides_is_told_as_such(tls: Tls, path: str) -> None:
    text = credentials.hidden(path)
    assert text is not None
    assert text.startswith(f"{path} is not there for the daemon: the unit hides home directories (ProtectHome=yes)")
    assert [text for _, text in found(tls._replace(key=path))] == [text]


def test_a_home_on_another_path_is_not_hidden() -> None:
    assert [credentials.hidden(path) for path in ("/homework/key", "/srv/home/cert")] == [None, None]


@pytest.mark.parametrize("label, package", [
    ("TSS2 PRIVATE KEY", "tpm2-openssl"), ("PKCS#11 PROVIDER URI", "pkcs11-provider"),
])
def test_a_key_in_a_chip_is_told_what_it_lacks(tls: Tls, label: str, package: str) -> None:
    """OpenSSL without the provider calls it damaged, or no key at all."""
    Path(tls.key).write_text(f"-----BEGIN {label}-----\nMIHwBgZngQUKAQOg\n-----END {label}-----\n")
    [(key, text)] = found(tls)
    assert key == "key" and label in text and f"needs the package {package}, OPENSSL_CONF" in text


@pytest.mark.parametrize("key", ["ca", "cert", "key"])
def test_what_never_ends_is_not_read(tls: Tls, tmp_path: Path, key: str) -> None:
    pipe, large = tmp_path / "pipe", tmp_path / "large"
    os.mkfifo(pipe)
    large.touch()
    os.truncate(large, 1 << 40)
    for path, why in ((pipe, "no regular file"), ("/dev/zero", "no regular file"), (large, "larger than 1048576 b")):
        text = dict(found(tls._replace(**{key: str(path)})))[key]
        assert text.startswith(f"{path} cannot be read: {why}")


@pytest.mark.parametrize("mode, change", [(0o644, "0640"), (0o604, "0600"), (0o666, "0640"), (0o601, "0600")])
def test_a_key_open_to_everybody_is_worth_a_warning(tls: Tls, mode: int, change: str) -> None:
    Path(tls.key).chmod(mode)
    text = credentials.open_to_all(tls.key)
    assert text and text.endswith(f"chmod {change} {tls.key}")


def test_a_missing_key_is_no_matter_of_warning() -> None:
    assert credentials.open_to_all("/no/key") is None


def test_the_context_offers_only_suites_that_aws_lists(tls: Tls) -> None:
    offered = [suite["name"] for suite in credentials.context(tls).get_ciphers()]
    assert set(offered) <= AWS_SUITES
    assert {"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "TLS_AES_128_GCM_SHA256"} <= set(offered)


def test_the_context_verifies_peer_and_name_and_nothing_older_than_tls_1_2(tls: Tls) -> None:
    context = credentials.context(tls)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_the_context_is_made_anew_once_a_file_is_another(tls: Tls) -> None:
    first = credentials.context(tls)
    assert credentials.context(tls) is first
    os.utime(tls.cert, ns=(0, 0))
    assert credentials.context(tls) is not first
    os.unlink(tls.key)
    with pytest.raises(FileNotFoundError):
        credentials.context(tls)


def test_the_context_trusts_the_one_file_alone(tls: Tls) -> None:
    assert credentials.context(tls).cert_store_stats() == {"x509": 1, "crl": 0, "x509_ca": 1}


def shake_hands(tls: Tls, server: ssl.SSLContext, name: str = "localhost") -> ssl.SSLSocket:
    """Return the client's end after a handshake over a pair of sockets. Raises what the client raises."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.settimeout(10)

    def answer() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as line:
                line.send(b"!")
        except OSError:
            pass  # the client refused, and says why itself

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        line = credentials.context(tls).wrap_socket(ours, server_hostname=name)
        line.recv(1)
    except BaseException:
        ours.close()
        raise
    finally:
        thread.join()
    line.close()
    return line


def server_context(certificates: Certificates, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """Return a broker's side that demands a client certificate."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificates.server.cert, certificates.server.key)
    server.load_verify_locations(certificates.ca)
    server.verify_mode = ssl.CERT_REQUIRED
    server.maximum_version = version
    return server


@pytest.mark.parametrize("algorithm", [EC, RSA])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_mutual_tls_works_with_both_kinds_of_keys(
    tmp_path: Path, version: ssl.TLSVersion, algorithm: tuple[str, ...]
) -> None:
    made = make_certificates(tmp_path, key=algorithm)
    tls = Tls(str(made.ca), str(made.client.cert), str(made.client.key))
    shake_hands(tls, server_context(made, version))


def test_a_server_of_another_name_or_authority_is_refused(tls: Tls, certificates: Certificates, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(tls, server_context(certificates), name="broker.example.com")
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer|self-signed"):
        shake_hands(tls, server_context(make_certificates(tmp_path / "stranger")))


@pytest.mark.parametrize("alpn", ["x-amzn-mqtt-ca", None])
def test_the_protocol_that_is_asked_for_is_spoken(tls: Tls, certificates: Certificates, alpn: str | None) -> None:
    server = server_context(certificates)
    server.set_alpn_protocols(["x-amzn-mqtt-ca"])
    spoken: list[str | None] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        client = credentials.context(tls, alpn)
        thread = threading.Thread(target=lambda: client.wrap_socket(ours, server_hostname="localhost").close())
        thread.start()
        with server.wrap_socket(theirs, server_side=True) as line:
            spoken.append(line.selected_alpn_protocol())
        thread.join()
    assert spoken == [alpn]
