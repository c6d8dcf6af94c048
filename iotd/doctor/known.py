"""What the status of a running daemon says of each layer. Pure.

The daemon itself judges by it when its line is down for long, and so does `iotd doctor`, which reads it in status.json:
there it is input like any other, and what makes no sense in it is not seen.
"""

from collections.abc import Mapping
from typing import Any

from iotd.doctor.facts import Association, Backlog, Certificates, Configuration, Dns, Mqtt, Policy, Tcp, Tls
from iotd.vocabulary import Json

BY = "the daemon"


def known(status: Mapping[str, Json], expected: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the facts by their layer; `expected` are the networks that are right for the Wi-Fi."""
    down, problems = _object(status.get("down")), [str(one) for one in _list(status.get("problems"))]
    found: dict[str, Any] = {
        "policy": Policy(tuple(one for one in problems if one.endswith((" denied", " refused"))
                               and not one.startswith("not connected"))),  # by a connection refused, say
        "backlog": Backlog(_count(status.get("waiting")), _count(status.get("waiting_bytes")),
                           _sum(status.get("dropped")),
                           _sum(status.get("poison"))),
        "mqtt": Mqtt(status.get("connected") is True, _text(down.get("cause")), _text(down.get("reason")), BY,
                     status.get("contested") is True)}
    if refused := _object(status.get("configuration")).get("problems"):
        found["configuration"] = Configuration("", (), tuple(map(str, _list(refused))))
    if wifi := _object(status.get("wifi")):
        rssi = wifi.get("rssi_dbm")
        found["association"] = Association(
            _text(wifi.get("outcome")) or "unknown", _text(wifi.get("essid")) or None, expected,
            rssi if type(rssi) is int else None, _text(wifi.get("reason")))
    if not found["mqtt"].connected:
        found.update(_on_the_way(down, status))
    return found


def _on_the_way(down: Mapping[str, Json], status: Mapping[str, Json]) -> dict[str, Any]:
    """Return what failed of a connection, and the steps before it, which did not."""
    cause, reason, port = _text(down.get("cause")), _text(down.get("reason")), _count(status.get("port"))
    host = _text(status.get("host"))
    if cause == "dns":
        return {"dns": Dns(host, (), None, reason)}
    if cause in ("tcp", "proxy"):
        return {"dns": Dns(host, (host,), None), "tcp": Tcp(port, "", {"": reason})}
    if cause == "password" or cause == "certificate" and down.get("layer") == "certificates":
        return {"certificates": Certificates({"": reason})}
    if cause in ("tls", "certificate", "clock"):
        return {"tcp": Tcp(port, host), "tls": Tls(cause, reason)}
    if cause in ("websocket", "connack", "refused", "protocol"):
        return {"tcp": Tcp(port, host)}
    return {}


def _object(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, dict) else {}


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _text(value: Json) -> str:
    return value if isinstance(value, str) else ""


def _sum(value: Json) -> int:
    return sum(map(_count, _object(value).values()))


def _count(value: Json) -> int:
    return value if type(value) is int and 0 <= value < 1 << 53 else 0
