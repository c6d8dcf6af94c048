"""Which layer takes the blame, as tables."""

import pytest

from iotd.doctor import rows
from iotd.doctor.facts import (
    FAILED, NOT_SEEN, OK, WARNING, Address, Association, Backlog, Certificates, Clock, Configuration, Daemon, Disk, Dns,
    Facts, Gateway, Host, Interface, Mqtt, Policy, Tcp, Tls,
)

NOW, DAY_S = 1_800_000_000.0, 86400.0
WELL = Facts(
    Configuration("/etc/iotd.yaml"), Certificates({}, NOW - DAY_S, NOW + 300 * DAY_S, NOW + 3000 * DAY_S),
    Clock(NOW, True, NOW - 100 * DAY_S), Interface("wlan0", True, True, "up"),
    Association("associated", "fleet-ap", ("fleet-ap",), -50, ""), Address("wlan0", ("192.0.2.7",)),
    Gateway("192.0.2.1", "wlan0", "good", ""), Dns("broker.example", ("192.0.2.9",), ("192.0.2.1",)),
    Tcp(8883, "192.0.2.9"), Tls("", ""), Mqtt(True, "", "", "the daemon"), Policy(()), Backlog(0, 0, 0),
    Disk("/var/lib/iotd", 1 << 30, False), Host(0, 200 << 20, True, 0, "15s"),
    Daemon(True, "active", "success", 0, 3.0))
LOST = Mqtt(False, "tcp", "no answer", "the daemon")


def levels(facts: Facts) -> dict[str, str]:
    return {finding.layer: finding.level for finding in rows.judge(facts)}


def test_a_healthy_device_raises_no_alarm() -> None:
    findings = rows.judge(WELL)
    assert {finding.level for finding in findings} == {OK}
    assert [finding.layer for finding in findings] == list(Facts._fields)
    assert (rows.cause(findings), rows.verdict(findings)) == (None, "all is well")


# A wired device with the section wifi of the sample.
WIRED = WELL._replace(
    interface=Interface("wlan0", False, False), address=Address("wlan0", ()), gateway=Gateway(
        "192.0.2.1", "eth0", "good", ""),
    association=Association("absent", None, ("fleet-ap",), None, "there is no interface wlan0"))


@pytest.mark.parametrize("facts, verdict", [
    (WIRED, "all is well, with 2 warnings"),
    (WIRED._replace(dns=Dns("b", (), ("192.0.2.1",), "not known"), tcp=None, tls=None, mqtt=LOST), "dns: "),
    (WIRED._replace(gateway=Gateway("192.0.2.1", "eth0", "bad", "no ARP"), tcp=None, tls=None, mqtt=LOST), "gateway: "),
    (WIRED._replace(certificates=Certificates({"key": "does not fit"}), mqtt=LOST), "certificates: "),
    (WIRED._replace(gateway=Gateway(None, None, "bad", "")), "all is well"),
])
def test_a_wifi_that_a_wired_device_does_not_have_takes_no_blame(facts: Facts, verdict: str) -> None:
    findings = rows.judge(facts)
    assert rows.verdict(findings).startswith(verdict)
    assert [finding.layer for finding in findings if finding.level == WARNING] == ["interface", "association"]
    assert all("leave the section wifi out" in finding.fix for finding in findings if finding.level == WARNING)


