"""The cluster of the tests (tests/support) for scapy: who is where, and what a packet looks like on which wire."""

import logging

from scapy.all import IP, UDP, Ether, IPv6, conf, raw
from scapy.contrib.geneve import GENEVE
from scapy.layers.vxlan import VXLAN

conf.verb = 0
logging.getLogger("scapy").setLevel(logging.ERROR)
VNI = 7
GATEWAY_MAC = "02:fa:00:00:00:01"
ROUTER_MAC = "02:ee:00:00:00:fe"
POD_MAC = {"pod4": "02:0d:00:00:01:04", "pod5": "02:0d:00:00:01:05"}
UPLINK_MAC = {1: "02:aa:00:00:00:01", 2: "02:aa:00:00:00:02"}
SNAT_PORTS = range(40000, 41000)
ENTROPY_PORTS = range(49152, 65536)
# How nodes reach each other, and over which family.
KINDS = ["vxlan4", "geneve4", "ipip4", "vxlan6", "geneve6", "ipip6"]


class Ends:
    """The addresses of one family."""

    def __init__(self, *addresses):
        self.node, self.peer, self.client, self.gateway, self.a, self.b, self.remote, self.service = addresses
        self.v6 = ":" in self.a

    def ip(self, src, dst, ttl, tos=0, **fields):
        if self.v6:
            return IPv6(src=src, dst=dst, hlim=ttl, tc=tos, **fields)
        return IP(src=src, dst=dst, ttl=ttl, tos=tos, **fields)


V4 = Ends("192.168.0.1", "192.168.0.2", "203.0.113.9", "10.1.1.1", "10.1.1.4", "10.1.1.5", "10.1.2.4", "172.30.0.10")
V6 = Ends("2001:db8:192::1", "2001:db8:192::2", "2001:db8:999::9", "2001:db8:1::1", "2001:db8:1::4", "2001:db8:1::5",
          "2001:db8:2::4", "2001:db8:30::a")


def from_pod(pod, packet):
    return Ether(src=POD_MAC[pod], dst=GATEWAY_MAC) / packet


def to_pod(pod, packet):
    return Ether(src=GATEWAY_MAC, dst=POD_MAC[pod]) / packet


def from_outside(packet):
    return Ether(src=ROUTER_MAC, dst=UPLINK_MAC[1]) / packet


def to_outside(packet):
    return Ether(src=UPLINK_MAC[1], dst=ROUTER_MAC) / packet


def inner_mac(kind, node):
    return f"02:fa:00:00:00:{node:02x}" if kind.endswith("6") else f"02:fa:c0:a8:00:{node:02x}"


def wrap(kind, sender, inner, port=55555, choice=0, options=()):
    """The tunnel packet of node 1 or 2 to the other, around an IP packet."""
    ends = V6 if kind.endswith("6") else V4
    src, dst = (ends.node, ends.peer) if sender == 1 else (ends.peer, ends.node)
    tos = inner.tc if isinstance(inner, IPv6) else inner.tos
    fields = {"fl": choice} if ends.v6 else {"flags": "DF", "id": choice}
    outer = Ether(src=UPLINK_MAC[sender], dst=UPLINK_MAC[3 - sender]) / ends.ip(src, dst, 64, tos, **fields)
    if kind.startswith("ipip"):
        return outer / inner
    frame = Ether(src=inner_mac(kind, sender), dst=inner_mac(kind, 3 - sender)) / inner
    if kind.startswith("vxlan"):
        return outer / UDP(sport=port, dport=4789, chksum=0) / VXLAN(flags=8, vni=VNI) / frame
    return outer / UDP(sport=port, dport=6081, chksum=0) / GENEVE(vni=VNI, proto=0x6558, options=list(options)) / frame


def tunnelled(kind, inner, actual):
    """What leaves through the tunnel. The outer UDP port, IPv4 id and flow label are the sender's to choose."""
    if kind.startswith("ipip"):
        port = 0
    else:
        port = actual[UDP].sport
        assert port in ENTROPY_PORTS, f"outer source port {port}"
    return wrap(kind, 1, inner, port, actual[IPv6].fl if kind.endswith("6") else actual[IP].id)


def same(actual, expected):
    """Byte by byte, as scapy builds what is expected."""
    actual, expected = raw(actual), raw(expected)
    if actual != expected:
        want, got = Ether(expected), Ether(actual)
        raise AssertionError(f"expected {want!r}\n      {expected.hex()}\n  got {got!r}\n      {actual.hex()}")


def only(outs, place):
    """The one packet that came out, at this place."""
    assert [out[0] for out in outs] == [place], f"expected one packet at {place}, got {outs}"
    return outs[0][1]
