"""The Wi-Fi as the main thread sees it: the last look, the judgement of it, and what recovery is asked for."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Callable

from iotd import budget, host, log, recovery, routes
from iotd.places import Places
from iotd.reading import Reading, ssid_text
from iotd.settings import Json, Wifi

REBOOT = "reboot"
LAST_REBOOT = "last_reboot.json"


class Rescue:
    """Watches one interface. `wall` gives the wall clock, None while nobody has set it."""

    def __init__(self, places: Places, boot_id: str, wall: Callable[[], float | None]) -> None:
        self._places = places
        self._boot_id = boot_id
        self._wall = wall
        self._settings: Wifi | None = None
        self._state = recovery.initial()
        self._budget = budget.read(places.state / "reboots.json")
        self._reading: Reading | None = None
        self._tried: Counter[str] = Counter()
        self._last_reboot = self._read_last_reboot()

    @property
    def essid(self) -> str | None:
        """The network that the interface was associated with at the last look."""
        ssid = None if self._reading is None else self._reading.ssid
        return None if ssid is None else ssid_text(ssid)

    @property
    def reading(self) -> Reading | None:
        """The last look."""
        return self._reading

    @property
    def wrong(self) -> bool:
        """Whether the Wi-Fi is not as it should be."""
        return self._state.lost_at is not None

    def apply(self, settings: Wifi | None) -> None:
        """Let the settings take effect; other ones begin with a fresh judgement."""
        if settings != self._settings:
            self._settings, self._state, self._reading = settings, recovery.initial(), None

    def take(self, reading: Reading, mqtt_connected: bool, now: float) -> recovery.Step | None:
        """Judge a look, log what it means and do what it asks for; return a reboot, which is not ours to take."""
        if self._settings is None or reading.interface != self._settings.interface:
            return None
        self._reading = reading
        self._state, effects = recovery.judge(self._settings, self._state, reading,
                                              self._circumstances(reading, mqtt_connected), now)
        for effect in effects:
            if isinstance(effect, recovery.Keep):
                if not self._kept(effect.budget):
                    return None
            elif isinstance(effect, recovery.Step):
                log.warning("recovery.step", f"{effect.action} is asked for: {effect.reason}", action=effect.action,
                            reason=effect.reason)
                self._tried[effect.action] += 1
                if effect.action == REBOOT:
                    return effect
                self.request(effect)
            else:
                _tell(effect)
        return None

    def reboot(self, step: recovery.Step, lost_for_s: float) -> None:
        """Write down why, for the next boot to tell, and request it."""
        last = {"from": self._boot_id, "reason": step.reason, "lost_for_s": lost_for_s, "tried": dict(self._tried)}
        try:
            host.write_text(self._places.state / LAST_REBOOT, json.dumps(last), durable=True)
        except OSError:
            pass  # the reboot matters more than its story, which the journal tells too
        self.request(step)

    def boot_cause(self) -> str:
        """Return why this boot came, as far as iotd knows."""
        return f"iotd: {self._last_reboot['reason']}" if self._last_reboot else "not asked for by iotd"

    def outage_over(self, lost_for_s: float) -> dict[str, Json]:
        """Return how long the line was down and what was tried, an earlier boot's part included, and begin anew."""
        tried, self._tried = self._tried, Counter()
        earlier = self._last_reboot
        if earlier and not earlier.get("told"):
            earlier["told"] = True
            self._keep_last_reboot()
            lost_for_s = earlier["lost_for_s"] + host.uptime_s()
            tried.update(earlier["tried"])
        return {"for_s": round(lost_for_s, 1), "tried": dict(tried)}

    def request(self, step: recovery.Step) -> None:
        """Leave a request for the recovery helper, the only one with the privilege to follow it."""
        interface = self._settings.interface if self._settings else ""
        try:
            host.write_request(self._places.runtime / "recover" / step.action, interface, step.reason)
        except OSError as error:
            log.error("recovery.failed", "the request for the recovery helper cannot be written", action=step.action,
                      reason=str(error))

    def status(self) -> Json:
        """Return what `iotd status` shows of it, None where nothing is watched."""
        reading = self._reading
        return None if reading is None else {
            "interface": reading.interface, "outcome": reading.outcome, "essid": self.essid, "bssid": reading.bssid,
            "rssi_dbm": reading.rssi_dbm, "frequency_mhz": reading.frequency_mhz, "reason": reading.reason}

    def _circumstances(self, reading: Reading, mqtt_connected: bool) -> recovery.Circumstances:
        """Return what a step must respect; most looks need none of it, so what is dear to learn is left out."""
        calm = reading.outcome == "associated" and self._budget == recovery.Budget()
        return recovery.Circumstances(
            mqtt_connected=mqtt_connected, boot_id=self._boot_id, uptime_s=host.uptime_s(),
            other_default_route=not calm and routes.other_default_route(reading.interface),
            wall_s=None if calm else self._wall(), budget=self._budget)

    def _read_last_reboot(self) -> dict[str, Any] | None:
        """Return what an earlier boot wrote before it asked for the reboot that this boot came from."""
        last = host.read_json(self._places.state / LAST_REBOOT)
        known = {"from": str, "reason": str, "lost_for_s": (int, float), "tried": dict}
        if not isinstance(last, dict) or not all(isinstance(last.get(key), kind) for key, kind in known.items()):
            return None
        if last["from"] == self._boot_id or last.setdefault("into", self._boot_id) != self._boot_id:
            return None
        return last

    def _keep_last_reboot(self) -> None:
        try:
            host.write_text(self._places.state / LAST_REBOOT, json.dumps(self._last_reboot), durable=True)
        except OSError:
            pass  # then it may be told once more

    def _kept(self, new: recovery.Budget) -> bool:
        try:
            host.write_text(self._places.state / "reboots.json", new.to_json(), durable=True)
        except OSError as error:
            log.error("recovery.failed", "the reboot budget cannot be written; no reboot without it", action=REBOOT,
                      reason=str(error))
            return False
        self._budget = new
        return True


def _tell(effect: recovery.Effect) -> None:
    """Log what the rules have found."""
    if isinstance(effect, recovery.Lost):
        log.warning("wifi.lost", f"the Wi-Fi is not as it should be: {effect.reason}", interface=effect.interface,
                    essid=effect.essid, expected=effect.expected, reason=effect.reason)
    elif isinstance(effect, recovery.Restored):
        log.info("wifi.restored", "the Wi-Fi is as it should be", interface=effect.interface, essid=effect.essid,
                 expected=effect.expected, lost_for_s=round(effect.lost_for_s), steps=effect.steps)
    elif isinstance(effect, recovery.Unreadable):
        log.warning("wifi.unreadable", f"the Wi-Fi cannot be judged: {effect.reason}", interface=effect.interface,
                    reason=effect.reason)
    elif isinstance(effect, recovery.Withheld):
        log.warning("recovery.withheld", f"{effect.action} is due but must wait: {effect.reason}",
                    action=effect.action, reason=effect.reason)
