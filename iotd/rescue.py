"""The Wi-Fi as the main thread sees it: the last look, the judgement of it, and what recovery is asked for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

from iotd import budget, host, log, recovery, routes
from iotd.places import Places
from iotd.reading import Reading, ssid_text
from iotd.settings import Json, Wifi
from iotd.typed import Any, NamedTuple

REBOOT = "reboot"


class Outage(NamedTuple):
    """What can be told of a time without a line: why and how long it was, the steps taken, the messages dropped."""

    reason: str
    for_s: float
    tried: dict[str, int]
    dropped: int


class Legacy(NamedTuple):
    """What a boot (`asked_in`) leaves behind before its reboot: why, and the outage until then.

    `into` is the boot that came of it, empty until that has read it; `told` says that its outage was reported.
    """

    asked_in: str
    reason: str
    outage: Outage
    into: str = ""
    told: bool = False

    def to_json(self) -> str:
        """Return it as one JSON object, for `from_json`."""
        return json.dumps({**self._asdict(), "outage": self.outage._asdict()}, ensure_ascii=False)

    @classmethod
    def from_json(cls, body: Any) -> Legacy:
        """Return what `to_json` wrote, once parsed; raises ValueError for anything that it cannot have written."""
        try:
            fields: dict[str, Any] = {**body, "outage": Outage(**body["outage"])}
            legacy = cls(**fields)
        except (TypeError, KeyError) as error:
            raise ValueError(f"no legacy of a reboot: {error}") from None
        outage = legacy.outage
        numbers = (outage.for_s, outage.dropped, *(outage.tried.values() if isinstance(outage.tried, dict) else "?"))
        texts = (legacy.asked_in, legacy.reason, legacy.into, outage.reason)
        if not (all(isinstance(text, str) for text in texts) and all(isinstance(some, (int, float)) for some in numbers)
                and isinstance(legacy.told, bool)):
            raise ValueError("no legacy of a reboot: a value is of the wrong type")
        return legacy


class Rescue:
    """Watches one interface.

    `wall` gives the wall clock, None while nobody has set it; `way_out` tells whether another interface leads out.
    """

    def __init__(self, places: Places, boot_id: str, wall: Callable[[], float | None],
                 way_out: Callable[[str], bool] = routes.other_default_route) -> None:
        self._requests = places.runtime / "recover"
        self._budget_file = places.state / "reboots.json"
        self._legacy_file = places.state / "last_reboot.json"
        self._boot_id = boot_id
        self._wall = wall
        self._way_out = way_out
        self._settings: Wifi | None = None
        self._state = recovery.initial()
        self._budget = budget.read(self._budget_file)
        self._unwritable = ""
        self._reading: Reading | None = None
        self._tried: Counter[str] = Counter()
        self._legacy = self._inherited()

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

    @property
    def boot_cause(self) -> str:
        """Why this boot came, as far as iotd knows."""
        return f"iotd: {self._legacy.reason}" if self._legacy else "not asked for by iotd"

    def apply(self, settings: Wifi | None) -> None:
        """Let the settings take effect; other ones begin with a fresh judgement."""
        if settings != self._settings:
            self._settings, self._state, self._reading = settings, recovery.initial(), None

    def take(self, reading: Reading, mqtt_connected: bool, now: float) -> recovery.Step | None:
        """Judge a look, log what it means and do what it asks for; return a reboot, which is not ours to take."""
        settings = self._settings
        if settings is None or reading.interface != settings.interface:
            return None
        self._reading = reading
        self._state, effects = recovery.judge(settings, self._state, reading,
                                              self._circumstances(settings, reading, mqtt_connected), now)
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
                self._request(effect)
            else:
                if isinstance(effect, recovery.Restored) and mqtt_connected:
                    self._tried.clear()  # mended before the line was lost: they belong to no outage of it
                _tell(effect)
        return None

    def reboot(self, step: recovery.Step, outage: Outage) -> None:
        """Write down why, and the outage so far, for the next boot to tell; then request the reboot."""
        self._write_legacy(Legacy(self._boot_id, step.reason, self.whole(outage)))
        self._request(step)

    def whole(self, outage: Outage) -> Outage:
        """Return the outage with what was tried in it, and with an earlier boot's part of it."""
        earlier = self._legacy.outage if self._legacy and not self._legacy.told else None
        if earlier is None:
            return outage._replace(tried=dict(self._tried))
        return Outage(earlier.reason, round(earlier.for_s + host.uptime_s(), 1),
                      dict(self._tried + Counter(earlier.tried)), earlier.dropped + outage.dropped)

    def told(self) -> None:
        """Begin anew after an outage that was reported: nothing is tried, and what an earlier boot left is told."""
        self._tried.clear()
        legacy = self._legacy._replace(told=True) if self._legacy else None
        if legacy != self._legacy:
            self._legacy = legacy
            self._write_legacy(legacy)

    def status(self) -> Json:
        """Return what `iotd status` shows of it, None where nothing is watched."""
        reading = self._reading
        return None if reading is None else {
            "interface": reading.interface, "outcome": reading.outcome, "essid": self.essid, "bssid": reading.bssid,
            "rssi_dbm": reading.rssi_dbm, "frequency_mhz": reading.frequency_mhz, "reason": reading.reason}

    def _request(self, step: recovery.Step) -> None:
        """Leave a request for the recovery helper, the only one with the privilege to follow it."""
        interface = self._settings.interface if self._settings else ""
        try:
            host.write_request(self._requests / step.action, interface, step.reason)
        except OSError as error:
            log.error("recovery.failed", "the request for the recovery helper cannot be written", action=step.action,
                      reason=str(error))

    def _circumstances(self, settings: Wifi, reading: Reading, mqtt_connected: bool) -> recovery.Circumstances:
        """Return what a step must respect; a right look needs none of it, so what is dear to learn is left out."""
        calm = recovery.is_right(settings, reading) and self._budget == recovery.Budget()
        return recovery.Circumstances(
            mqtt_connected=mqtt_connected, boot_id=self._boot_id, uptime_s=host.uptime_s(),
            other_default_route=not calm and self._way_out(reading.interface),
            wall_s=None if calm else self._wall(), budget=self._budget)

    def _inherited(self) -> Legacy | None:
        """Return what the boot before this one left, None where this boot did not come of a reboot of ours.

        It is marked as this boot's at once: a later boot that comes of a power cut must not claim it.
        """
        try:
            legacy = Legacy.from_json(host.read_json(self._legacy_file))
        except ValueError:
            return None
        if legacy.asked_in == self._boot_id or legacy.into not in ("", self._boot_id):
            return None
        if not legacy.into:
            legacy = legacy._replace(into=self._boot_id)
            self._write_legacy(legacy)
        return legacy

    def _write_legacy(self, legacy: Legacy | None) -> None:
        try:
            if legacy is not None:
                host.write_text(self._legacy_file, legacy.to_json(), durable=True)
        except OSError as error:
            log.error("recovery.failed", "why this boot ends cannot be written down; the next will not tell",
                      action=REBOOT, reason=str(error))

    def _kept(self, new: recovery.Budget) -> bool:
        """Write the budget; tell whether it is on the disk. A failure that lasts is logged once."""
        try:
            host.write_text(self._budget_file, new.to_json(), durable=True)
        except OSError as error:
            if str(error) != self._unwritable:
                log.error("recovery.failed", "the reboot budget cannot be written; no reboot without it",
                          action=REBOOT, reason=str(error))
            self._unwritable = str(error)
            return False
        self._budget, self._unwritable = new, ""
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
