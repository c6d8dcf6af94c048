"""iotd in a machine, as the package installs it: its configuration, its log, its broker's side."""

from __future__ import annotations

import json
import shutil
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Callable

from tests.vm import air
from tests.vm.machine import Machine

EVERY_S, GRACE_S, KEEPALIVE_S = 2, 5, 5
ESSID = "fleet-ap"
PATIENCE_S = 180.0  # under emulation, beside other work
TOPIC, PRESENCE = "fleet/pi/state", "fleet/pi/will"
PAYLOAD = {"run": "{run}", "n": "{sequence}", "essid": "{essid}", "bssid": "{bssid}", "rssi": "{rssi}",
           "frequency": "{frequency}"}


def install(machine: Machine, dist: Path) -> None:
    """Install what script/package has built by apt from its signed repository; the guest has no network.

    What iotd logs goes to the shared directory too, a file for each boot, so that waiting for it costs the guest
    nothing. The last words of a boot may be missing there.
    """
    shutil.copytree(dist / "apt", machine.share / "apt")
    machine.run("""
cat > /etc/apt/sources.list.d/iotd.list <<'END'
deb [signed-by=/share/apt/iotd.asc] file:/share/apt ./
END
only="-o Dir::Etc::SourceList=/etc/apt/sources.list.d/iotd.list -o Dir::Etc::SourceParts=-"
apt-get $only -q update
DEBIAN_FRONTEND=noninteractive apt-get $only -q --yes install iotd
mkdir -p /var/log/journal
journalctl --flush
cat > /etc/systemd/system/follow.service <<'END'
[Unit]
RequiresMountsFor=/share
Before=iotd.service agent.service
[Service]
ExecStart=journalctl -q -o cat -f -n all -b _SYSTEMD_UNIT=iotd.service
StandardOutput=truncate:/share/log-%b
[Install]
WantedBy=multi-user.target
END
systemctl --quiet enable --now follow
""", 600)


def at(entry: dict[str, Any]) -> float:
    """Return when a log line was written (epoch)."""
    return datetime.fromisoformat(entry["time"]).timestamp()


class Device:
    """The device in a machine; its access point is `fleet`, and the broker stands behind that."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def start(self, recover: list[str], grace_s: int = GRACE_S, **reboot: Any) -> None:
        """Start iotd with this ladder, as after a first installation."""
        configuration: dict[str, Any] = {
            "thing": "pi",
            "mqtt": {"host": "10.0.1.1", "port": 1883, "keepalive": f"{KEEPALIVE_S}s",
                     "backoff": {"first": "1s", "max": "4s"}},
            "presence": {"topic": PRESENCE},
            "publish": [{"topic": TOPIC, "every": "2s", "payload": PAYLOAD}],
            "wifi": {"interface": "wlan0", "essid": [ESSID], "every": f"{EVERY_S}s", "grace": f"{grace_s}s",
                     "recover": recover, **({"reboot": reboot} if reboot else {})},
        }
        (self.machine.share / "iotd.yaml").write_text(json.dumps(configuration))
        self.machine.run("cp /share/iotd.yaml /etc/iotd.yaml")
        self._run("start")

    def restart(self) -> None:
        """Stop iotd and start it again."""
        self._run("restart")

    def _run(self, how: str) -> None:
        since = float(self.machine.run(f"date +%s.%N\nsystemctl {how} iotd"))
        self.wait_for("daemon.started", since)

    def stop(self) -> None:
        """Stop iotd; it says farewell."""
        self.machine.run("systemctl stop iotd")

    def forget(self) -> None:
        """Stop iotd and remove what it has kept."""
        self.machine.run("systemctl stop iotd\nrm -rf /var/lib/iotd/* /var/lib/iotd-recover/* /run/iotd/*")

    def log(self, boot: int = 0) -> list[dict[str, Any]]:
        """Return what the last run of iotd in that boot (0: this one, -1: the one before) has logged."""
        if boot:
            whole = self.machine.run(f"journalctl -q -o cat -b {boot} _SYSTEMD_UNIT=iotd.service")
        else:
            whole = (self.machine.share / f"log-{self.machine.boot_id.replace('-', '')}").read_text("utf-8", "replace")
            whole, _, _ = whole.rpartition("\n")  # the last line may be half written
        entries: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
        started = [number for number, entry in enumerate(entries) if entry["event"] == "daemon.started"]
        return entries[started[-1]:] if started else []

    def wait_for(self, event: str, since: float = 0.0, limit_s: float = PATIENCE_S, reason: str = "", **fields: Any
                 ) -> dict[str, Any]:
        """Return the first log line of this event since then with these fields and this in its reason; raises
        AssertionError at the limit.
        """
        deadline = time.monotonic() + limit_s
        while True:
            entries = self.log()
            for entry in entries:
                if (entry["event"] == event and at(entry) >= since and fields.items() <= entry.items()
                        and reason in entry.get("reason", "")):
                    return entry
            assert time.monotonic() < deadline, f"no {event} {fields} in {limit_s:g} s: {entries}"
            time.sleep(0.1)

    def steps(self, since: float = 0.0, boot: int = 0) -> dict[str, float]:
        """Return when each step was first asked for since then, in that order."""
        found: dict[str, float] = {}
        for entry in self.log(boot):
            if entry["event"] == "recovery.step" and at(entry) >= since:
                found.setdefault(entry["action"], at(entry))
        return found

    def heard(self, topic: str) -> list[tuple[float, dict[str, Any]]]:
        """Return what the broker has passed on of a topic, and when (epoch)."""
        return [(message.at, json.loads(message.payload)) for message in air.heard(self.machine, "fleet")
                if message.topic == topic]

    def wait_heard(self, topic: str, wanted: Callable[[dict[str, Any]], object], since: float = 0.0
                   ) -> tuple[float, dict[str, Any]]:
        """Return the first such message since then; raises AssertionError when none comes."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            heard = self.heard(topic)
            for when, body in heard:
                if when >= since and wanted(body):
                    return when, body
            assert time.monotonic() < deadline, f"not on {topic} in {PATIENCE_S:g} s: {heard}"
            time.sleep(0.1)

    def retained(self, topic: str) -> dict[str, Any]:
        """Return what the broker has retained on a topic."""
        return dict(json.loads(self.machine.run(
            f"ip netns exec fleet mosquitto_sub -t {topic} -C 1 -W 20 --retained-only")))
