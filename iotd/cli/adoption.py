"""Which of many files are the certificate, the key and the authorities of this device, whose they are and of which
broker, and what becomes of the configuration. By what is in them; of a name only the thing's is taken. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import NamedTuple

from iotd.config import edit, layers
from iotd.config.base import is_placeholder
from iotd.host.openssl import Certificate
from iotd.mqtt.addresses import host_problem
from iotd.mqtt.settings import SYSTEM_CA, Tls
from iotd.mqtt.topics import thing_problem

MAX_BLOCKS = 500  # of PEM, in all: what a system holds as authorities, and more
NAMED_BY_AWS = "AWS IoT Certificate"  # the common name of every certificate that AWS makes
DEFAULT_THING = "{hostname}"

_BLOCK = r"-----BEGIN ([A-Z0-9 #.]{1,40})-----\r?\n.+?-----END \1-----"
_ENDPOINT = r"(?<![\w.-])[a-z0-9-]{1,63}\.iot(?:-fips)?\.[a-z0-9-]{1,40}\.amazonaws\.com(?:\.cn)?(?![\w-])"
_THING_NAMES = (r"(.+)\.cert\.pem", r"(.+)\.private\.key", r"(.+)-Policy")
_PEM, _DER = "-----BEGIN ", b"\x30"


class Refused(Exception):
    """Nothing can be adopted; each of the lines says why, and what to do."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class Item(NamedTuple):
    """A file, or what stood for one in a package: how it is named to a person, and what is in it."""

    name: str
    content: bytes


class Block(NamedTuple):
    """A piece of PEM, with the name of its file."""

    file: str
    label: str
    pem: str

    @property
    def is_key(self) -> bool:
        """Whether it is a private key."""
        return self.label.endswith("PRIVATE KEY")

    @property
    def is_protected(self) -> bool:
        """Whether it is a private key that asks for a passphrase."""
        return self.is_key and (self.label.startswith("ENCRYPTED") or "ENCRYPTED" in self.pem[:200])


class Known(NamedTuple):
    """A certificate, and what it says of itself."""

    block: Block
    says: Certificate


class Key(NamedTuple):
    """A private key, and its public half."""

    block: Block
    public_key: str


class Chosen(NamedTuple):
    """What is to be put into place, as PEM, and the names of the files that certificate and key come from; no
    authorities where there are none.
    """

    cert: str
    cert_file: str
    key: str
    key_file: str
    authorities: tuple[str, ...]
    name: str  # the certificate's


def blocks(items: Iterable[Item]) -> list[Block]:
    """Return the certificates and private keys in PEM form, each once."""
    found: dict[str, Block] = {}
    for item in items:
        for piece in re.finditer(_BLOCK, item.content.decode("latin-1"), re.DOTALL):
            block = Block(item.name, piece[1], piece[0].replace("\r", "") + "\n")
            if block.is_key or block.label in ("CERTIFICATE", "X509 CERTIFICATE"):
                found.setdefault(block.pem, block)
            if len(found) > MAX_BLOCKS:
                raise Refused(f"these are more than {MAX_BLOCKS} certificates and keys; name the files of this device")
    return list(found.values())


def same(content: bytes, other: bytes) -> bool:
    """Tell whether two files hold the same certificates and keys, whatever stands beside them."""
    return [block.pem for block in blocks([Item("", content)])] == [block.pem for block in blocks([Item("", other)])]


def other_forms(items: Iterable[Item]) -> list[str]:
    """Return what to do about each file that may hold a certificate or a key in another form than PEM."""
    return [f"{item.name} is no PEM file, perhaps DER; a certificate is converted by openssl x509 -inform der -in FILE "
            "-out FILE.pem, a key by openssl pkey -inform der -in FILE -out FILE.pem, a .p12 or .pfx by openssl pkcs12 "
            "-nodes -in FILE -out FILE.pem" for item in items if item.content[:1] == _DER and len(item.content) > 60]


def chosen(
    certificates: Sequence[Known], keys: Sequence[Key], faults: Sequence[str], now: float, clock_is_set: bool
) -> Chosen:
    """Return the one fitting pair that is in force, and the authorities. Raises Refused.

    `faults` are files of no use, each with why. A clock that nobody has set is behind: it can tell that a certificate
    has ended, and not that one has yet to begin.
    """
    pairs = [(known, key) for known in certificates for key in keys
             if known.says.public_key == key.public_key and not known.says.is_authority]
    if not pairs:
        raise Refused(*_no_pair(certificates, keys), *faults)
    problems = {known.block: _out_of_force(known, now, clock_is_set) for known, _ in pairs}
    good = [(known, key) for known, key in pairs if not problems[known.block]]
    if not good:
        raise Refused(*dict.fromkeys(filter(None, problems.values())))
    if len(good) > 1:
        raise Refused("there is more than one certificate with its key; name the files of the one that is meant:",
                      *(f"  {known.block.file} with {key.block.file}" for known, key in good))
    [(known, key)] = good
    beside = [other for other in certificates if other.block.file == known.block.file and other is not known
              and other.says.subject != other.says.issuer]
    authorities = [other.block.pem for other in certificates if other.says.is_authority and other not in beside]
    return Chosen(known.block.pem + "".join(other.block.pem for other in beside), known.block.file, key.block.pem,
                  key.block.file, tuple(authorities), known.says.name)


