"""The CA file, certificate and private key of TLS, and the files with passwords: what is wrong with them, and what is
made of them.
"""

from __future__ import annotations

import errno
import grp
import os
import re
import ssl
import stat
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path

from iotd.host.identity import name_of, user_name
from iotd.host.unit import HOMES
from iotd.mqtt.settings import SYSTEM_CA, Tls

DAEMON_USER = "iotd"
DIRECTORY = "/etc/iotd"
MAX_BYTES = 1024 * 1024
MAX_PASSWORD_BYTES = 65535  # MQTT 3.1.1, 3.1.3.5

# Forward secret, authenticated, and in every security policy of AWS IoT that has TLS 1.2 (AWS IoT "Transport
# security"). The suites of TLS 1.3 are OpenSSL's three, which are AWS's three as well; `set_ciphers` leaves them alone.
TLS12_SUITES = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
)

_RENEW = {
    "ca": "fetch the current root certificates of the broker",
    "cert": "create a new certificate for this thing",
}
_CERTIFICATE = r"(?s)-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----"
_PRIVATE_KEY = r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----"
# A key that only a chip can use, by the label of its PEM form: what OpenSSL needs to reach it, as Debian calls it.
_PROVIDERS = {"TSS2 PRIVATE KEY": "tpm2-openssl", "PKCS#11 PROVIDER URI": "pkcs11-provider"}
_MOVE = f"put the file into {DIRECTORY}/certs, and write that path"
_PUT = "put the file there, or write its path"
_INSTALL = "install the package ca-certificates"
# A key of another algorithm finds, in OpenSSL's words, no certificate beside it.
_MISMATCHES = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
_UTC_TIME = 0x17  # the other form that RFC 5280 allows, GeneralizedTime, has all four digits of the year


class _Encrypted(Exception):
    """The private key asks for a password."""


def unusable(tls: Tls, alpn: str | None = None, directory: str = DIRECTORY) -> dict[str, str]:
    """Return why the files cannot be used, whatever the time is, by the keys of the configuration.

    `directory` is where advice may change owners and modes.
    """
    with suppress(OSError, ValueError):  # ValueError: a path that the locale cannot say
        context(tls, alpn)
        return {}
    found = {key: problem for key, path in _files(tls).items() if (problem := _file_problem(key, path, directory))}
    if tls.cert and not found.keys() & {"cert", "key"} and (problem := _pair_problem(tls)):
        found["key"] = problem
    return found


