"""How each layer is judged by what was seen of it, beside all other facts: the finding, and what to do. Pure."""

import math
from datetime import datetime, timezone

from iotd.doctor.facts import (
    FAILED, NOT_SEEN, OK, WARNING, Address, Association, Backlog, Certificates, Clock, Configuration, Daemon, Disk, Dns,
    Facts, Gateway, Host, Interface, Mqtt, Policy, Tcp, Tls,
)

DAY_S = 86400.0
EXPIRY_WARNING_S = 30 * DAY_S
WEAK_DBM = -75
FULL_BYTES = 1 << 20  # below that SQLite cannot move what waits to the disk
SCARCE_BYTES = 50 << 20
SCARCE_MEMORY_BYTES = 32 << 20
STALE_S = 60.0
BACKLOG_WARNING = 1000

WITHOUT_WIFI = "on a wired device leave the section wifi out; else look at: ip link; dmesg | grep -i firmware"
OF_THIS_DEVICE = "this device's certificate"  # as a broker refuses it in TLS, amid the handshake or after it

Judgement = tuple[str, str, str]  # level, finding, what to do


def configuration(seen: Configuration, facts: Facts) -> Judgement:
    if seen.problems:
        return FAILED, seen.problems[0] + _more(seen.problems), f"mend it in {seen.file}, then: iotd check"
    if seen.warnings:
        return WARNING, seen.warnings[0] + _more(seen.warnings), "iotd check prints all of them"
    return OK, f"{seen.file} has no problem", ""


def certificates(seen: Certificates, facts: Facts) -> Judgement:
    if seen.problems:
        key, text = next(iter(seen.problems.items()))
        return FAILED, f"mqtt.tls.{key}: {text}" if key else text, \
            "put a certificate and its key, a pair, under the names of mqtt.tls"
    now, clock_is_right = (facts.clock.wall, facts.clock.wall >= facts.clock.built_at) if facts.clock else (0.0, False)
    for end, what in ((seen.ends_at, "the certificate"), (seen.authority_ends_at, "the authority's certificate")):
        if end is not None and clock_is_right and end < now:
            return FAILED, f"{what} expired on {_date(end)}", "get a new one, and put it in the old one's place"
    if seen.ends_at is not None and clock_is_right and seen.ends_at < now + EXPIRY_WARNING_S:
        return WARNING, f"the certificate ends in {math.ceil((seen.ends_at - now) / DAY_S)} days", "renew it before"
    return OK, "fit each other" + (f", until {_date(seen.ends_at)}" if seen.ends_at is not None else ""), ""


def clock(seen: Clock, facts: Facts) -> Judgement:
    sync = "let time come in: systemctl enable --now systemd-timesyncd; timedatectl tells how it goes"
    if seen.wall < seen.built_at:
        return FAILED, f"it is {_date(seen.wall)} here, before this iotd was built ({_date(seen.built_at)})", sync
    begins_at = facts.certificates.begins_at if facts.certificates else None
    if begins_at is not None and begins_at > seen.wall:
        return FAILED, f"it is {_date(seen.wall)} here, before the certificate begins ({_date(begins_at)})", sync
    if facts.tls is not None and facts.tls.cause == "clock":
        return FAILED, f"by this clock ({_date(seen.wall)}) the broker's certificate is not valid yet", sync
    if seen.is_set is False:
        return WARNING, "nobody has set it yet; it looks plausible", sync
    return OK, f"{_date(seen.wall)}" + ("" if seen.is_set is None else ", synchronised"), ""


def interface(seen: Interface, facts: Facts) -> Judgement:
    if not seen.exists and _leads_out_beside(seen.name, facts):
        return WARNING, f"there is no interface {seen.name}, and another leads out", WITHOUT_WIFI
    if not seen.exists:
        return FAILED, f"there is no interface {seen.name}", "look at: ip link; dmesg | grep -i firmware"
    if seen.blocked:
        return FAILED, f"{seen.name} is {seen.blocked} blocked", \
            "rfkill unblock wifi" if seen.blocked == "soft" else "switch its radio on: a hardware switch or the BIOS"
    if seen.state in ("off", "down") and _is_near(facts):
        return OK, f"{seen.name} is {seen.state}, and is not needed to reach the broker", ""
    if seen.state == "off":
        return FAILED, f"{seen.name} is switched off", f"ip link set {seen.name} up; who switched it off? nmcli device"
    if seen.state == "down" and not seen.is_wifi:
        return FAILED, f"{seen.name} has no carrier", "look at the cable and at what it is plugged into"
    if seen.power_save:
        return WARNING, f"{seen.name} saves power, which delays and loses packets", \
            f"iw dev {seen.name} set power_save off"
    return OK, f"{seen.name} is there", ""


