"""The Wi-Fi as the main thread sees it: the last look, the judgement of it, and what recovery is asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from iotd.config.settings import Settings
from iotd.daemon.part import Kernel, Part
from iotd.host import log, mounts
from iotd.vocabulary import Json
from iotd.wifi import budget, nl80211, recovery, routes
from iotd.wifi.reading import Reading, ssid_text
from iotd.wifi.section import Wifi

REBOOT = "reboot"


class Adapters(NamedTuple):
    """How an interface is looked at, whether another one leads out of this host, and which place a reboot forgets."""

    look: Callable[[str], Reading] = nl80211.look
    other_default_route: Callable[[str], bool] = routes.other_default_route
    forgets: Callable[[Path], bool] = mounts.forgets


def build(kernel: Kernel, adapters: Adapters | None) -> WifiRecovery:
    """Return the part, with its thread started."""
    return WifiRecovery(kernel, adapters or Adapters())


class WifiRecovery(Part):
    """Watches one interface."""

    def __init__(self, kernel: Kernel, adapters: Adapters) -> None:
        places = kernel.world.places
        self._kernel = kernel
        self._world = kernel.world
        self._adapters = adapters
        self._requests = places.runtime / "recover"
        self._budget_file = places.state / "reboots.json"
        self._settings: Wifi | None = None
        self._state = recovery.initial()
        self._forgets = adapters.forgets(places.state)
        self._budget = budget.read(kernel.world.files, self._budget_file, self._forgets)
        self._unwritable = ""
        self._reading: Reading | None = None
        self._thread = kernel.world.periodic(kernel.post)
        self._thread.start()

    @property
    def essid(self) -> str | None:
        """The network that the interface was associated with at the last look."""
        ssid = None if self._reading is None else self._reading.ssid
        return None if ssid is None else ssid_text(ssid)

    @property
    def wrong(self) -> bool:
        """Whether the Wi-Fi is not as it should be."""
        return self._state.lost_at is not None

    def apply(self, settings: Settings, now: float) -> None:
        """Let the settings take effect; other ones begin with a fresh judgement."""
        wifi: Wifi = settings.sections["wifi"]
        if wifi != self._settings:
            self._settings, self._state, self._reading = wifi, recovery.initial(), None
            if self._reboots_are_forgotten():
                log.warning("recovery.limited", f"a reboot forgets what is in {self._world.places.state}: once it was "
                            "asked for there is no other before the Wi-Fi is right again", action=REBOOT,
                            path=str(self._world.places.state))
        self._thread.look({wifi.interface: (wifi.every_s, partial(self._adapters.look, wifi.interface))})

    def placeholders(self) -> dict[str, Callable[[], Json]]:
        """Return how the last look is told."""
        return {
            "essid": lambda: self.essid, "bssid": lambda: self._reading and self._reading.bssid,
            "rssi": lambda: self._reading and self._reading.rssi_dbm,
            "frequency": lambda: self._reading and self._reading.frequency_mhz}

    def handlers(self) -> dict[type, Callable[[Reading, float], None]]:
        """Return who takes a look."""
        return {Reading: self.take}

    def take(self, reading: Reading, now: float) -> None:
        """Judge a look, log what it means and do what it asks for."""
        settings = self._settings
        if settings is None or reading.interface != settings.interface:
            return
        before = (self.wrong, self.essid)
        self._reading = reading
        circumstances = self._circumstances(settings, reading)
        self._state, effects = recovery.judge(settings, self._state, reading, circumstances, now)
        for effect in effects:
            if isinstance(effect, recovery.Keep):
                if not self._kept(effect.budget):
                    break
            elif isinstance(effect, recovery.Step):
                self._step(effect)
            else:
                if isinstance(effect, recovery.Restored) and self._kernel.connected:
                    self._kernel.outages.mended()
                _tell(effect)
        if self.wrong and reading.outcome != "unknown" and not circumstances.other_default_route:
            self._kernel.outages.explained("interface" if reading.outcome == "absent" else "association")
        if (self.wrong, self.essid) != before:
            self._kernel.status_changed()

    def stuck(self, now: float) -> str:
        """Return the name of its thread where that is stuck."""
        return "" if self._thread.alive(now) else "wifi"

    def status(self) -> dict[str, Json]:
        """Return the last look, None where there was none."""
        reading = self._reading
        return {"wifi": None if reading is None else {
            "interface": reading.interface, "outcome": reading.outcome, "essid": self.essid, "bssid": reading.bssid,
            "rssi_dbm": reading.rssi_dbm, "frequency_mhz": reading.frequency_mhz, "reason": reading.reason}}

    def problems(self) -> list[str]:
        """Return whether the Wi-Fi is not as it should be."""
        return ["the Wi-Fi is not as it should be"] if self.wrong else []

    def sentences(self) -> list[str]:
        """Return the last look in words."""
        reading = self._reading
        looked = []
        if reading is not None:
            told = f"ESSID {self.essid}, {reading.rssi_dbm} dBm" if reading.outcome == "associated" else reading.reason
            looked = [f"{reading.interface}: {reading.outcome}, {told}"]
        return looked + ["one reboot at most until the Wi-Fi is right again, since it forgets the count of them"
                         ] * self._reboots_are_forgotten()

    def close(self, now: float) -> None:
        """End the thread after the look that it is making."""
        self._thread.close()

    def _reboots_are_forgotten(self) -> bool:
        return self._forgets and self._settings is not None and REBOOT in self._settings.recover

    def _step(self, step: recovery.Step) -> None:
        log.warning("recovery.step", f"{step.action} is asked for: {step.reason}", action=step.action,
                    reason=step.reason)
        self._kernel.outages.tried(step.action)
        if step.action == REBOOT:
            self._kernel.reboot(step.reason, partial(self._request, step))
        else:
            self._request(step)

    def _request(self, step: recovery.Step) -> None:
        """Leave a request for the recovery helper, the only one with the privilege to follow it."""
        try:
            self._world.files.write_request(self._requests / step.action, {"reason": step.reason})
        except OSError as error:
            log.error("recovery.failed", "the request for the recovery helper cannot be written", action=step.action,
                      reason=str(error))

    def _circumstances(self, settings: Wifi, reading: Reading) -> recovery.Circumstances:
        """Return what a step must respect; a right look needs none of it, so what is dear to learn is left out."""
        calm = recovery.is_right(settings, reading) and self._budget == recovery.Budget()
        return recovery.Circumstances(
            mqtt_connected=self._kernel.connected, boot_id=self._world.boot_id, uptime_s=self._world.uptime(),
            other_default_route=not calm and self._adapters.other_default_route(reading.interface),
            wall_s=None if calm else self._world.known_wall(), budget=self._budget, forgets=self._forgets)

    def _kept(self, new: recovery.Budget) -> bool:
        """Write the budget; tell whether it is on the disk. A failure that lasts is logged once."""
        try:
            self._world.files.write_text(self._budget_file, new.to_json(), durable=True)
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
