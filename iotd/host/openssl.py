"""What the openssl command is asked for: what a certificate or a private key is, new keys, requests for certificates.

Nothing touches a file: all of it goes through pipes.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import NamedTuple

from iotd.host import command

TIMEOUT_S = 30.0  # a key of RSA takes a Pi Zero some seconds
MAX_BYTES = 65536
KEYS = {"ec-p256": ("EC", "ec_paramgen_curve:P-256"), "rsa-2048": ("RSA", "rsa_keygen_bits:2048")}


class Certificate(NamedTuple):
    """Names as RFC 2253 writes them, `name` the common name alone, empty where there is none; epoch seconds;
    `public_key` in PEM form.
    """

    subject: str
    issuer: str
    name: str
    begins_at: float
    ends_at: float
    is_authority: bool
    public_key: str


def certificate(pem: str) -> Certificate:
    """Return what a certificate says of itself. Raises ValueError, which says why it cannot be read."""
    said = _said(["x509", "-noout", "-subject", "-issuer", "-startdate", "-enddate", "-dateopt", "iso_8601", "-nameopt",
                  "RFC2253,utf8,-esc_msb", "-ext", "basicConstraints", "-pubkey"], pem)
    fields = dict(re.findall(r"(?m)^(subject|issuer|notBefore|notAfter)=(.*)$", said))
    name = re.search(r"(?:^|[,+])CN=((?:\\.|[^,+\\])*)", fields.get("subject", ""))
    try:
        begins_at, ends_at = (datetime.fromisoformat(fields[end]).timestamp() for end in ("notBefore", "notAfter"))
        public_key = said[said.index("-----BEGIN"):].strip()
    except (KeyError, ValueError, OverflowError):
        raise ValueError("openssl makes no sense of it") from None
    return Certificate(fields["subject"], fields["issuer"], re.sub(r"\\(.)", r"\1", name[1]) if name else "", begins_at,
                       ends_at, re.search(r"(?m)^ +CA:TRUE", said) is not None, public_key)


def public_key(pem: str) -> str:
    """Return the public half of a private key, in PEM form. Raises ValueError, also for one with a passphrase."""
    return _said(["pkey", "-pubout", "-passin", "pass:"], pem).strip()


def new_key(kind: str) -> str:
    """Return a new private key in PEM form, of one of the `KEYS`. Raises ValueError where that cannot be."""
    algorithm, option = KEYS[kind]
    return _said(["genpkey", "-quiet", "-algorithm", algorithm, "-pkeyopt", option], "")


def request(key: str, name: str) -> str:
    """Return a request (PKCS #10, PEM) for a certificate of this key with this common name. Raises ValueError."""
    name = re.sub(r"[^A-Za-z0-9:._-]", "_", name)[:64]
    return _said(["req", "-new", "-sha256", "-key", "/dev/stdin", "-subj", f"/CN={name}"], key)


def _said(words: list[str], given: str) -> str:
    ended = command.run(["openssl", *words], TIMEOUT_S, given=given.encode(), apart=True, keep_bytes=MAX_BYTES)
    said = ended.data.decode("utf-8", "replace")
    if ended.reason or not said.strip():
        raise ValueError(ended.reason or "openssl says nothing")
    return said
