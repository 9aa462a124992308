"""Odd but legal packets, each as a function of its ends: what is sent and what must come out are built by the same one,
and share nothing else. A port is where the protocol has it: also echo ids."""

from scapy.all import GRE, ICMP, IP, TCP, UDP, Raw
from scapy.layers.inet import IPOption, IPOption_NOP, IPOption_Router_Alert, IPOption_Security
from scapy.layers.inet6 import (HBHOptUnknown, ICMPv6EchoRequest, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop,
                                IPv6ExtHdrRouting, PadN, RouterAlert)
from scapy.layers.ipsec import AH, ESP
from scapy.layers.sctp import SCTP, SCTPChunkData, SCTPChunkInit, SCTPChunkParamCookiePreservative, SCTPChunkSACK

BULK = bytes(range(256)) * 4


def udp(body=b"a datagram", **fields):
    return lambda sport, dport: UDP(sport=sport, dport=dport, **fields) / Raw(body)


def tcp(flags="S", body=b"", **fields):
    return lambda sport, dport: TCP(sport=sport, dport=dport, flags=flags, seq=1000, ack=9000, **fields) / Raw(body)


def sctp(*chunks, tag=0):
    def build(sport, dport):
        packet = SCTP(sport=sport, dport=dport, tag=tag)
        for chunk in chunks:
            packet = packet / chunk.copy()
        return packet
    return build


INIT = SCTPChunkInit(init_tag=0xC11E0002, a_rwnd=100000, n_out_streams=10, n_in_streams=10, init_tsn=1,
                     params=[SCTPChunkParamCookiePreservative()])
TCP_OPTIONS = [("MSS", 1300), ("SAckOK", b""), ("Timestamp", (7, 9)), ("NOP", None), ("WScale", 7)]
SACKS = [("NOP", None), ("NOP", None), ("SAck", (1, 2, 5, 6, 8, 9, 11, 12))]

UDPS = {
    "udp": udp(),
    "udp of an odd length": udp(b"odd"),
    "udp without a byte": udp(b""),
    "udp of a large frame": udp(BULK + BULK[:301]),
}
TCPS = {
    "syn with options": tcp("S", options=TCP_OPTIONS),
    "syn with data": tcp("S", b"fast", options=TCP_OPTIONS),
    "syn that asks for ECN": tcp("SEC", options=[("MSS", 536)]),
    "segment with four sacks": tcp("A", b"data", options=SACKS),
    "urgent segment": tcp("PAU", b"!", urgptr=1),
    "segment with congestion told": tcp("PAEC", BULK),
    "segment of an odd length": tcp("A", b"odd"),
}
SCTPS = {"sctp init": sctp(INIT)}
# These pass where nothing is translated but addresses.
OTHERS = {
    "sctp data": sctp(SCTPChunkSACK(cumul_tsn_ack=1), SCTPChunkData(data=b"odd"), tag=0x5E4E0001),
    "gre": lambda sport, dport: GRE(key_present=1, key=7) / IP(src="10.9.9.9", dst="10.8.8.8") / UDP(sport=1, dport=2),
    "esp": lambda sport, dport: ESP(spi=sport, seq=1, data=b"secret" * 7),
    "ah": lambda sport, dport: AH(nh=17, spi=sport, seq=1, icv=b"0123456789ab", payloadlen=4) / UDP(sport=1, dport=2) / Raw(b"x"),
}
ECHOES_V4 = {
    "echo": lambda sport, dport: ICMP(id=sport, seq=3) / Raw(b"echo"),
    "echo of an odd length": lambda sport, dport: ICMP(id=sport, seq=3) / Raw(b"odd"),
}
ECHOES_V6 = {
    "echo": lambda sport, dport: ICMPv6EchoRequest(id=sport, seq=3, data=b"echo"),
    "echo of an odd length": lambda sport, dport: ICMPv6EchoRequest(id=sport, seq=3, data=b"odd"),
}

HEADERS_V4 = {
    "": {},
    "DF": {"flags": "DF", "id": 77},
    "all of TOS": {"tos": 0xFE},
    "NOP": {"options": [IPOption_NOP()] * 3},
    "router alert": {"options": [IPOption_Router_Alert()]},
    "security": {"options": [IPOption_Security()]},
    "40 bytes of options": {"options": [IPOption(copy_flag=1, optclass=0, option=30, length=40, value=b"\7" * 38)]},
}
HEADERS_V6 = {
    "": {},
    "all of traffic class": {"tos": 0xFE},
    "flow label": {"fl": 0xABCDE},
}
EXTENSIONS = {
    "hop by hop": [IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)])],
    "router alert": [IPv6ExtHdrHopByHop(options=[RouterAlert()])],
    "unknown option to skip": [IPv6ExtHdrHopByHop(options=[HBHOptUnknown(otype=0x1E, optdata=b"\1\2\3\4")])],
    "destination options": [IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 12)])],
    "routing without segments left": [IPv6ExtHdrRouting(type=253, segleft=0)],
    "three of them": [IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(), IPv6ExtHdrRouting(type=253, segleft=0)],
}


def chain(ip, headers):
    for header in headers:
        ip = ip / header.copy()
    return ip


def shapes(ends, l4s):
    """Every header with an ordinary packet behind it, and every packet behind an ordinary header."""
    first = next(iter(l4s))
    made = {}
    for name, l4 in l4s.items():
        made[name] = lambda src, dst, sport, dport, ttl, l4=l4: ends.ip(src, dst, ttl) / l4(sport, dport)
    for name, fields in (HEADERS_V6 if ends.v6 else HEADERS_V4).items():
        made[f"{first}, {name}"] = lambda src, dst, sport, dport, ttl, fields=fields: (
            ends.ip(src, dst, ttl, **fields) / l4s[first](sport, dport))
    if ends.v6:
        for name, headers in EXTENSIONS.items():
            made[f"{first} behind {name}"] = lambda src, dst, sport, dport, ttl, headers=headers: (
                chain(ends.ip(src, dst, ttl), headers) / l4s[first](sport, dport))
    else:
        zero = {"chksum": 0}
        made["udp without a checksum"] = lambda src, dst, sport, dport, ttl: (
            ends.ip(src, dst, ttl) / UDP(sport=1 if first != "udp" else sport, dport=dport, **zero) / Raw(b"none"))
    return made