def thing_of(choice: Chosen, items: Iterable[Item]) -> str:
    """Return the thing's name, as the console names its files, else as the certificate has it; nothing for none."""
    names = [choice.cert_file, choice.key_file, *(item.name for item in items if item.name.endswith("-Policy"))]
    for name in names:
        for pattern in _THING_NAMES:
            found = re.fullmatch(pattern, re.split(r"[/\\]", name)[-1])
            if found and thing_problem(found[1], True) is None:
                return found[1]
    name = choice.name
    return name if name != NAMED_BY_AWS and thing_problem(name, True) is None else ""


def host_of(given: str | None, items: Iterable[Item]) -> str:
    """Return the broker's name: as it was given, else the one endpoint of AWS that a file mentions; nothing for none.

    Raises Refused for what is no name of a host, and for several.
    """
    if given is not None:
        is_more = not given or re.search(r"[\s/@]|^[^:]*:[^:]*$", given)
        problem = "expected the name or address of the broker alone" if is_more else host_problem(given)
        if problem:
            raise Refused(f"--host {given!r}: {problem}")
        return given
    found = {name for item in items if b"\0" not in item.content
             for name in re.findall(_ENDPOINT, item.content.decode("latin-1"))}
    found = {name for name in found if not is_placeholder(name) and not re.match(r"[^.]+\.credentials\.", name)}
    if len(found) > 1:
        raise Refused(f"the files mention more than one endpoint: {', '.join(sorted(found)[:8])}; give --host")
    return min(found, default="")


def places(text: str) -> Tls:
    """Return the three paths that the configuration has, or the default ones. Raises Refused, Unreadable."""
    if edit.stands(text, "provision"):
        raise Refused("the configuration has provision, by which the device gets a certificate of its own; leave that "
                      "out to bring one")
    default = Tls()
    written = {name: edit.found(text, "mqtt", "tls", name) or path for name, path in default._asdict().items()}
    if written["cert"] == "none":
        raise Refused("mqtt.tls.cert is none: this broker asks for no certificate; leave that line out to bring one")
    for name, path in written.items():
        if not path.startswith("/") and (name, path) != ("ca", "system"):
            raise Refused(f"mqtt.tls.{name}: expected a path from /, found {path!r}")
    return Tls(SYSTEM_CA if written["ca"] == "system" else written["ca"], written["cert"], written["key"])


def configured(
    text: str, above: Sequence[tuple[str, str]], host: str, thing: str, force: bool
) -> tuple[str, list[str]]:
    """Return the configuration with this host and this thing where they are known, and what has changed in it.

    `above` are the files that lie on top of it, each with its text. Raises Refused for what was written before, unless
    `force`d, and for what one on top says otherwise; Unreadable.
    """
    changes, in_the_way = [], []
    whole = layers.text_of(layers.merged(text, above))
    for path, value, unwritten in ((("thing",), thing, (DEFAULT_THING,)), (("mqtt", "host"), host, ())):
        before = edit.found(whole, *path)
        if not value or before == value:
            continue
        name = ".".join(path)
        on_top = [file for file, other in above if edit.stands(other, *path)]
        if on_top:
            in_the_way.append(f"{name} is {before!r} in {on_top[-1]}, which lies on top of this file; write {value!r} "
                              "there")
            continue
        if before and before not in unwritten and not (path[-1] == "host" and is_placeholder(before)) and not force:
            in_the_way.append(f"{name} is {before!r}, and would become {value!r}; --force writes it all the same")
        text = edit.written(text, edit.scalar(value), *path)
        changes.append(f"{name}: {value}")
    if not edit.stands(whole, "mqtt", "tls"):
        text = edit.written(text, "{}", "mqtt", "tls")
        changes.append("mqtt.tls: {}")
    if in_the_way:
        raise Refused(*in_the_way)
    return text, changes


def _no_pair(certificates: Sequence[Known], keys: Sequence[Key]) -> list[str]:
    leaves = [known for known in certificates if not known.says.is_authority]
    if leaves and keys:
        return [f"{known.block.file} and {key.block.file} do not fit, the key is another certificate's; the two come "
                "as a pair" for known in leaves[:4] for key in keys[:4]]
    if leaves:
        return [f"{known.block.file} has no private key beside it; it is handed out once, with the certificate"
                for known in leaves[:8]]
    if keys:
        return [f"{key.block.file} has no certificate beside it" for key in keys[:8]]
    return ["there is neither a certificate nor a private key in PEM form"]


def _out_of_force(known: Known, now: float, clock_is_set: bool) -> str:
    if known.says.ends_at < now:
        return f"{known.block.file} expired on {_date(known.says.ends_at)}; create a new certificate for this thing"
    if known.says.begins_at > now and clock_is_set:
        return f"{known.block.file} is not in force before {_date(known.says.begins_at)}, and here it is " \
               f"{_date(now)}; set the clock: timedatectl"
    return ""


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
