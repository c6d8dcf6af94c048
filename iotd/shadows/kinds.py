"""The kinds of checks, one table: how each is written in the YAML, and how it looks. A new kind is a line here."""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from iotd.config.document import Cursor, Reader, Wrong, quoted
from iotd.config.readers import boolean, command, duration, number, path, size, text, timeout
from iotd.errors import nearest
from iotd.host.command import last_line
from iotd.host.facts import HOST, Roots
from iotd.mqtt.addresses import host_problem
from iotd.shadows import checks, gateway
from iotd.shadows.findings import CheckResult, Finding
from iotd.shadows.section import Check

Look = Callable[[Check, int | None, Roots], Finding]


class Kind(NamedTuple):
    """One kind: `read` reads what stands under its own key, `look` makes it; it may wait unless it is `quick`.

    `look` is None where the kernel is asked for a value. `limit` is the key that is required with it, and its reader;
    `options` are keys that may stand beside it instead, and together are the limit. `named` gives what follows the kind
    in the name of a check that has none. No timeout may be shorter than `timeout_s` where that is given. `impossible`
    tells why one can never be made on this host, None where it can.
    """

    read: Reader[Any]
    look: Look | None
    limit: tuple[str, Reader[Any]] | None = None
    options: Mapping[str, Reader[Any]] = {}
    named: Callable[[Any], str] = str
    quick: bool = False
    timeout_s: float = 0.0
    impossible: Callable[[Any], str | None] = lambda subject: None


_PORTS = {"http": "80", "https": "443", "mqtt": "1883", "mqtts": "8883"}


def _process(at: Cursor) -> str:
    name = text(at)
    if "/" in name:
        raise Wrong(f"expected a name without its path, as `ps -o comm` prints it, found {quoted(name)}")
    return name


def _endpoint(at: Cursor) -> tuple[str, int]:
    written = text(at)
    scheme, is_url, rest = written.partition("://")
    if is_url:
        place = rest.partition("/")[0].rpartition("@")[2]
        meant = place if re.search(":[0-9]+$", place) else f"{place}:{_PORTS.get(scheme, 'PORT')}"
        raise Wrong(f"expected HOST:PORT, found the URL {quoted(written)}; write {quoted(meant)}")
    host, _, port = written.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not host or not re.fullmatch("[0-9]{1,5}", port, re.ASCII) or not 0 < int(port) < 65536:
        raise Wrong(f"expected HOST:PORT such as localhost:8080 or [::1]:8080, found {quoted(written)}")
    problem = host_problem(host)
    if problem:
        raise Wrong(problem)
    return host, int(port)


def _celsius(at: Cursor) -> float:
    written = at.scalar()
    match = re.fullmatch(r"(-?[0-9]{1,3})C", written) if isinstance(written, str) else None
    if not match:
        raise Wrong(f"expected degrees such as 80C, found {at.found()}")
    return float(match[1])


def _value(at: Cursor) -> str:
    name = text(at)
    known = at.document.defined
    if name.partition(".")[0] not in known:
        meant = nearest(name, known)
        hint = f"did you mean {meant}?" if meant else "define it in values"
        raise Wrong(f"there is no value {quoted(name)}; {hint}")
    return name


def _only(expected: bool) -> Reader[bool]:
    def read(at: Cursor) -> bool:
        if boolean(at) is not expected:
            raise Wrong(f"expected {str(expected).lower()}, which is what the check is about; or leave the check out")
        return expected
    return read


def _unnamed(subject: Any) -> str:
    return ""


