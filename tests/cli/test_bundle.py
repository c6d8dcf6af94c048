"""`iotd bundle`: what support needs is in it, and no secret."""

from __future__ import annotations

import io
import os
import ssl
import subprocess
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Iterator

import pytest

from iotd.config.bare import bare, without_secrets
from tests.certificates import Certificates
from tests.running import ROOT

PARTS = {"doctor.json", "iotd.yaml", "versions.txt", "ip.txt", "nmcli.txt", "systemd.txt", "last_reboot.json",
         "journal.txt", "outages.txt"}


def bundle(
    tmp_path: Path, text: str, *arguments: str, journal: str = "", stdin: str = "", trusts: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run the command in a directory of its own, where this is the journal, and `trusts` the authorities."""
    for name in ("state", "runtime", "bin"):
        (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / "iotd.yaml").write_text(text)
    (tmp_path / "journal").write_text(journal)
    (tmp_path / "bin/journalctl").write_text(f"#!/bin/sh\ncat {tmp_path}/journal\n")
    (tmp_path / "bin/journalctl").chmod(0o755)
    return subprocess.run([sys.executable, "-m", "iotd", "bundle", "-c", "iotd.yaml", *arguments], cwd=tmp_path,
                          capture_output=True, text=True, timeout=60, input=stdin, env={
        **({"SSL_CERT_FILE": trusts} if trusts else {}),
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8",
        "STATE_DIRECTORY": f"{tmp_path}/state", "RUNTIME_DIRECTORY": f"{tmp_path}/runtime"})


def contents(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        files = [(entry.name.removeprefix("iotd/"), archive.extractfile(entry)) for entry in archive]
        return {name: opened.read().decode() for name, opened in files if opened is not None}


def test_what_support_needs_is_in_it_and_no_secret(tmp_path: Path, certificates: Certificates) -> None:
    key = Path(certificates.client.key).read_text()
    (tmp_path / "password").write_text("hunter2hunter2\n")
    text = (f"thing: pi-7  # the comment\nmqtt:\n  host: 127.0.0.1\n  port: 1\n  password_file: {tmp_path}/password\n"
            f"  tls: {{ca: {certificates.ca}, cert: {certificates.client.cert}, key: {certificates.client.key}}}\n"
            "publish: [{topic: a, every: 1s, payload: {api_token: abcdefgh, psk: 'x y z'}}]\n")
    lines = "".join(f'{{"__REALTIME_TIMESTAMP": "1790000000000000", "MESSAGE": "{said}"}}\n' for said in (
        "hunter2hunter2 was told", f"key {key.splitlines()[1]}", "http://user:topsecret@host/", "password=letmein",
        "Authorization: Bearer abcdefghijkl"))
    result = bundle(tmp_path, text, journal=lines)
    [path] = tmp_path.glob("iotd-*-*.tar.gz")
    assert result.returncode == 0, result
    found = contents(path)
    assert set(found) == PARTS and path.stat().st_mode & 0o777 == 0o600 and path.stat().st_size < 2_000_000
    everything = "\n".join(found.values())
    for secret in ("hunter2", "abcdefgh", "x y z", "topsecret", "letmein", *key.splitlines()[1:-1]):
        assert secret not in everything, secret
    assert "the comment" not in found["iotd.yaml"] and "127.0.0.1" in found["iotd.yaml"]
    assert '"cause"' in found["doctor.json"] and "Python 3" in found["versions.txt"]


def test_a_large_journal_stays_below_two_megabytes(tmp_path: Path) -> None:
    noise = "".join(f'{{"__REALTIME_TIMESTAMP": "1790000000000000", "MESSAGE": "{os.urandom(400).hex()}"}}\n'
                    for _ in range(5000))
    assert bundle(tmp_path, "thing: t\nmqtt: {host: 127.0.0.1, port: 1}\n", "b.tar.gz", journal=noise).returncode == 0
    assert (tmp_path / "b.tar.gz").stat().st_size < 2_000_000
    assert len(contents(tmp_path / "b.tar.gz")["journal.txt"]) > 1_000_000


def test_a_file_that_is_there_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    result = bundle(tmp_path, "thing: t\nmqtt: {host: 127.0.0.1, port: 1}\n", "mine")
    assert result.returncode == 1 and "File exists" in result.stderr and (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("text", ["", "mqtt: {prt: 1}\n", "a: [", "\0"])
def test_a_bad_configuration_is_in_it_too(tmp_path: Path, text: str) -> None:
    assert bundle(tmp_path, text, "b.tar.gz").returncode == 0
    assert "configuration" in contents(tmp_path / "b.tar.gz")["doctor.json"]


@pytest.mark.parametrize("text, hidden", [
    ("a: {password: x1, b: 2}\n", "a: {password: '***', b: 2}\n"),
    ("password_file: /etc/x\n", "password_file: /etc/x\n"),
    ("a: 1 # x\n", "a: 1\n"), ("token: [x]\n", "token: [x]\n"), ("&a a: &b {secret: x}\n", "a: {secret: '***'}\n"),
])
def test_a_configuration_without_comments_and_secrets(text: str, hidden: str) -> None:
    assert bare(text).replace("&id001 ", "").replace("&a ", "").replace("&b ", "") == hidden


@pytest.mark.parametrize("text, hidden", [
    ("password: abc", "password: ***"), ('{"token": "abc", "b": 1}', '{"token": ***, "b": 1}'),
    ("wifi-psk=abc def", "wifi-psk=***"), ("mqtts://u:p@h:1", "mqtts://***@h:1"), ("a token is", "a token is"),
    ("password_file: /etc/iotd/x", "password_file: /etc/iotd/x"),
    ("-----BEGIN EC PRIVATE KEY-----\nabc\n-----END EC PRIVATE KEY-----\nb", "***\nb"),
])
def test_what_looks_like_a_secret_is_hidden(text: str, hidden: str) -> None:
    assert without_secrets(text) == hidden


class _Bucket(BaseHTTPRequestHandler):
    """Takes what is put to it, or answers as S3 does to a signature that it does not know."""

    taken: list[tuple[str, bytes]] = []

    def do_PUT(self) -> None:
        """Take a PUT."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.taken.append((self.path, body))
        self.send_response(403 if "expired" in self.path else 200)
        self.end_headers()
        self.wfile.write(b"<Error><Code>AccessDenied</Code><Secret>SIGNATURE</Secret></Error>")

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def bucket(certificates: Certificates) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server.cert, certificates.server.key)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Bucket) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://localhost:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("where, status, told", [
    ("{bucket}/a/b?X-Amz-Signature=SIGNATURE", 0, "bytes are uploaded to localhost"),
    ("{bucket}/expired?X-Amz-Signature=SIGNATURE", 1, "does not take the bundle: 403 Forbidden, AccessDenied"),
    ("https://localhost:1/?X-Amz-Signature=SIGNATURE", 1, "cannot be uploaded: Connection refused"),
    ("http://localhost/?X-Amz-Signature=SIGNATURE", 1, "expected an https:// URL"), ("", 1, "expected an https:// URL"),
])
def test_it_is_uploaded_where_a_job_says_and_the_url_is_shown_nowhere(
    tmp_path: Path, certificates: Certificates, bucket: str, where: str, status: int, told: str
) -> None:
    _Bucket.taken.clear()
    result = bundle(tmp_path, "mqtt: {host: 127.0.0.1, port: 1}\n", "--upload", stdin=where.format(bucket=bucket),
                    trusts=str(certificates.ca))
    assert result.returncode == status and told in result.stdout + result.stderr
    assert "SIGNATURE" not in result.stdout + result.stderr and list(tmp_path.glob("*.tar.gz")) == []
    if status == 0:
        [(path, body)] = _Bucket.taken
        assert path == "/a/b?X-Amz-Signature=SIGNATURE" and tarfile.open(fileobj=io.BytesIO(body)).getnames()


def test_a_server_that_is_not_who_it_says_gets_nothing(tmp_path: Path, bucket: str) -> None:
    _Bucket.taken.clear()
    result = bundle(tmp_path, "mqtt: {host: 127.0.0.1, port: 1}\n", "--upload", stdin=f"{bucket}/a")
    assert result.returncode == 1 and "certificate verify failed" in result.stderr and _Bucket.taken == []