def fit(cert: str, key: str) -> bool:
    """Tell whether these are a certificate and its key, and can be read."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password=_refuse_password)
        return True
    except (OSError, ValueError, _Encrypted):
        return False


def expired(tls: Tls, at: float) -> dict[str, str]:
    """Return which certificates have expired at `at`, epoch seconds, by the keys of the configuration; of several CAs
    one good one is enough.

    A file that `unusable` names has no date. A start in the future is no problem: a Pi without a real time clock
    wakes up in the past.
    """
    ends = {"ca": max(_ends_of(tls.ca), default=at), "cert": next(iter(_ends_of(tls.cert)), at)}
    return {key: f"{getattr(tls, key)} expired on {_date(end)}; {_RENEW[key]}, or set the clock"
            for key, end in ends.items() if end < at}


def validity(tls: Tls) -> tuple[float | None, float | None, float | None]:
    """Return when the certificate begins and ends, and when the last authority ends, epoch seconds, None where that
    cannot be told.
    """
    begins_at, ends_at = next(iter(_validities_of(tls.cert)), (None, None)) if tls.cert else (None, None)
    return begins_at, ends_at, max((end for _, end in _validities_of(tls.ca)), default=None)


def password(path: str, directory: str = DIRECTORY) -> bytes:
    """Return the password in this file: its first line without LF or CRLF; blanks belong to it.

    Raises ValueError, which says what is wrong with the file and what to do about it, and nothing of what is in it.
    """
    try:
        line, end, _ = _content(path).partition(b"\n")
    except (OSError, ValueError) as error:
        raise ValueError(_unreadable(path, error, directory, _PUT)) from None
    if end:
        line = line.removesuffix(b"\r")
    if not line:
        raise ValueError(f"{path} is empty; write the password into its first line")
    if len(line) > MAX_PASSWORD_BYTES:
        raise ValueError(f"{path} has a first line of {len(line)} bytes; a password has at most {MAX_PASSWORD_BYTES}")
    return line


def open_to_all(path: str) -> str | None:
    """Return that a file with a secret is open to every user of the host, which works but should not stay so."""
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except (OSError, ValueError):
        return None
    if not mode & stat.S_IRWXO:
        return None
    return f"{path} has mode {mode:04o}, open to every user of this host; run: chmod {mode & 0o640:04o} {path}"


def hidden(path: str) -> str | None:
    """Return that a person may read this file here and the daemon may not: the unit hides it."""
    if not any(Path(path).is_relative_to(place) for place in HOMES):
        return None
    return f"{path} is not there for the daemon: the unit hides home directories (ProtectHome=yes); {_MOVE}"


def context(tls: Tls, alpn: str | None = None) -> ssl.SSLContext:
    """Return the client's side of TLS: peer and name verified against this CA file alone, TLS 1.2 or later.

    `alpn` is the protocol that is asked for (RFC 7301). The same context as long as the files stay as they are. Raises
    OSError or its subclass ssl.SSLError for files that `unusable` would name.
    """
    return _context(tls, alpn, tuple(map(_stamp, _files(tls).values())))


@lru_cache(maxsize=1)
def _context(tls: Tls, alpn: str | None, stamps: tuple[tuple[int, ...], ...]) -> ssl.SSLContext:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.minimum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(":".join(TLS12_SUITES))
    client.load_verify_locations(cafile=tls.ca)
    try:
        if tls.cert:
            client.load_cert_chain(tls.cert, tls.key, password=_refuse_password)
    except _Encrypted:
        raise ssl.SSLError(f"{tls.key} is protected by a password") from None
    if alpn:
        client.set_alpn_protocols([alpn])
    return client


def _files(tls: Tls) -> dict[str, str]:
    """Return the paths that there are, by the keys of the configuration."""
    return {key: path for key, path in zip(tls._fields, tls) if path}


def _stamp(path: str) -> tuple[int, ...]:
    """Return what is another as soon as the file is. Raises OSError, also for what may never end."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EINVAL, "no regular file")
    if found.st_size > MAX_BYTES:
        raise OSError(errno.EFBIG, f"larger than {MAX_BYTES} bytes")
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _content(path: str) -> bytes:
    """Return what is in the file. Raises OSError; ValueError for a path that the locale cannot say."""
    _stamp(path)
    return Path(path).read_bytes()


def _refuse_password() -> str:
    # Without a password function OpenSSL asks at the terminal, and a daemon would wait there for ever.
    raise _Encrypted


def _file_problem(key: str, path: str, directory: str) -> str | None:
    try:
        content = _content(path)
    except (OSError, ValueError) as error:
        return _unreadable(path, error, directory, _INSTALL if path == SYSTEM_CA else _PUT)
    kind, pattern = ("private key", _PRIVATE_KEY) if key == "key" else ("certificate", _CERTIFICATE)
    text = content.decode("ascii", "replace")
    for label, provider in _PROVIDERS.items() if key == "key" else ():
        if f"-----BEGIN {label}-----" in text:
            return f"{path} stands for a key in a chip ({label}), which OpenSSL did not reach: it needs the package " \
                   f"{provider}, OPENSSL_CONF and access to the device; see KEYS IN A CHIP in iotd.yaml(5)"
    if not re.search(pattern, text):
        hint = ""
        if content[:1] == b"\x30":
            hint = f"; convert it: openssl {'pkey' if key == 'key' else 'x509'} -inform der -in {path}"
        elif re.search(_CERTIFICATE if key == "key" else _PRIVATE_KEY, text):
            hint = f", but a {'certificate' if key == 'key' else 'private key'}; have cert and key changed places?"
        return f"{path} holds no {kind} in PEM form{hint}"
    if key != "key":
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
        except ssl.SSLError:
            return f"{path} holds a damaged certificate; copy the file again"
    return None


