"""The air around a machine: access points with a network of their own behind them, and how wlan0 joins one.

Each access point is a second radio of mac80211_hwsim in a network namespace that has its name and holds 10.0.N.1.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.vm.machine import Machine

ACCESS_POINTS = {"fleet": 1, "guest": 2}  # the number of the radio, of the interface and of the network
CHANNEL, FREQUENCY_MHZ = 6, 2437
COUNTRY = "BZ"  # one with few channels, so that a scan takes one second and not four
PASSPHRASE = "correct horse"
# A script for `wait_until`; nmcli is dear to emulate, so it is left out until the link is up.
CONNECTED = ("grep -q up /sys/class/net/wlan0/operstate && "
             "nmcli --terse --fields general.state device show wlan0 | grep -q ^GENERAL.STATE:100")


class Heard(NamedTuple):
    """A message as a broker passed it on: when (epoch, seconds, the guest's clock) and with which retain flag."""

    at: float
    retain: bool
    topic: str
    payload: bytes


def open_air(machine: Machine) -> None:
    """Give the machine its wlan0, and each access point a radio in its namespace. Lasts until the next boot."""
    # eth0 too: NetworkManager would take off the address that a scenario gives the wired way out.
    others = ";".join(f"interface-name:{name}" for name in ("eth0", *(f"wlan{n}" for n in ACCESS_POINTS.values())))
    machine.run(f"printf '[keyfile]\\nunmanaged-devices={others}\\n' > /etc/NetworkManager/conf.d/air.conf")
    machine.wait_until("systemctl reload NetworkManager")  # the boot may not be over
    machine.run(f"modprobe mac80211_hwsim radios={1 + len(ACCESS_POINTS)}\niw reg set {COUNTRY}\nudevadm settle")
    for name, number in ACCESS_POINTS.items():
        machine.run(f"ip netns add {name}\niw phy phy{number} set netns name {name}\n"
                    f"ip -n {name} link set lo up")


def start_access_point(machine: Machine, name: str, ssid: bytes, hidden: bool = False) -> str:
    """Start an access point (WPA2) and return its BSSID."""
    number = ACCESS_POINTS[name]
    machine.run(f"""
cat > /run/{name}.conf <<'END'
interface=wlan{number}
driver=nl80211
ssid2={ssid.hex()}
ignore_broadcast_ssid={int(hidden)}
hw_mode=g
channel={CHANNEL}
wpa=2
wpa_key_mgmt=WPA-PSK
rsn_pairwise=CCMP
wpa_passphrase={PASSPHRASE}
END
systemd-run --quiet --collect --unit=ap-{name} ip netns exec {name} hostapd /run/{name}.conf
""")
    machine.wait_until(f"[ $(ip netns exec {name} cat /sys/class/net/wlan{number}/operstate) = up ]")
    return machine.run(f"ip -n {name} address replace 10.0.{number}.1/24 dev wlan{number}\n"
                       f"ip netns exec {name} cat /sys/class/net/wlan{number}/address").strip()


def stop_access_point(machine: Machine, name: str) -> None:
    """Shut the access point down in order: it bids its stations farewell."""
    machine.run(f"systemctl stop ap-{name}")


def cut_access_point(machine: Machine, name: str) -> float:
    """Take the access point off the air without a word, as a power cut does; return when (epoch, the guest's clock)."""
    return float(machine.run(f"date +%s.%N\nsystemctl kill --signal=KILL ap-{name}\n"
                             f"ip -n {name} link set wlan{ACCESS_POINTS[name]} down"))


def join(machine: Machine, name: str, ssid: bytes, passphrase: str = PASSPHRASE, hidden: bool = False,
         priority: int = 0) -> None:
    """Have NetworkManager join this network by itself, now and whenever it can; the address is fixed."""
    number = ACCESS_POINTS[name]
    machine.run(f"""
profile=/etc/NetworkManager/system-connections/{name}.nmconnection
rm -f "$profile"
umask 077
cat > "$profile" <<'END'
[connection]
id={name}
type=wifi
interface-name=wlan0
autoconnect-priority={priority}
[wifi]
ssid={"".join(f"{byte};" for byte in ssid)}
hidden={str(hidden).lower()}
[wifi-security]
key-mgmt=wpa-psk
psk={passphrase}
[ipv4]
method=manual
address1=10.0.{number}.2/24,10.0.{number}.1
[ipv6]
method=disabled
END
nmcli connection reload
""")
    machine.wait_until(f"nmcli --wait 0 connection up {name}")  # refused until NetworkManager has wlan0 in hand


def start_broker(machine: Machine, name: str) -> None:
    """Start a mosquitto (port 1883) behind the access point, and a client of it that notes all it hears."""
    machine.run(f"""
printf 'listener 1883 0.0.0.0\\nallow_anonymous true\\n' > /run/broker-{name}.conf
systemd-run --quiet --collect --unit=broker-{name} ip netns exec {name} mosquitto -c /run/broker-{name}.conf
""")
    machine.wait_until(f"ip netns exec {name} mosquitto_pub -t started -n")
    machine.run(f"systemd-run --quiet --collect --unit=listener-{name} -p StandardOutput=truncate:/share/{name}.heard "
                f"ip netns exec {name} mosquitto_sub -t '#' -F '%U %r %x %t'")
    machine.wait_until(f"ip netns exec {name} mosquitto_pub -t listening -n; grep -q listening /share/{name}.heard")


def heard(machine: Machine, name: str) -> list[Heard]:
    """Return every message that the broker behind this access point has passed on, in order."""
    whole, _, _ = (machine.share / f"{name}.heard").read_text("utf-8").rpartition("\n")  # the last may be half written
    lines = (line.split(" ", 3) for line in whole.splitlines())
    return [Heard(float(at), retain == "1", topic, bytes.fromhex(payload)) for at, retain, payload, topic in lines
            if topic not in ("started", "listening")]


def clear_air(machine: Machine) -> None:
    """Shut all access points down, have NetworkManager forget their networks, leave it wlan0 and no wired way."""
    units = " ".join(f"{kind}-{name}" for kind in ("ap", "broker", "listener") for name in ACCESS_POINTS)
    machine.run(f"nmcli connection delete {' '.join(ACCESS_POINTS)} || true\nsystemctl stop {units} || true\n"
                "[ ! -e /sys/class/net/eth0 ] || ip link del eth0\n"
                "[ -e /sys/class/net/wlan0 ] || iw phy phy0 interface add wlan0 type managed\n"
                "nmcli device set wlan0 managed yes || true")