def association(seen: Association, facts: Facts) -> Judgement:
    if seen.outcome == "unknown":
        return NOT_SEEN, seen.reason, ""
    if seen.outcome == "absent" and _leads_out_beside(facts.interface.name if facts.interface else "", facts):
        return WARNING, seen.reason, WITHOUT_WIFI
    expected = " or ".join(map(repr, seen.expected))
    if seen.outcome != "associated":
        return FAILED, f"{seen.reason}{f', expected {expected}' if expected else ''}", \
            "is the access point on, and its name and passphrase as configured? nmcli device wifi list"
    if seen.expected and seen.essid not in seen.expected:
        return FAILED, f"associated with {seen.essid!r}, expected {expected}", \
            f"nmcli connection up {seen.expected[0]!r}, or add the network to wifi.essid"
    if seen.rssi_dbm is not None and seen.rssi_dbm < WEAK_DBM:
        return WARNING, f"{seen.essid!r}, with a weak signal of {seen.rssi_dbm} dBm", \
            "move the device or the access point"
    signal = "" if seen.rssi_dbm is None else f", {seen.rssi_dbm} dBm"
    return OK, f"associated with {seen.essid!r}{signal}", ""


def address(seen: Address, facts: Facts) -> Judgement:
    if not seen.addresses and facts.interface is not None and not facts.interface.exists \
            and _leads_out_beside(seen.interface, facts):
        return OK, f"{seen.interface} has none, and another interface leads out", ""
    if not seen.addresses and _is_near(facts):
        return OK, f"{seen.interface} has none, and none is needed to reach the broker", ""
    if not seen.addresses:
        return FAILED, f"{seen.interface} has no address", \
            "is there a DHCP server? nmcli device show; journalctl -b | grep -i dhcp"
    if all(address.startswith("169.254.") for address in seen.addresses):
        return FAILED, f"{seen.interface} has given itself {seen.addresses[0]}: no DHCP server answered", \
            "look at the router's DHCP, and whether it has addresses left"
    return OK, f"{seen.interface} has {', '.join(seen.addresses[:2])}", ""


def gateway(seen: Gateway, facts: Facts) -> Judgement:
    if seen.address is None:
        if _is_near(facts):
            return OK, "no default route, and none is needed to reach the broker", ""
        return FAILED, "there is no default route", "ip route; is the gateway part of what DHCP or the profile gives?"
    if seen.outcome == "bad" and _is_near(facts):
        return OK, f"{seen.address} is silent, and is not needed to reach the broker", ""
    if seen.outcome == "bad":
        return FAILED, f"the gateway {seen.address} is silent: {seen.reason}", \
            "is the router on? ping it; look at its cable"
    if seen.outcome == "unknown":
        return NOT_SEEN, f"whether {seen.address} answers: {seen.reason}", ""
    return OK, f"{seen.address} answers", ""


def dns(seen: Dns, facts: Facts) -> Judgement:
    if seen.addresses:
        return OK, f"{seen.host} is {', '.join(seen.addresses[:3])}", ""
    if seen.servers == ():
        return FAILED, "no name server is configured", "nmcli device show | grep DNS; cat /etc/resolv.conf"
    if "not known" in seen.reason or "No address" in seen.reason:
        return FAILED, f"{seen.host}: {seen.reason}", \
            f"is it written right in the configuration? getent hosts {seen.host}"
    return FAILED, f"{seen.host}: {seen.reason}", \
        f"does a name server answer? getent hosts {seen.host}; configured in /etc/resolv.conf" + (
            f": {', '.join(seen.servers[:3])}" if seen.servers else "")


def tcp(seen: Tcp, facts: Facts) -> Judgement:
    if seen.connected:
        return OK, f"{seen.connected} port {seen.port} answers", ""
    address, why = next(iter(seen.failures.items()), ("", "no address"))
    return FAILED, f"{address} port {seen.port}: {why}" if address else why, \
        f"is port {seen.port} open on the way out? on AWS mqtt.port: 443 passes more firewalls"


def tls(seen: Tls, facts: Facts) -> Judgement:
    if not seen.cause:
        return OK, f"the broker's certificate is verified{f', issued by {seen.issuer}' if seen.issuer else ''}", ""
    if OF_THIS_DEVICE in seen.reason:
        return FAILED, seen.reason, "is it registered and active at the broker, and of an authority that it knows?"
    if seen.cause == "certificate":
        return FAILED, seen.reason, "is mqtt.tls.ca the authority of this broker, and mqtt.host a name in its " \
            "certificate? a captive portal or an inspecting firewall shows one of its own"
    if seen.cause == "clock":
        return FAILED, seen.reason, "see clock"
    return FAILED, seen.reason, "does this port speak TLS? 8883 does, 1883 does not; and what does the broker ask for?"


def mqtt(seen: Mqtt, facts: Facts) -> Judgement:
    if seen.contested:
        return FAILED, "a second client has the same client id: each ends the line of the other", \
            "find the copied card, or the second thing of this name; give each device its own"
    if seen.connected:
        return OK, f"the broker takes this device (seen by {seen.by})", ""
    if seen.cause in ("refused", "closed") or OF_THIS_DEVICE in seen.reason:
        return FAILED, seen.reason, "is the certificate, or the user, registered and active at the broker, and its " \
            "policy one that allows to connect under this client id?"
    if not seen.cause:
        return NOT_SEEN, "the daemon dials for the first time", ""
    return FAILED, seen.reason or "not connected", "the reason is in: journalctl -u iotd -g session"