KINDS: dict[str, Kind] = {
    "unit": Kind(text, checks.unit),
    "process": Kind(_process, checks.process, quick=True),
    "tcp": Kind(_endpoint, checks.port, named=lambda place: "{}:{}".format(*place)),
    "file": Kind(path, checks.file, limit=("max_age", duration)),
    "command": Kind(command(frozenset()), checks.command, named=lambda words: str(words[0].rpartition("/")[2])),
    "disk": Kind(path, checks.disk, limit=("min_free", size), impossible=checks.no_disk),
    "temperature": Kind(_celsius, checks.temperature, named=_unnamed, quick=True),
    "throttled": Kind(_only(False), checks.throttled, named=_unnamed, quick=True),
    # The kernel itself needs nine seconds to know that a neighbour has gone.
    "gateway": Kind(_only(True), gateway.look, named=_unnamed, timeout_s=10.0),
    "value": Kind(_value, None, options={"min": number, "max": number, "for": duration}),
}
_STAND_IN = "throttled"  # for a check whose problem is noted already


def read(at: Cursor) -> Check:
    """Read one check: exactly one kind, with its limit and no other's."""
    limits = {key: reader for kind in KINDS.values() for key, reader in beside(kind).items()}
    values = at.fields({
        "name": ("name", _name),
        "every": ("every_s", duration),
        "timeout": ("timeout_s", timeout),
        **{name: (name, kind.read) for name, kind in KINDS.items()},
        **{name: (name, reader) for name, reader in limits.items()},
    })
    written = at.keys()
    found = [name for name in KINDS if name in written]
    if not found and (written - {"name", "every", "timeout", *limits} or not at.is_mapping()):
        return Check("", _STAND_IN, False)  # an unknown key is noted already, and may be meant for the kind
    if len(found) != 1:
        raise Wrong(f"expected one of {', '.join(KINDS)}, found {' and '.join(found) or 'none'}")
    return _of_kind(found[0], values, written, limits.keys())


def beside(kind: Kind) -> dict[str, Reader[Any]]:
    """Return the keys that stand beside the kind's own."""
    return {**dict([kind.limit] if kind.limit else []), **kind.options}


def _of_kind(name: str, values: dict[str, Any], written: set[str], limits: Any) -> Check:
    kind = KINDS[name]
    limit = kind.limit[0] if kind.limit else None
    for other in sorted(limits - beside(kind).keys()):
        if other in written:
            raise Wrong(f"{other} says nothing about a check of {name}")
    if limit and limit not in written:
        raise Wrong(f"{limit} is required with {name}")
    common = {key: values[key] for key in ("every_s", "timeout_s") if key in values}
    if name not in values or limit and limit not in values:
        return Check("", _STAND_IN, False, **common)
    if kind.timeout_s and common.setdefault("timeout_s", kind.timeout_s) < kind.timeout_s:
        raise Wrong(f"timeout of a {name}'s check is at least {kind.timeout_s:g}s: the kernel takes that long to give "
                    "up")
    subject = values[name]
    bounds: Any = values[limit] if limit else None
    if kind.options:
        low, high, for_s = bounds = (values.get("min"), values.get("max"), values.get("for", 0.0))
        if low is not None and high is not None and low > high:
            raise Wrong(f"min, {low:g}, is above max, {high:g}")
    return Check(values.get("name", f"{name} {kind.named(subject)}".strip()), name, subject, bounds, **common)


def _name(at: Cursor) -> str:
    name = text(at)
    if len(name) > 64 or not name.isprintable():
        raise Wrong(f"expected at most 64 characters on one line, found {quoted(name)}")
    return name


def make(check: Check, stop: int | None = None, roots: Roots = HOST) -> CheckResult:
    """Make a check now; it ends within its time-out but where the kernel itself hangs (a name server, a dead mount).

    `stop` is a file descriptor that becomes readable when the check should give up.
    """
    try:
        look = KINDS[check.kind].look
        assert look is not None, "the value is asked for, and not looked at"
        outcome, value, reason = look(check, stop, roots)
    except OSError as error:
        outcome, value, reason = "unknown", None, f"cannot be checked: {error.strerror or error}"
    return CheckResult(check, outcome, value, reason, time.monotonic())


def faulty(check: Check, traceback: str) -> CheckResult:
    """Return what a check has found that ended in a bug: nothing."""
    return CheckResult(check, "unknown", None, f"a bug in iotd: {last_line(traceback)}", time.monotonic(), traceback)
