"""What iotd's unit (systemd/iotd.service) hides from the daemon, which whoever asks beside it sees. Pure."""

from __future__ import annotations

HOMES = ("/home", "/root", "/run/user")
TEMPORARY = ("/tmp", "/var/tmp")


def hides(path: str) -> str:
    """Return how a path is hidden and what shows it, nothing for one that is not; see systemd.exec(5)."""
    if f"{path}/".startswith(tuple(f"{place}/" for place in HOMES)):
        return "the unit hides home directories (ProtectHome=yes); put it elsewhere, as into /usr/local, or write " \
               "ProtectHome=read-only under [Service] in systemctl edit iotd"
    if f"{path}/".startswith(tuple(f"{place}/" for place in TEMPORARY)):
        return "the unit has a /tmp of its own (PrivateTmp=yes); put it elsewhere, as into /run or /usr/local, or " \
               "write PrivateTmp=no under [Service] in systemctl edit iotd"
    return ""
