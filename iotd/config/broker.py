"""The way to a broker and the login there, as the file says them: TLS, user name, password file, proxy. Nothing of what
may be a secret is repeated in a problem.
"""

from __future__ import annotations

import re
from typing import NoReturn

from iotd.config.document import Cursor, Reader, Wrong, quoted
from iotd.config.readers import file_path, text, whole
from iotd.config.section import Note, note_if
from iotd.config.settings import Settings
from iotd.mqtt import topics
from iotd.mqtt.addresses import host_problem, is_loopback
from iotd.mqtt.settings import PROXY_PORT, SYSTEM_CA, Proxy, Tls

ALPN_PORT = 443
ALPN = "x-amzn-mqtt-ca"  # AWS IoT Core "Protocols, port mappings, and authentication"

_MAX_ALPN_BYTES = 255  # RFC 7301, 3.1
_URL = r"(?:([A-Za-z0-9]+)://)?(?:(.*)@)?(\[[^\]]*\]|[^:/]*)(?::([0-9]{1,5}))?/?"


def tls(at: Cursor) -> Tls:
    """Read the three files; `cert: none` is TLS in which the broker alone shows a certificate."""
    written = Tls(**at.fields({"ca": ("ca", _authority), "cert": ("cert", _certificate), "key": ("key", file_path)}))
    has_key = "key" in at.keys()
    if not written.cert:
        if has_key:
            at.document.note(f"{at.path}.key", "belongs to a certificate, and mqtt.tls.cert is none; leave the key "
                                               "out, or write the path of its certificate under mqtt.tls.cert")
        return written._replace(key="")
    if has_key and "cert" not in at.keys():
        at.document.note(f"{at.path}.key", "stands there without its certificate; write mqtt.tls.cert beside it, or "
                                           "leave both out for the two default paths")
    return written


def proxy(at: Cursor) -> Proxy:
    """Read an HTTP proxy."""
    if not at.is_mapping():
        raise Wrong(f"expected a mapping of keys; {_meant(at)}")
    return Proxy(**at.fields({
        "host": ("host", _proxy_host),
        "port": ("port", whole(1, 65535)),
        "username": ("username", text),
        "password": ("", password),
        "password_file": ("password_file", password_file),
    }, host=""))


def password_file(at: Cursor) -> str:
    """Read the path of a file with a password, from /. What is no path may be the password, and is not repeated."""
    written = at.scalar()
    if not isinstance(written, str) or not re.fullmatch(r"/[^\0]*", written, re.DOTALL):
        raise Wrong("expected the path of a file, from /; the password itself stands in that file, on its first line")
    return written


def never(why: str) -> Reader[NoReturn]:
    """Return a reader of a key that is always wrong."""
    def read(at: Cursor) -> NoReturn:
        raise Wrong(why)
    return read


password = never(
    "is not read from this file; write it alone into the first line of a file that the daemon may read (root:iotd, "
    "mode 0640), and name that: password_file: /etc/iotd/certs/password")


def alpn(at: Cursor) -> str:
    """Read the name of a protocol that TLS is to ask for."""
    written = text(at)
    if not written.isascii() or not written.isprintable() or len(written) > _MAX_ALPN_BYTES:
        raise Wrong(f"expected the name of a protocol, such as {ALPN} or mqtt, found {quoted(written)}")
    return written


def path(at: Cursor) -> str:
    """Read the path of a websocket (RFC 9112, 3.2.1)."""
    written = text(at)
    if not re.fullmatch("/[!-~]{0,2000}", written):
        raise Wrong("expected a path from /, of ASCII without blanks, such as /mqtt")
    return written


def check(settings: Settings, note: Note) -> None:
    """Note what does not go together."""
    mqtt, proxy = settings.mqtt, settings.mqtt.proxy
    if mqtt.client_id is not None:
        note_if(note, "mqtt.client_id", topics.client_id_problem(mqtt.client_id, mqtt.aws_limits))
    if mqtt.username is not None:
        note_if(note, "mqtt.username", topics.username_problem(mqtt.username))
    if mqtt.alpn and not mqtt.tls:
        note("mqtt.alpn", "is a part of TLS, and there is no mqtt.tls; add that section, or leave out mqtt.alpn")
    for key, login in (("mqtt", mqtt), ("mqtt.proxy", proxy)):
        if login is not None and login.password_file and login.username is None:
            note(f"{key}.password_file", f"stands there without a user name; write {key}.username beside it")
    if proxy is not None and proxy.username is not None and re.search(r"[:\x00-\x1f\x7f]", proxy.username):
        note("mqtt.proxy.username", "has a colon or a control character, which basic authentication cannot say "
                                    "(RFC 7617, 2)")


def warnings(settings: Settings) -> list[tuple[str, str]]:
    """Return what works and should not stay so, with its key."""
    mqtt, found = settings.mqtt, []
    if not mqtt.tls and not is_loopback(mqtt.host):
        key, what = ("mqtt.tls", "what is sent") if mqtt.username is None else ("mqtt.username", "it and the password")
        found.append((key, f"there is no mqtt.tls, and {mqtt.host} is not this host: whoever is on the way can read "
                           f"{what}, and say anything in the broker's name; add tls: {{ca: system, cert: none}} where "
                           "the broker has TLS"))
    if mqtt.tls and mqtt.aws_limits and (mqtt.transport, mqtt.port) == ("tcp", ALPN_PORT) and not mqtt.alpn:
        found.append(("mqtt.port", f"AWS IoT takes MQTT on port {ALPN_PORT} with ALPN alone, which iotd sends unasked "
                                   f"to the names of AWS, and {mqtt.host} is none; write alpn: {ALPN}"))
    return found


def without_user(url: str) -> str:
    """Return what is left of a URL when user name and password are taken out, to be repeated in a problem."""
    return re.sub(r"^(\w+://)?.*@", r"\1", url, flags=re.DOTALL)


def _authority(at: Cursor) -> str:
    written = file_path(at)
    return SYSTEM_CA if written == "system" else written


def _certificate(at: Cursor) -> str:
    if at.is_empty():
        raise Wrong("expected a path, found nothing; write none for a broker that asks for no certificate")
    written = file_path(at)
    return "" if written == "none" else written


def _proxy_host(at: Cursor) -> str:
    written = text(at)
    if re.search(r"[\s/@]|^[^:]*:[^:]*$", written):
        raise Wrong(f"expected the name or address of the proxy alone; {_meant(at)}")
    problem = host_problem(written)
    if problem:
        raise Wrong(problem)
    return written


def _meant(at: Cursor) -> str:
    """Say how a proxy is written that stands there as a URL, or in any other form."""
    written = at.scalar()
    found = re.fullmatch(_URL, written) if isinstance(written, str) else None
    scheme, user, host, port = (part or "" for part in found.groups()) if found else ("", "", "", "")
    host = host.strip("[]")
    if not host or host_problem(host):
        host, port = "proxy.example", ""
    login = ", username: …, password_file: /etc/iotd/certs/proxy-password" if user else ""
    only = "" if scheme.lower() in ("", "http") else "; iotd passes those proxies alone that take HTTP CONNECT"
    return f"write proxy: {{host: {host}, port: {port or PROXY_PORT}{login}}}{only}"