@pytest.mark.parametrize("facts, layer", [
    (WELL._replace(configuration=Configuration("f", ("f:3: mqtt.prt: unknown key",)), mqtt=None), "configuration"),
    (WELL._replace(certificates=Certificates({"key": "does not fit"}), mqtt=LOST), "certificates"),
    (WELL._replace(certificates=Certificates({}, 0.0, NOW - 1, NOW + 1), mqtt=LOST), "certificates"),
    (WELL._replace(clock=Clock(NOW - 200 * DAY_S, False, NOW), mqtt=LOST, tls=Tls("clock", "not yet")), "clock"),
    (WELL._replace(certificates=Certificates({}, NOW + DAY_S, NOW + 9 * DAY_S, None), mqtt=LOST), "clock"),
    (WELL._replace(interface=Interface("wlan0", False, False), association=Association(
        "absent", None, (), None, "gone"), address=None, gateway=Gateway(None, None, "bad", ""), dns=Dns(
            "b", (), (), "no"), tcp=None, tls=None, mqtt=LOST), "interface"),
    (WELL._replace(interface=Interface("wlan0", True, True, "down", "soft"), association=Association(
        "disconnected", None, (), None, "off"), mqtt=LOST), "interface"),
    (WELL._replace(association=Association("associated", "guest", ("fleet-ap",), -50, ""), mqtt=LOST), "association"),
    (WELL._replace(association=Association("disconnected", None, (), None, "off"), address=Address("wlan0", ()),
                   gateway=Gateway(None, None, "bad", ""), mqtt=LOST), "association"),
    (WELL._replace(address=Address("wlan0", ("169.254.1.2",)), gateway=Gateway(None, None, "bad", ""), dns=Dns(
        "b", (), ("192.0.2.1",), "timed out"), tcp=None, tls=None, mqtt=LOST), "address"),
    (WELL._replace(gateway=Gateway(None, None, "bad", ""), dns=Dns("b", (), ("192.0.2.1",), "timed out"), tcp=None,
                   mqtt=LOST), "gateway"),
    (WELL._replace(gateway=Gateway("192.0.2.1", "eth0", "bad", "no ARP"), tcp=None, tls=None, mqtt=LOST), "gateway"),
    (WELL._replace(dns=Dns("b", (), ()), tcp=None, tls=None, mqtt=LOST), "dns"),
    (WELL._replace(tcp=Tcp(8883, "", {"192.0.2.9": "connection refused"}), tls=None, mqtt=LOST), "tcp"),
    (WELL._replace(gateway=Gateway(None, None, "bad", ""), tcp=Tcp(8884, "", {"192.0.2.9": "connection refused"}),
                   tls=None, mqtt=LOST), "tcp"),
    (WELL._replace(tls=Tls("certificate", "self-signed"), mqtt=LOST), "tls"),
    (WELL._replace(tls=Tls("tls", "wrong version number"), mqtt=LOST), "tls"),
    (WELL._replace(mqtt=Mqtt(False, "refused", "the broker refuses this device", "this look")), "mqtt"),
    (WELL._replace(mqtt=Mqtt(True, "", "", "the daemon", contested=True)), "mqtt"),
    (WELL._replace(policy=Policy(("publish to a denied",))), "policy"),
    (WELL._replace(disk=Disk("/var/lib/iotd", 0, False)), "disk"),
    (WELL._replace(disk=Disk("/var/lib/iotd", 1 << 30, True)), "disk"),
    (WELL._replace(daemon=Daemon(False, "inactive", "success", 0, None)), "daemon"),
    (WELL._replace(daemon=Daemon(True, "active", "success", 0, 300.0)), "daemon"),
])
def test_the_lowest_failed_layer_is_the_cause_and_says_what_to_do(facts: Facts, layer: str) -> None:
    findings = rows.judge(facts)
    lowest = rows.cause(findings)
    assert lowest is not None and lowest.layer == layer and lowest.fix
    assert rows.verdict(findings).startswith(f"{layer}: ")
    assert {finding.consequence_of for finding in findings if finding.level == FAILED} <= {None, layer}


@pytest.mark.parametrize("facts, layer", [
    (WELL._replace(certificates=Certificates({}, 0.0, NOW + 5 * DAY_S, None)), "certificates"),
    (WELL._replace(clock=Clock(NOW, False, 0.0)), "clock"),
    (WELL._replace(interface=Interface("wlan0", True, True, "up", power_save=True)), "interface"),
    (WELL._replace(association=Association("associated", "fleet-ap", (), -85, "")), "association"),
    (WELL._replace(backlog=Backlog(3, 100, 7)), "backlog"),
    (WELL._replace(backlog=Backlog(5000, 1 << 20, 0)), "backlog"),
    (WELL._replace(disk=Disk("/var/lib/iotd", 20 << 20, False)), "disk"),
    (WELL._replace(host=Host(0x1, None, True, 0, "15s")), "host"),
    (WELL._replace(host=Host(0x10000, None, True, 0, "15s")), "host"),
    (WELL._replace(host=Host(0, 1 << 20, True, 0, "15s")), "host"),
    (WELL._replace(host=Host(0, None, True, 4, "15s")), "host"),
    (WELL._replace(host=Host(0, None, False, 0, "15s")), "host"),
    (WELL._replace(daemon=Daemon(True, "active", "watchdog", 1, 3.0)), "daemon"),
])
def test_what_should_not_stay_so_is_a_warning_and_no_failure(facts: Facts, layer: str) -> None:
    assert {name for name, level in levels(facts).items() if level != OK} == {layer}
    assert levels(facts)[layer] == WARNING and rows.cause(rows.judge(facts)) is None
    assert rows.verdict(rows.judge(facts)) == "all is well, with 1 warning"


def test_what_nobody_could_look_at_is_not_seen_and_blames_nobody() -> None:
    assert set(levels(Facts()).values()) == {NOT_SEEN}
    assert rows.cause(rows.judge(Facts())) is None


@pytest.mark.parametrize("facts", [
    WELL._replace(gateway=Gateway(None, None, "bad", "")),
    WELL._replace(gateway=Gateway(None, None, "bad", ""), mqtt=None, dns=Dns("localhost", ("127.0.0.1",), ())),
    WELL._replace(gateway=Gateway("192.0.2.1", "eth0", "bad", "no ARP")), WELL._replace(address=Address("wlan0", ())),
])
def test_what_is_not_in_the_way_to_the_broker_is_no_failure(facts: Facts) -> None:
    assert rows.cause(rows.judge(facts)) is None
