"""Keys and certificates as provisioning needs them, by the openssl command; for a thread that may wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from iotd.host import log, openssl
from iotd.provision.renewal import Life


class Adapters(NamedTuple):
    """What is asked of openssl: a new key of a kind, the request for its certificate under a name, what a certificate
    says, the public half of a key. All of it raises ValueError.
    """

    new_key: Callable[[str], str] = openssl.new_key
    request: Callable[[str, str], str] = openssl.request
    certificate: Callable[[str], openssl.Certificate] = openssl.certificate
    public_key: Callable[[str], str] = openssl.public_key


class KeyMade(NamedTuple):
    """A key and the request for its certificate, or why there is none."""

    key: str
    csr: str
    problem: str = ""


class Looked(NamedTuple):
    """What a certificate says, or why it is of no use."""

    certificate: str
    token: str
    life: Life | None
    problem: str = ""


def make_key(adapters: Adapters, kind: str, name: str, stop: int | None = None) -> KeyMade:
    """Make a key and the request for its certificate."""
    try:
        key = adapters.new_key(kind)
        return KeyMade(key, adapters.request(key, name))
    except ValueError as error:
        return KeyMade("", "", f"no key can be made: {error}")


def look(adapters: Adapters, certificate: str, token: str, key: str, stop: int | None = None) -> Looked:
    """Find out whether the certificate is the key's, and how long it lasts."""
    try:
        says = adapters.certificate(certificate)
        if says.public_key != adapters.public_key(key):
            return Looked(certificate, token, None, "the certificate that came is another key's")
        return Looked(certificate, token, Life(says.begins_at, says.ends_at))
    except ValueError as error:
        return Looked(certificate, token, None, f"the certificate that came cannot be read: {error}")


def no_key(text: str) -> KeyMade:
    """Return that a bug has kept a key from being made; `text` is its traceback."""
    return KeyMade("", "", _bug(text))


def no_look(text: str) -> Looked:
    """Return that a bug has kept a certificate from being looked at; `text` is its traceback."""
    return Looked("", "", None, _bug(text))


def _bug(text: str) -> str:
    log.error("daemon.fault", "a bug in iotd ended a step of provisioning, which is tried again", traceback=text)
    return "a bug in iotd, which the journal tells of"