def _pair_problem(tls: Tls) -> str | None:
    """Judge the private key, given a certificate that is in order."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(tls.cert, tls.key, password=_refuse_password)
    except _Encrypted:
        return f"{tls.key} is protected by a password, which nobody can type at a boot; " \
               f"remove it: openssl pkey -in {tls.key} -out {tls.key}"
    except ssl.SSLError as error:
        if error.reason in _MISMATCHES:
            return f"{tls.key} does not fit the certificate {tls.cert}; the two come as a pair"
        return f"{tls.key} cannot be used with {tls.cert}: {error.reason or error}; copy both again"
    return None


def _unreadable(path: str, error: OSError | ValueError, directory: str, missing: str) -> str:
    """Say why a file cannot be read, and what to do: `missing` where there is none."""
    if isinstance(error, PermissionError):
        return _permission_problem(path, directory)
    if isinstance(error, FileNotFoundError):
        return hidden(path) or f"{path} does not exist; {missing}"
    return f"{path} cannot be read: {error.strerror if isinstance(error, OSError) else error}"


def _permission_problem(path: str, directory: str) -> str:
    """Say who may not read `path`, and mend the outermost directory that is in the way, else the file.

    Only what is ours is mended: another owner of a home directory, or of /etc, would lock its own users out.
    """
    user, group = user_name(), name_of(grp.getgrgid, os.getegid())
    other = "" if user == DAEMON_USER else f"check as the daemon's user (sudo -u {DAEMON_USER} iotd check), or "
    with suppress(KeyError):  # a person who asks `iotd check` is not to take the file away from the daemon
        group = grp.getgrnam(DAEMON_USER).gr_name
    shut = next((place for place in reversed(Path(path).parents) if not os.access(place, os.X_OK, effective_ids=True)),
                None)
    place, mode = (str(shut), "0750") if shut else (path, "0640")
    if os.path.commonpath([directory, os.path.realpath(place)]) != directory:
        return hidden(path) or f"user {user} may not read {path}; {other}{_MOVE}"
    if other and _is_for(group, place):
        return f"user {user} may not read {path}, and group {group} may; look as the daemon does: sudo iotd check"
    return f"user {user} may not read {path}; {other}run: chown root:{group} {place} && chmod {mode} {place}"


def _is_for(group: str, place: str) -> bool:
    """Tell whether a group may read a file, or go through a directory."""
    try:
        found = os.stat(place)
        needed = stat.S_IXGRP if stat.S_ISDIR(found.st_mode) else stat.S_IRGRP
        return found.st_gid == grp.getgrnam(group).gr_gid and bool(found.st_mode & needed)
    except (OSError, KeyError):
        return False


def _ends_of(path: str) -> list[float]:
    return [end for _, end in _validities_of(path)]


def _validities_of(path: str) -> list[tuple[float, float]]:
    """Return when each certificate in a PEM file begins and ends, epoch seconds; nothing where that cannot be told."""
    try:
        blocks = re.findall(_CERTIFICATE, _content(path).decode("ascii", "replace"))
        return [_validity_of(ssl.PEM_cert_to_DER_cert(block)) for block in blocks]
    except (OSError, LookupError, ValueError):
        return []


def _validity_of(certificate: bytes) -> tuple[float, float]:
    """Return notBefore and notAfter of a DER certificate (RFC 5280 4.1), epoch seconds. Raises ValueError, IndexError.

    The standard library decodes certificates of a peer alone; `ssl._ssl._test_decode_cert` is there for CPython's
    own tests, and may go with any release. The way there, in a format that has been fixed since 1988, is short.
    """
    (_, body), *_ = _fields(certificate)
    (_, to_be_signed), *_ = _fields(body)
    # version (left out in v1), serial number, algorithm, issuer, validity
    fields = [content for tag, content in _fields(to_be_signed) if tag != 0xA0]
    begin, end = (_moment(tag, content) for tag, content in _fields(fields[3]))
    return begin, end


def _moment(tag: int, content: bytes) -> float:
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text >= "50" else "20") + text
    return datetime.fromisoformat(f"{text[:8]}T{text[8:]}").timestamp()


def _fields(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Return the tag and content of each DER element, one after the other."""
    while content:
        tag, length, start = content[0], content[1], 2
        if length & 0x80:
            start += length & 0x7F
            length = int.from_bytes(content[2:start], "big")
        yield tag, content[start:start + length]
        content = content[start + length:]


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