def policy(seen: Policy, facts: Facts) -> Judgement:
    if seen.denied:
        return FAILED, f"denied: {seen.denied[0]}{_more(seen.denied)}", \
            "allow it in the policy of this device's certificate"
    return OK, "nothing is denied", ""


def backlog(seen: Backlog, facts: Facts) -> Judgement:
    waits = f"{seen.waiting} messages wait, {seen.waiting_bytes} bytes"
    gone = f"{seen.dropped} messages had to go; " if seen.dropped else ""
    if seen.set_aside:
        return WARNING, f"{gone}{seen.set_aside} messages ended the line, or were never acknowledged, and are set " \
            f"aside; {waits}", "iotd status names their topics, journalctl -u iotd -g publish.set_aside tells why"
    if gone:
        return WARNING, f"{gone}{waits}", "journalctl -u iotd -g spool.dropped tells why"
    if seen.waiting > BACKLOG_WARNING:
        return WARNING, waits, "it drains once the line is good"
    return OK, waits, ""


def disk(seen: Disk, facts: Facts) -> Judgement:
    if seen.read_only:
        return FAILED, f"{seen.path} is read-only", \
            "dmesg | grep -i 'i/o error'; a worn card turns read-only: replace it"
    if seen.failures:
        return FAILED, seen.failures[0], "dmesg | grep -i mmc; df -h"
    if seen.free_bytes < FULL_BYTES:
        return FAILED, f"{seen.path} is full", "df -h; journalctl --disk-usage; apt clean"
    if seen.free_bytes < SCARCE_BYTES:
        return WARNING, f"{seen.path} has {seen.free_bytes >> 20} MB left", "df -h; journalctl --vacuum-size=50M"
    return OK, f"{seen.free_bytes >> 20} MB are free at {seen.path}", ""


def host(seen: Host, facts: Facts) -> Judgement:
    if seen.throttled is not None and seen.throttled & 1:
        return WARNING, "the supply voltage is too low now", "a supply with enough current, and a short, thick cable"
    if seen.throttled is not None and seen.throttled & 1 << 16:
        return WARNING, "the supply voltage has been too low since this boot", "a better power supply or cable"
    if seen.throttled is not None and seen.throttled & 0xE:
        return WARNING, "the processor is held back by its heat", "a heat sink, air, shade"
    if seen.memory_available is not None and seen.memory_available < SCARCE_MEMORY_BYTES:
        return WARNING, f"only {seen.memory_available >> 20} MB of memory are free", "systemd-cgtop -m tells who has it"
    if seen.autoconnect_retries not in (None, 0, -1):
        return WARNING, f"NetworkManager gives a network up after {seen.autoconnect_retries} tries", \
            "set connection.autoconnect-retries-default=0 in /etc/NetworkManager/NetworkManager.conf, under [main]"
    if seen.journal_is_kept is False:
        return WARNING, "the journal does not outlive a reboot", \
            "mkdir -p /var/log/journal && systemctl restart systemd-journald"
    if seen.runtime_watchdog in ("0", "off"):
        return WARNING, "the hardware watchdog is off", \
            "RuntimeWatchdogSec=15s in /etc/systemd/system.conf (at most 15 s on a Pi)"
    return OK, "power, memory and services are as they should be", ""


def daemon(seen: Daemon, facts: Facts) -> Judgement:
    if not seen.running:
        why = f" ({seen.active}, {seen.result})" if seen.result not in ("", "success") else f" ({seen.active})"
        return FAILED, f"iotd does not run{why}", "systemctl start iotd; why it ended: journalctl -u iotd -n 20"
    if seen.status_age_s is None or seen.status_age_s > STALE_S:
        return FAILED, "iotd runs and has not said for a while how it is", "it may hang: journalctl -u iotd -n 20"
    if seen.result == "watchdog":
        return WARNING, f"systemd's watchdog had to end iotd; {seen.restarts} restarts", \
            "journalctl -u iotd -g watchdog"
    if seen.restarts > 0:
        return WARNING, f"systemd has started iotd again {seen.restarts} times", "journalctl -u iotd -p warning"
    return OK, "runs", ""


def _leads_out_beside(interface: str, facts: Facts) -> bool:
    """Tell whether this host gets out, or to its broker, by another interface than this one."""
    route = facts.gateway.interface if facts.gateway is not None else None
    return route not in (None, interface) or _is_near(facts)


def _is_near(facts: Facts) -> bool:
    """Tell whether the broker is reached without a gateway: it answers, if only to refuse, or it is on this host."""
    if facts.tcp is not None and facts.tcp.connected or facts.mqtt is not None and facts.mqtt.connected:
        return True
    if facts.tcp is not None and any("connection refused" in why for why in facts.tcp.failures.values()):
        return True
    addresses = facts.dns.addresses if facts.dns is not None else ()
    return bool(addresses) and all(address.startswith("127.") or address == "::1" for address in addresses)


def _more(items: tuple[str, ...]) -> str:
    return f" (and {len(items) - 1} more)" if len(items) > 1 else ""


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
