"""`iotd bundle`: what support needs is in it, and no secret."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from iotd.config.bare import bare, without_secrets
from tests.certificates import Certificates
from tests.running import ROOT

PARTS = {"doctor.json", "iotd.yaml", "versions.txt", "ip.txt", "nmcli.txt", "systemd.txt", "last_reboot.json",
         "journal.txt", "outages.txt"}


def bundle(tmp_path: Path, text: str, *arguments: str, journal: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command in a directory of its own, where this is the journal."""
    for name in ("state", "runtime", "bin"):
        (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / "iotd.yaml").write_text(text)
    (tmp_path / "journal").write_text(journal)
    (tmp_path / "bin/journalctl").write_text(f"#!/bin/sh\ncat {tmp_path}/journal\n")
    (tmp_path / "bin/journalctl").chmod(0o755)
    return subprocess.run([sys.executable, "-m", "iotd", "bundle", "-c", "iotd.yaml", *arguments], cwd=tmp_path,
                          capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, env={
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
