"""The times of a run: what went wrong, when each step was taken, when all was well again. Writes docs/wifi.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping

from tests.vm.device import EVERY_S, GRACE_S, KEEPALIVE_S

COLUMNS = ("wifi.lost", "steps", "will", "mended", "wifi.restored", "session.connected", "delivered")
DOCUMENT = """\
# Wi-Fi that heals itself

Written by `script/test-vm --write`; do not edit.

## How it goes

Every `wifi.every` the worker asks the kernel (nl80211) what `wifi.interface` is associated with. A look finds the
Wi-Fi *right* (associated with one of `wifi.essid`), *wrong* (associated with another one, not associated, no such
interface) or *unknown* (the look itself failed). The first wrong look is `wifi.lost`, the next right one
`wifi.restored`. Once the looks have been wrong for `wifi.grace`, the first step of `wifi.recover` is taken; each
step then has `wifi.grace` to work before the next. After the last one the ladder begins again, with a pause that
doubles each time, up to an hour.

| step | with NetworkManager | without |
|---|---|---|
| `reconnect` | `nmcli device connect`; out of a wrong network: set free, to choose by `autoconnect-priority` | \
`wpa_cli reassociate` |
| `radio-cycle` | taken from NetworkManager, link down and up, given back | link down and up, `wpa_cli reassociate` |
| `restart-network` | the network services that are in use are restarted | the same |
| `reboot` | `systemctl reboot` | the same |

The daemon has no privilege for any of this. It leaves a request in `/run/iotd/recover`, which starts the helper
`iotd-recover@STEP.service`; that knows these four words and no more, reads itself in `/etc/iotd.yaml` which of them
are allowed and on which interface, and keeps a count of reboots of its own.

## What holds a step back

Each is logged once as `recovery.withheld`, with its reason; the step is taken as soon as the reason is gone.

- An unknown look counts neither as wrong nor as right: a driver that does not answer reboots nobody.
- An interface that was never there since iotd started is reported, and nothing else is done about it.
- While MQTT is connected nothing is done that could cut it: no `restart-network`, no `reboot`.
- No `reboot` while another interface has a default route.
- No `reboot` beyond `wifi.reboot.max_per_day`. The budget stands in `/var/lib/iotd/reboots.json`, on the disk before
  the reboot is asked for. One that cannot be read grants none; no jump of a clock makes it larger.
- Where a reboot forgets that file (a root in memory, an overlay), no `reboot` before the Wi-Fi has been right in this
  boot: one, and not a chain of them.
- No `reboot` before the host has been up for `wifi.reboot.min_uptime`, which doubles with each reboot that did not
  bring the Wi-Fi back.

Before the reboot all that waits for the broker is written to disk, and so is why. After it, Connected tells both:
`boot` (its id and cause) and `outage` (why, for how long, what was tried, how many messages waited and were dropped),
which is also the log line `outage.over`.

## How long it takes

Seconds after the event in the first column, from the journal of the device and from the broker's side, on a machine
with a real wlan0 (mac80211_hwsim under QEMU without KVM, so all is slower than on a Raspberry Pi) and the package
installed by apt. Here `wifi.every` is {every_s} s, `wifi.grace` {grace_s} s and `mqtt.keepalive` {keepalive_s} s,
that a test need not wait for minutes; with the defaults of 10 s, 120 s and 60 s the steps come 120 s apart, and the
will after up to 90 s.
*Mended* is when the cause was taken away from outside; where it is empty, iotd's own step mended it. *Delivered* is
when the last message that had waited was at the broker.

{table}
"""


@dataclass
class Timetable:
    """The rows of the table, in the order of the run."""

    rows: dict[str, Mapping[str, str]] = field(default_factory=dict)

    def add(self, what: str, since: float, steps: Mapping[str, float], **times: float) -> None:
        """Note a row: `times` and `steps` are epochs, `since` is when it happened; underscores stand for dots."""
        cells = {name.replace("_", "."): f"{at - since:.0f}" for name, at in times.items()}
        told = "; ".join(f"{step} {at - since:.0f}" for step, at in steps.items())
        self.rows[what] = {**cells, "steps": told}

    def table(self) -> str:
        """Return the rows as a Markdown table."""
        heads = [f"`{name}`" if "." in name else name for name in COLUMNS]
        lines = [["what happened", *heads], ["---", *("---:" if name != "steps" else "---" for name in COLUMNS)]]
        lines += [[what, *(cells.get(name, "") for name in COLUMNS)] for what, cells in self.rows.items()]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def document(self) -> str:
        """Return docs/wifi.md."""
        return DOCUMENT.format(every_s=EVERY_S, grace_s=GRACE_S, keepalive_s=KEEPALIVE_S, table=self.table())
