"""Throwaway certificates, made with the openssl command: an authority, and what it issues to servers and things.

What a fault test wants is a parameter of `Authority.issue`: dates in the past or the future, the wrong names,
another authority, a long or a large chain.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Sequence

LOOPBACK = ("DNS:localhost", "IP:127.0.0.1", "IP:::1")
EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
RSA = ("-newkey", "rsa:2048")

_CONFIG = """\
[req]
distinguished_name = subject
[subject]
[ca]
default_ca = authority
[authority]
database = {directory}/index.txt
new_certs_dir = {directory}
rand_serial = yes
unique_subject = no
default_md = sha256
policy = policy
[policy]
commonName = supplied
"""
_CA_EXTENSIONS = """\
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
"""
_LEAF_EXTENSIONS = """\
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = serverAuth, clientAuth
authorityKeyIdentifier = keyid
"""


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate, followed in its file by the intermediates that lead to the root, and its private key (PEM)."""

    cert: Path
    key: Path


class Authority:
    """A certificate authority in a directory of its own; a root, or an intermediate below `issuer`.

    Files of an earlier authority in that directory are removed.
    """

    def __init__(
        self, directory: Path, name: str = "throwaway root", issuer: Authority | None = None, key: Sequence[str] = EC
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        for leftover in directory.iterdir():
            leftover.unlink()
        (directory / "index.txt").touch()
        self._config = directory / "openssl.cnf"
        self._config.write_text(_CONFIG.format(directory=directory))
        self._directory = directory
        self._issuer = issuer
        self.own = Identity(directory / "ca.pem", directory / "ca.key")
        _sign(self.own, name, _CA_EXTENSIONS, issuer or self, timedelta(days=-3650), timedelta(days=3650), key)

    @property
    def config(self) -> Path:
        """The configuration of `openssl ca` for this authority."""
        return self._config

    @property
    def root(self) -> Path:
        """The certificate that a client has to trust."""
        return self._issuer.root if self._issuer else self.own.cert

    @property
    def chain(self) -> bytes:
        """The intermediates from this authority up to the root, which is left out (PEM)."""
        return self.own.cert.read_bytes() + self._issuer.chain if self._issuer else b""

    def issue(
        self,
        name: str,
        names: Sequence[str] = (),
        *,
        starts: timedelta = timedelta(days=-1),
        ends: timedelta = timedelta(days=30),
        key: Sequence[str] = EC,
    ) -> Identity:
        """Return a new certificate with `name` as its common name, written beside the authority's own.

        `names` are the subject alternative names, `starts` and `ends` its validity seen from now,
        `key` is EC or RSA. Raises subprocess.CalledProcessError with openssl's words in `stderr`.
        """
        earlier = len(list(self._directory.glob(f"{name}*.key")))
        stem = f"{name}-{earlier}" if earlier else name
        identity = Identity(self._directory / f"{stem}.pem", self._directory / f"{stem}.key")
        alternatives = f"subjectAltName = {', '.join(names)}\n" if names else ""
        _sign(identity, name, _LEAF_EXTENSIONS + alternatives, self, starts, ends, key)
        with identity.cert.open("ab") as file:
            file.write(self.chain)
        return identity

    def certify(self, request: str, *, name: str = "", ends: timedelta = timedelta(days=9000)) -> str:
        """Return a certificate (PEM) for a request that somebody has made with a key of their own, with `name` as its
        common name, else that of the request.

        Raises subprocess.CalledProcessError for what is no request.
        """
        place = self._directory / f"request-{len(list(self._directory.glob('request-*.csr')))}.csr"
        place.write_text(request)
        extensions = place.with_suffix(".ext")
        extensions.write_text(_LEAF_EXTENSIONS)
        _openssl("ca", "-batch", "-notext", "-config", str(self._config), "-extfile", str(extensions), "-in",
                 str(place), "-out", str(place.with_suffix(".pem")), "-keyfile", str(self.own.key), "-cert",
                 str(self.own.cert), "-startdate", _date(timedelta(days=-1)), "-enddate", _date(ends),
                 *(("-subj", f"/CN={name}") if name else ()))
        return place.with_suffix(".pem").read_text()


@dataclass(frozen=True, slots=True)
class Certificates:
    """What one broker and one thing need to trust each other."""

    authority: Authority
    ca: Path
    server: Identity
    client: Identity


def make_certificates(
    directory: Path,
    thing: str = "test-thing",
    *,
    names: Sequence[str] = LOOPBACK,
    starts: timedelta = timedelta(days=-1),
    ends: timedelta = timedelta(days=30),
    key: Sequence[str] = EC,
    intermediates: int = 0,
) -> Certificates:
    """Return an authority, a server certificate for loopback and a client certificate for `thing`.

    The keywords shape the server's certificate; the client's is always in order.
    """
    root = Authority(directory / "root", key=key)
    signer = root
    for number in range(intermediates):
        signer = Authority(directory / f"intermediate-{number}", f"throwaway intermediate {number}", signer, key)
    return Certificates(
        authority=root,
        ca=root.root,
        server=signer.issue("server", names, starts=starts, ends=ends, key=key),
        client=root.issue(thing),
    )


def _sign(
    identity: Identity,
    name: str,
    extensions: str,
    signer: Authority,
    starts: timedelta,
    ends: timedelta,
    key: Sequence[str],
) -> None:
    """Make a key and have `signer` certify it; an authority that signs its own key is a root.

    `openssl ca` rather than `openssl x509`, which takes dates only since OpenSSL 3.4.
    """
    request, extension_file = identity.cert.with_suffix(".csr"), identity.cert.with_suffix(".ext")
    extension_file.write_text(extensions)
    config = str(signer.config)
    _openssl("req", "-new", "-nodes", *key, "-config", config, "-subj", f"/CN={name}",
             "-keyout", str(identity.key), "-out", str(request))
    own = ["-selfsign"] if identity is signer.own else ["-cert", str(signer.own.cert)]
    _openssl("ca", "-batch", "-notext", "-config", config, "-extfile", str(extension_file), "-in", str(request),
             "-out", str(identity.cert), "-keyfile", str(signer.own.key), *own,
             "-startdate", _date(starts), "-enddate", _date(ends))


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


def _date(offset: timedelta) -> str:
    return (datetime.now(timezone.utc) + offset).strftime("%Y%m%d%H%M%SZ")
