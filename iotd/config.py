"""From the text of the configuration file to Settings: its schema, its rules, and every problem at once.

Text in, values out: nothing here opens a file. Sources of the limits: AWS IoT Core "endpoints and quotas".
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping

from iotd import override, template, topics
from iotd.document import (
    Cursor, Document, Reader, Schema, Unreadable, Wrong, boolean, choice, compose, duration, duration_or_zero, line_of,
    quoted, size, text, whole,
)
from iotd.errors import ConfigError, Problem
from iotd.settings import (
    Action, Backoff, Check, CommandPasses, DiskHasRoom, FileFresh, GatewayAnswers, Identity, Json, Log, Mqtt,
    NotThrottled, PortAnswers, Presence, Probe, ProcessRuns, Publish, RebootBudget, Run, Set, Settings, Shadow, Spool,
    Subscription, TemperatureBelow, Tls, UnitActive, Wifi,
)
from iotd.typed import Any, NamedTuple

PRESENCE_TOPIC = "MQTTServer/{thing}/will"
AWS_MAX_SHADOW_BYTES = 8 * 1024
AWS_MAX_SHADOW_DEPTH = 5  # the lowest of the three numbers that AWS documents
TOPICS_PER_SHADOW = 6

_ENDPOINT = "fill in your endpoint, which `aws iot describe-endpoint --endpoint-type iot:Data-ATS` prints"
_ESSID_MAX_BYTES = 32

GATEWAY_S = 10.0  # the kernel itself needs nine to know that a neighbour has gone
_KINDS = ("unit", "process", "tcp", "file", "command", "disk", "temperature", "throttled", "gateway")
_LIMITS = {"file": "max_age", "disk": "min_free"}  # what a kind requires besides itself
_FIELD_OF = {"max_age": "max_age_s", "min_free": "min_free_bytes"}
_PROBES: Mapping[str, Callable[[Mapping[str, Any]], tuple[Probe, str]]] = {
    "unit": lambda values: (UnitActive(values["unit"]), values["unit"]),
    "process": lambda values: (ProcessRuns(values["process"]), values["process"]),
    "tcp": lambda values: (PortAnswers(*values["tcp"]), "{}:{}".format(*values["tcp"])),
    "file": lambda values: (FileFresh(values["file"], values["max_age_s"]), values["file"]),
    "command": lambda values: (CommandPasses(values["command"]), values["command"][0].rpartition("/")[2]),
    "disk": lambda values: (DiskHasRoom(values["disk"], values["min_free_bytes"]), values["disk"]),
    "temperature": lambda values: (TemperatureBelow(values["temperature"]), ""),
    "throttled": lambda values: (NotThrottled(), ""),
    "gateway": lambda values: (GatewayAnswers(), ""),
}
OWN_KEY = "iotd"  # what iotd itself reports of checks and orders

Note = Callable[[str, str], None]


class Loaded(NamedTuple):
    """A configuration without problems, and the line of every key path in its file."""

    settings: Settings
    lines: Mapping[str, int]

    def line(self, key: str) -> int:
        """Return the line of a key path such as `mqtt.tls.cert`, or of the nearest one above it, else 0."""
        return line_of(self.lines, key)


def parse(text: str, file: str, identity: Identity) -> Loaded:
    """Read the text of `file`, for the host that `identity` names. Raises ConfigError with every problem in it."""
    document = Document()
    try:
        root = compose(text)
        settings = _settings(Cursor(root, "", document), identity) if root else _settings_of({}, identity)
    except Unreadable as error:
        raise ConfigError(file, [Problem(error.line, "", str(error))]) from None
    _check(settings, document.note_consequence)
    if document.problems:
        raise ConfigError(file, document.problems)
    return Loaded(settings, document.lines)


# The schema: a key of the file, the field it fills, and how it is read. What is left out keeps the field's default.

def _settings(at: Cursor, identity: Identity) -> Settings:
    return _settings_of(at.fields({
        "thing": ("thing", _template(frozenset({"hostname", "machine_id"}))),
        "mqtt": ("mqtt", _mqtt),
        "presence": ("presence", _presence),
        "publish": ("publish", _list(_publish, "- topic: …")),
        "subscribe": ("subscribe", _list(_subscription, "- topic: …")),
        "shadows": ("shadows", _list(_shadow, "- name: …")),
        "wifi": ("wifi", _wifi),
        "spool": ("spool", _spool),
        "log": ("log", _log),
    }), identity)


def _mqtt(at: Cursor) -> Mqtt:
    values = at.fields({
        "host": ("host", _host),
        "port": ("port", whole(1, 65535)),
        "keepalive": ("keepalive_s", _whole_seconds),
        "clean_session": ("clean_session", boolean),
        "spread": ("spread_s", duration_or_zero),
        "limits": ("aws_limits", choice("auto", "aws", "none")),
        "tls": ("tls", _tls),
        "backoff": ("backoff", _backoff),
    })
    values.setdefault("host", "")
    limits = values.pop("aws_limits", "auto")
    return Mqtt(**values, aws_limits=limits == "aws" or limits == "auto" and topics.is_aws_endpoint(values["host"]))


def _tls(at: Cursor) -> Tls:
    return Tls(**at.fields({"ca": ("ca", text), "cert": ("cert", text), "key": ("key", text)}))


def _backoff(at: Cursor) -> Backoff:
    return Backoff(**at.fields({"first": ("first_s", duration), "max": ("max_s", duration)}))


def _presence(at: Cursor) -> Presence:
    values = at.fields({
        "topic": ("topic", _template(template.EVERYWHERE)),
        "retain": ("retain", boolean),
        "qos": ("qos", _qos),
    })
    values.setdefault("topic", PRESENCE_TOPIC)
    return Presence(**values)


def _publish(at: Cursor) -> Publish:
    return Publish(**at.fields({
        "topic": ("topic", _template(template.EVERYWHERE)),
        "every": ("every_s", duration),
        "retain": ("retain", boolean),
        "qos": ("qos", _qos),
        "offline": ("offline", choice("queue", "latest", "drop")),
        "payload": ("payload", _mapping(template.PAYLOAD)),
    }, topic="", every=86400.0, payload={}))


def _subscription(at: Cursor) -> Subscription:
    return Subscription(**at.fields({
        "topic": ("filter", _template(template.EVERYWHERE)),
        "qos": ("qos", _qos),
    }, topic=""))


def _shadow(at: Cursor) -> Shadow:
    values = at.fields({
        "name": ("name", _optional(text)),
        "every": ("every_s", duration),
        "desired": ("desired", _mapping(template.PAYLOAD - {"sequence"})),
        "reported": ("reported", _mapping(template.REPORT)),
        "healthy": ("healthy", text),
        "unhealthy": ("unhealthy", text),
        "checks": ("checks", _list(_check_of_health, "- unit: …")),
        "on_delta": ("on_delta", _on_delta),
        "files": ("files", boolean),
    })
    return Shadow(**values)


def _check_of_health(at: Cursor) -> Check:
    schema: Schema = {
        "name": ("name", _short),
        "every": ("every_s", duration),
        "timeout": ("timeout_s", duration),
        "unit": ("unit", text),
        "process": ("process", _process),
        "tcp": ("tcp", _endpoint),
        "file": ("file", _path),
        "max_age": ("max_age_s", duration),
        "command": ("command", _command(frozenset())),
        "disk": ("disk", _path),
        "min_free": ("min_free_bytes", size),
        "temperature": ("temperature", _celsius),
        "throttled": ("throttled", _only(False)),
        "gateway": ("gateway", _only(True)),
    }
    values = at.fields(schema)
    written = _keys(at)
    kinds = [kind for kind in _KINDS if kind in written]
    if not kinds and (written - schema.keys() or _is_no_mapping(at)):
        return Check("", NotThrottled())  # an unknown key is noted already, and may be meant for the kind
    if len(kinds) != 1:
        raise Wrong(f"expected one of {', '.join(_KINDS)}, found {' and '.join(kinds) or 'none'}")
    [kind] = kinds
    limit = _LIMITS.get(kind, "")
    for other in _LIMITS.values():
        if other in written and other != limit:
            raise Wrong(f"{other} says nothing about a check of {kind}")
    if limit and limit not in written:
        raise Wrong(f"{limit} is required with {kind}")
    common = {"timeout_s": GATEWAY_S if kind == "gateway" else 5.0,
              **{key: values[key] for key in ("every_s", "timeout_s") if key in values}}
    if kind not in values or limit and _FIELD_OF[limit] not in values:
        return Check("", NotThrottled(), **common)  # stands in for one whose problem is noted already
    if kind == "gateway" and common["timeout_s"] < GATEWAY_S:
        raise Wrong(f"timeout of a gateway's check is at least {GATEWAY_S:g}s: the kernel takes that long to give up")
    probe, subject = _PROBES[kind](values)
    return Check(values.get("name", f"{kind} {subject}".strip()), probe, **common)


def _on_delta(at: Cursor) -> dict[str, Action]:
    if at.is_empty():
        return {}
    return {key: action for key, child in at.entries() for action in child.read(_action)}


def _action(at: Cursor) -> Action:
    values = at.fields({
        "run": ("command", _command(frozenset({"value"}))),
        "set": ("setting", text),
        "timeout": ("timeout_s", duration),
    })
    written = _keys(at)
    if _is_no_mapping(at):
        return Run(("",))  # noted already
    if len(written & {"run", "set"}) != 1:
        raise Wrong("expected either run, a command, or set, the name of a setting")
    if "set" in written and "timeout" in written:
        raise Wrong("timeout is for run; to set takes no time")
    if "setting" in values:
        return Set(values["setting"])
    return Run(**values) if "command" in values else Run(("",))  # its problem is noted already


def _wifi(at: Cursor) -> Wifi:
    return Wifi(**at.fields({
        "interface": ("interface", _interface),
        "essid": ("essid", lambda at: at.items(_essid, "[fleet-ap]")),
        "every": ("every_s", duration),
        "grace": ("grace_s", duration),
        "recover": ("recover", _recover),
        "reboot": ("reboot", _reboot),
    }))


def _reboot(at: Cursor) -> RebootBudget:
    return RebootBudget(**at.fields({
        "max_per_day": ("max_per_day", whole(0, 24)),
        "min_uptime": ("min_uptime_s", duration),
    }))


def _spool(at: Cursor) -> Spool:
    return Spool(**at.fields({
        "durability": ("strict", lambda at: choice("relaxed", "strict")(at) == "strict"),
        "max_bytes": ("max_bytes", size),
        "max_age": ("max_age_s", duration),
    }))


def _log(at: Cursor) -> Log:
    return Log(**at.fields({
        "level": ("level", choice("debug", "info", "warning", "error")),
        "format": ("format", choice("json", "text")),
    }))


def _settings_of(values: Mapping[str, Any], identity: Identity) -> Settings:
    """Fill what placeholders cannot change in a run: the thing, topics and filters."""
    required: dict[str, Any] = {"thing": "{hostname}", "mqtt": Mqtt(host=""), "presence": Presence(PRESENCE_TOPIC)}
    written = Settings(**{**required, **values})
    names = {"hostname": identity.hostname, "machine_id": identity.machine_id}
    names["thing"] = template.compile_tree(written.thing)(names)

    def filled(topic: str) -> str:
        return str(template.compile_tree(topic)(names))

    return written._replace(
        thing=names["thing"],
        presence=written.presence._replace(topic=filled(written.presence.topic)),
        publish=tuple(entry._replace(topic=filled(entry.topic)) for entry in written.publish),
        subscribe=tuple(entry._replace(filter=filled(entry.filter)) for entry in written.subscribe),
    )


def _list(reader: Reader[Any], example: str) -> Reader[tuple[Any, ...]]:
    """A list whose key may stand there with nothing behind it."""
    return lambda at: () if at.is_empty() else at.items(reader, example)


def _optional(reader: Reader[Any]) -> Reader[Any]:
    return lambda at: None if at.is_empty() else reader(at)


def _template(known: frozenset[str]) -> Reader[str]:
    def read(at: Cursor) -> str:
        written = text(at)
        _check_template(written, known)
        return written
    return read


def _mapping(known: frozenset[str]) -> Reader[dict[str, Json]]:
    def read(at: Cursor) -> dict[str, Json]:
        tree = at.tree(lambda written: _check_template(written, known))
        if not isinstance(tree, dict):
            raise Wrong(f"expected a mapping of keys, found {at.found()}")
        return tree
    return read


def _check_template(written: str, known: frozenset[str]) -> None:
    try:
        template.check(written, known)
    except template.TemplateError as error:
        raise Wrong(str(error)) from None


def _host(at: Cursor) -> str:
    host = "" if at.is_empty() or at.scalar() == "" else text(at)
    if not host:
        raise Wrong(f"is empty; {_ENDPOINT}")
    if re.search(r"[\s/@]|^[^:]*:[^:]*$", host):
        raise Wrong(f"expected the name or address of the broker alone, found {quoted(host)}; "
                    "leave out scheme, user and path, and write the port under mqtt.port")
    return host


def _qos(at: Cursor) -> int:
    return whole(0, 1, {2: "; AWS IoT has no QoS 2, and iotd makes doubles harmless rather than impossible"})(at)


def _whole_seconds(at: Cursor) -> int:
    seconds = duration(at)
    if seconds != int(seconds):
        raise Wrong(f"expected whole seconds, found {at.found()}; MQTT counts the keep-alive in seconds")
    return int(seconds)


def _is_no_mapping(at: Cursor) -> bool:
    return bool(at.node.id != "mapping") and not at.is_empty()


def _keys(at: Cursor) -> set[str]:
    """Return the keys of a mapping that has been read, those whose values are wrong included; none of anything else."""
    return {key.value for key, _ in at.node.value} if at.node.id == "mapping" else set()


def _short(at: Cursor) -> str:
    name = text(at)
    if len(name) > 64 or not name.isprintable():
        raise Wrong(f"expected at most 64 characters on one line, found {quoted(name)}")
    return name


def _process(at: Cursor) -> str:
    name = text(at)
    if "/" in name:
        raise Wrong(f"expected a name without its path, as `ps -o comm` prints it, found {quoted(name)}")
    return name


def _path(at: Cursor) -> str:
    path = text(at)
    if not path.startswith("/"):
        raise Wrong(f"expected a path from /, found {quoted(path)}")
    return path


def _endpoint(at: Cursor) -> tuple[str, int]:
    written = text(at)
    host, _, port = written.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not host or not re.fullmatch("[0-9]{1,5}", port, re.ASCII) or not 0 < int(port) < 65536:
        raise Wrong(f"expected HOST:PORT such as localhost:8080 or [::1]:8080, found {quoted(written)}")
    return host, int(port)


def _celsius(at: Cursor) -> float:
    written = at.scalar()
    match = re.fullmatch(r"(-?[0-9]{1,3})C", written) if isinstance(written, str) else None
    if not match:
        raise Wrong(f"expected degrees such as 80C, found {at.found()}")
    return float(match[1])


def _only(expected: bool) -> Reader[bool]:
    def read(at: Cursor) -> bool:
        if boolean(at) is not expected:
            raise Wrong(f"expected {str(expected).lower()}, which is what the check is about; or leave the check out")
        return expected
    return read


def _command(known: frozenset[str]) -> Reader[tuple[str, ...]]:
    """Return a reader of a command as a list of arguments, whose placeholders are `known`; none: braces are braces."""
    def argument(at: Cursor) -> str:
        written = at.scalar()
        if not isinstance(written, str):
            raise Wrong(f"expected text, found {at.found()}; put it in quotes")
        if known:
            _check_template(written, known)
        if "\0" in written:
            raise Wrong("has a NUL character, which no argument can have")
        return written

    def read(at: Cursor) -> tuple[str, ...]:
        arguments = at.items(argument, "[/usr/bin/program, argument]; there is no shell")
        if not arguments or not arguments[0]:
            raise Wrong("is empty; expected a program and its arguments")
        return arguments
    return read


def _interface(at: Cursor) -> str:
    name = text(at)
    if len(name.encode()) > 15 or re.search(r"[\s/:]", name) or name in (".", ".."):
        raise Wrong(f"expected the name of a network interface such as wlan0, found {quoted(name)}")
    return name


def _essid(at: Cursor) -> str:
    name = text(at)
    if len(name.encode()) > _ESSID_MAX_BYTES:
        raise Wrong(f"{quoted(name)} is {len(name.encode())} bytes long; an ESSID has at most {_ESSID_MAX_BYTES}")
    return name


def _recover(at: Cursor) -> tuple[str, ...]:
    steps = at.items(choice("reconnect", "radio-cycle", "restart-network", "reboot"), "[] to report only")
    for position, step in enumerate(steps):
        if step in steps[:position]:
            raise Wrong(f"{step} comes twice; each step is taken once, in the order of the list")
    return steps


def _check(settings: Settings, note: Note) -> None:
    """Note what is wrong between values, and with topics and names, which had to be filled first."""
    aws = settings.mqtt.aws_limits
    _check_mqtt(settings.mqtt, note)
    _note_if(note, "thing", topics.thing_problem(settings.thing, aws))
    _check_presence(settings, note)
    _check_publish(settings, note)
    _check_subscribe(settings, note)
    _check_shadows(settings, note)


def problems(settings: Settings) -> list[Problem]:
    """Return what is wrong between the values of settings that were changed after they were read."""
    found: list[Problem] = []
    _check(settings, lambda key, text: found.append(Problem(0, key, text)))
    return found


def _check_mqtt(mqtt: Mqtt, note: Note) -> None:
    if not mqtt.host:
        note("mqtt.host", f"is required; {_ENDPOINT}")
    if re.match(r"x+-ats\.", mqtt.host):
        note("mqtt.host", f"{quoted(mqtt.host)} is the sample's placeholder; {_ENDPOINT}")
    if topics.is_aws_endpoint(mqtt.host) and not mqtt.tls:
        note("mqtt.tls", "AWS IoT takes no connection without TLS; add the section, `tls:` alone means the defaults")
    low, high = (30, 1200) if mqtt.aws_limits else (5, 65535)
    if not low <= mqtt.keepalive_s <= high:
        note("mqtt.keepalive", f"expected {low}s to {high}s{' on AWS' * mqtt.aws_limits}, found {mqtt.keepalive_s}s")
    if mqtt.backoff.max_s < 1:
        note("mqtt.backoff.max", "expected at least 1s; no retry comes sooner")
    elif mqtt.backoff.first_s > mqtt.backoff.max_s:
        note("mqtt.backoff.first", f"{mqtt.backoff.first_s:g}s is above mqtt.backoff.max, {mqtt.backoff.max_s:g}s")


def _note_if(note: Note, key: str, problem: str | None) -> None:
    if problem:
        note(key, problem)


def _check_presence(settings: Settings, note: Note) -> None:
    presence, aws = settings.presence, settings.mqtt.aws_limits
    if aws and presence.topic.startswith("$"):
        note("presence.topic", f"{quoted(presence.topic)} is reserved, a will is not sent to topics under $")
    _note_if(note, "presence.topic", topics.topic_problem(presence.topic, aws, presence.retain))


def _check_publish(settings: Settings, note: Note) -> None:
    aws = settings.mqtt.aws_limits
    retained_per_s: dict[str, float] = defaultdict(float)
    for position, entry in enumerate(settings.publish):
        key = f"publish[{position}]"
        _note_if(note, f"{key}.topic", topics.topic_problem(entry.topic, aws, entry.retain))
        _note_if(note, f"{key}.payload", topics.payload_problem(_size_of(entry.payload), aws))
        if entry.topic == settings.presence.topic:
            note(f"{key}.topic", f"{quoted(entry.topic)} is presence.topic; publish under a topic of its own")
        if entry.retain:
            retained_per_s[entry.topic] += 1 / entry.every_s
            if aws and retained_per_s[entry.topic] > 1 + 1e-9:
                note(f"{key}.every", f"{quoted(entry.topic)} would be retained {retained_per_s[entry.topic]:.4g} times "
                                     "a second in all; AWS IoT takes one a second, or write retain: false")


def _check_subscribe(settings: Settings, note: Note) -> None:
    aws = settings.mqtt.aws_limits
    first: dict[str, int] = {}
    for position, entry in enumerate(settings.subscribe):
        key = f"subscribe[{position}].topic"
        _note_if(note, key, topics.filter_problem(entry.filter, aws))
        if first.setdefault(entry.filter, position) != position:
            note(key, f"{quoted(entry.filter)} is already subscribe[{first[entry.filter]}]; keep one of the two")
    total = len(settings.subscribe) + TOPICS_PER_SHADOW * len(settings.shadows) + 1
    if aws and total > topics.AWS_MAX_SUBSCRIPTIONS:
        note("shadows" if len(settings.shadows) > len(settings.subscribe) else "subscribe",
             f"{total} subscriptions in all: one each, {TOPICS_PER_SHADOW} a shadow, 1 for presence; "
             f"AWS IoT allows {topics.AWS_MAX_SUBSCRIPTIONS}")


def _check_shadows(settings: Settings, note: Note) -> None:
    aws = settings.mqtt.aws_limits
    first: dict[str | None, int] = {}
    for position, shadow in enumerate(settings.shadows):
        key = f"shadows[{position}]"
        if shadow.name is not None:
            _note_if(note, f"{key}.name", topics.shadow_problem(shadow.name, aws))
        if first.setdefault(shadow.name, position) != position:
            name = "the classic shadow" if shadow.name is None else quoted(shadow.name)
            note(f"{key}.name", f"{name} is already shadows[{first[shadow.name]}]; keep one of the two")
        for part, state in (("desired", shadow.desired), ("reported", shadow.reported)):
            if aws and _depth(state) > AWS_MAX_SHADOW_DEPTH:
                note(f"{key}.{part}", f"{_depth(state)} levels deep; AWS IoT is sure to take {AWS_MAX_SHADOW_DEPTH}")
        _check_watching(settings, shadow, key, note)
        if shadow.files and any(other.files for other in settings.shadows[:position]):
            note(f"{key}.files", "another shadow has the files already; one at most can have them")
        total = _size_of(shadow.desired) + _size_of(shadow.reported)
        if aws and total > AWS_MAX_SHADOW_BYTES:
            note(key, f"desired and reported have {total} bytes; AWS IoT takes {AWS_MAX_SHADOW_BYTES} for both")


def _check_watching(settings: Settings, shadow: Shadow, key: str, note: Note) -> None:
    for part, keys in (("reported", shadow.reported), ("on_delta", shadow.on_delta)):
        if OWN_KEY in keys:
            note(f"{key}.{part}.{OWN_KEY}", "iotd reports its checks and orders under this key; choose another one")
    names = [check.name for check in shadow.checks]
    for place, name in enumerate(names):
        if name and name in names[:place]:
            note(f"{key}.checks[{place}]", f"{quoted(name)} is already the name of checks[{names.index(name)}]; "
                                           "give one of the two another name")
    for desired_key, action in shadow.on_delta.items():
        if isinstance(action, Set):
            _note_if(note, f"{key}.on_delta.{desired_key}.set", override.problem(action.setting, settings))


def _size_of(tree: Json) -> int:
    return len(json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode())


def _depth(tree: Json) -> int:
    if not isinstance(tree, (dict, list)):
        return 0
    return 1 + max((_depth(child) for child in (tree.values() if isinstance(tree, dict) else tree)), default=0)
