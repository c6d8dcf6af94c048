"""Which interfaces lead out, from tables as real kernels print them."""

from __future__ import annotations

import pytest

from iotd.wifi.routes import other_default_route, ways_out

IPV4 = """\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
"""
ETHERNET = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0     \n"
WIRELESS = "wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0    \n"
LOCAL = "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0    \n"
HALF = "tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0    \n"
DOWN = "eth1\t00000000\t010200C0\t0002\t0\t0\t0\t00000000\t0\t0\t0    \n"
UNREACHABLE = "*\t00000000\t00000000\t0200\t0\t0\t0\t00000000\t0\t0\t0    \n"
LOOPBACK = "lo\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0    \n"
POINT_TO_POINT = "ppp0\t00000000\t00000000\t0001\t0\t0\t700\t00000000\t0\t0\t0    \n"

ZERO = "0" * 32
IPV6_ETHERNET = f"{ZERO} 00 {ZERO} 00 fd000000000000000000000000000001 00000400 00000002 00000000 00000003     eth0\n"
IPV6_SOURCE = (f"{ZERO} 00 20010db8000000000000000000000000 40 fe800000000000000000000000000001 00000400 00000002 "
               "00000000 00000003    wwan0\n")
IPV6_LO = f"{ZERO} 00 {ZERO} 00 {ZERO} ffffffff 00000001 00000000 00200200       lo\n"
IPV6_LOCAL = f"fe8{'0' * 29} 40 {ZERO} 00 {ZERO} 00000100 00000002 00000000 00000001     eth0\n"
IPV6_LOOPBACK = f"{'0' * 31}1 80 {ZERO} 00 {ZERO} 00000000 00000002 00000000 80200001       lo\n"
IPV6_UNREACHABLE = f"{ZERO} 00 {ZERO} 00 {ZERO} 00000400 00000001 00000000 00200201     eth0\n"
IPV6_HALF = f"{ZERO} 01 {ZERO} 00 {ZERO} 00000400 00000001 00000000 00000001     tun0\n"


@pytest.mark.parametrize("ipv4, ipv6, names", [
    (IPV4, "", ""),
    ("", "", ""),
    (IPV4 + ETHERNET + LOCAL, "", "eth0"),
    (IPV4 + WIRELESS + ETHERNET, "", "eth0 wlan0"),
    (IPV4 + POINT_TO_POINT, "", "ppp0"),
    (IPV4 + LOCAL + HALF + DOWN + UNREACHABLE + LOOPBACK, "", ""),
    (IPV4, IPV6_LOCAL + IPV6_LOOPBACK + IPV6_LO + IPV6_UNREACHABLE + IPV6_HALF, ""),
    (IPV4 + WIRELESS, IPV6_LO + IPV6_ETHERNET, "eth0 wlan0"),
    (IPV4, IPV6_SOURCE, "wwan0"),
    (IPV4 + "eth0\t00000000\n\n???\neth0\t00000000\t0\tno\t0\t0\t0\t00000000\n" + ETHERNET, "", "eth0"),
    (IPV4, f"{ZERO} 00\n{ZERO} 00 {ZERO} 00 {ZERO} 0 0 0 none eth9\n" + IPV6_ETHERNET, "eth0"),
])
def test_a_way_out_is_a_usable_default_route_of_either_family(ipv4: str, ipv6: str, names: str) -> None:
    assert " ".join(sorted(ways_out(ipv4, ipv6))) == names


def test_no_interface_of_this_host_is_another_one_than_itself() -> None:
    """With no interface left out, any way out counts; with the only one left out, none does."""
    with open("/proc/self/net/route") as ipv4, open("/proc/self/net/ipv6_route") as ipv6:
        out = ways_out(ipv4.read(), ipv6.read())
    assert other_default_route("nowhere0") == bool(out)
    if len(out) == 1:
        assert not other_default_route(out.pop())
