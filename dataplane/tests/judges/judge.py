"""Builds packets with scapy and judges what Fairway made of them. Talks to the test that started it (judges/scapy.rs): what
is to be sent lies in asked.pcap, with a line "CASE PLACE" for each packet on stdout and "go" behind them; what came out is
then in answered.pcap, with such lines on stdin and "end" behind them. Exits with 1 if anything is wrong, which stderr tells."""

import os
import sys

from scapy.all import ICMP, IP, UDP, Ether, IPv6, Raw, defragment, fragment, raw, rdpcap, wrpcap
from scapy.layers.inet6 import (ICMPv6DestUnreach, ICMPv6PacketTooBig, ICMPv6TimeExceeded, IPv6ExtHdrFragment,
                                defragment6, fragment6)

from cluster import (KINDS, SNAT_PORTS, V4, V6, from_outside, from_pod, only, same, to_outside, to_pod, tunnelled, wrap)
from packets import BULK, ECHOES_V4, ECHOES_V6, OTHERS, SCTPS, TCPS, UDPS, shapes

# Ports of the service, and those of its backend, which is the remote pod.
SERVED = {"udp": (700, 47000), "tcp": (701, 47001), "sctp": (703, 47003)}


def all_shapes(ends):
    return shapes(ends, {**UDPS, **TCPS, **SCTPS, **OTHERS, **(ECHOES_V6 if ends.v6 else ECHOES_V4)})


def between_pods(ends, shape):
    outs = yield [("pod4", from_pod("pod4", shape(ends.a, ends.b, 47100, 47200, 64)))]
    same(only(outs, "pod5"), to_pod("pod5", shape(ends.a, ends.b, 47100, 47200, 63)))


def through_the_tunnel(kind, ends, shape):
    outs = yield [("pod4", from_pod("pod4", shape(ends.a, ends.remote, 47100, 47200, 64)))]
    out = only(outs, "uplink")
    same(out, tunnelled(kind, shape(ends.a, ends.remote, 47100, 47200, 63), out))
    outs = yield [("uplink", wrap(kind, 2, shape(ends.remote, ends.a, 47200, 47100, 64)))]
    same(only(outs, "pod4"), to_pod("pod4", shape(ends.remote, ends.a, 47200, 47100, 63)))


def to_a_service(kind, ends, shape, ports):
    port, backend = ports
    outs = yield [("pod4", from_pod("pod4", shape(ends.a, ends.service, 47100, port, 64)))]
    out = only(outs, "uplink")
    same(out, tunnelled(kind, shape(ends.a, ends.remote, 47100, backend, 63), out))


def masqueraded(ends, shape, has_answer):
    outs = yield [("pod4", from_pod("pod4", shape(ends.a, ends.client, 47100, 47300, 64)))]
    out = only(outs, "uplink")
    port = next(layer.fields[field] for layer, field in ports_of(out))
    assert port in SNAT_PORTS, f"port {port}"
    same(out, to_outside(shape(ends.node, ends.client, port, 47300, 63)))
    if has_answer:
        outs = yield [("uplink", from_outside(shape(ends.client, ends.node, 47300, port, 64)))]
        same(only(outs, "pod4"), to_pod("pod4", shape(ends.client, ends.a, 47300, 47100, 63)))


def ports_of(packet):
    layer = packet
    while layer:
        for field in ("sport", "id"):
            if field in layer.fields and not isinstance(layer, (IP, IPv6ExtHdrFragment)):
                yield layer, field
        layer = layer.payload


def put_together(ends, packets):
    if ends.v6:
        return defragment6(packets)
    together = defragment(sorted(packets, key=lambda packet: packet.frag))
    assert len(together) == 1, f"{len(together)} packets"
    return together[0]


def in_fragments(kind, ends, order):
    """By the fragments of both families; put together by scapy."""
    def build(src, dst, port, ttl, identification):
        body = UDP(sport=47100, dport=port) / Raw(BULK * 3)
        if ends.v6:
            return IPv6(raw(IPv6(src=src, dst=dst, hlim=ttl) / IPv6ExtHdrFragment(id=identification) / body))
        return IP(raw(IP(src=src, dst=dst, ttl=ttl, id=identification) / body))
    asked = build(ends.a, ends.service, 700, 64, 7 + order)
    parts = fragment6(asked, 1280) if ends.v6 else fragment(asked, 1000)
    parts = parts[::-1] if order else parts
    outs = yield [("pod4", from_pod("pod4", part)) for part in parts]
    assert len(outs) == len(parts), outs
    layer = IPv6 if ends.v6 else IP
    number = 2 if (kind[-1] == "6") == ends.v6 else 1
    inner = [layer(raw(out.getlayer(layer, number))) for _, out in outs]
    same_ip(put_together(ends, inner), build(ends.a, ends.remote, 47000, 63, 7 + order), ends)


def same_ip(actual, expected, ends):
    if ends.v6:
        expected = IPv6(src=expected.src, dst=expected.dst, hlim=expected.hlim) / expected[UDP]
    for packet in (actual, expected):
        for layer in (IP, IPv6, UDP):
            if packet.haslayer(layer):
                for field in ("len", "plen", "chksum" if layer is IP else "nh"):
                    packet[layer].fields.pop(field, None)
    same(to_pod("pod4", actual), to_pod("pod4", expected))


def time_ran_out(ends, dst):
    asked = ends.ip(ends.a, dst, 1, tos=0xB8) / UDP(sport=47100, dport=700) / Raw(b"trace")
    outs = yield [("pod4", from_pod("pod4", asked))]
    if ends.v6:
        told = IPv6(src=ends.gateway, dst=ends.a, hlim=64) / ICMPv6TimeExceeded() / asked
    else:
        told = IP(src=ends.gateway, dst=ends.a, ttl=64, tos=0xC0, id=0) / ICMP(type=11) / asked
    same(only(outs, "pod4"), to_pod("pod4", told))


def too_big(kind, ends):
    """The error says how much fits, and quotes as much as an error may."""
    mtu = 1500 - {"v": 50, "g": 50, "i": 20}[kind[0]] - (20 if kind.endswith("6") else 0)
    asked = ends.ip(ends.a, ends.remote, 64, **({} if ends.v6 else {"flags": "DF"})) / UDP(sport=1, dport=2) / Raw(BULK * 2)
    outs = yield [("pod4", from_pod("pod4", asked))]
    if ends.v6:
        quote = Raw(raw(asked)[:1280 - 48])
        told = IPv6(src=ends.gateway, dst=ends.a, hlim=64) / ICMPv6PacketTooBig(mtu=mtu) / quote
    else:
        quote = Raw(raw(asked)[:576 - 28])
        told = IP(src=ends.gateway, dst=ends.a, ttl=64, tos=0xC0, id=0) / ICMP(type=3, code=4, nexthopmtu=mtu) / quote
    same(only(outs, "pod4"), to_pod("pod4", told))


def error_about_a_translated_packet(kind, ends):
    """The backend's node says that nobody listens; the pod hears it of the service, about what it sent itself."""
    def asked(dst, port, ttl):
        return ends.ip(ends.a, dst, ttl) / UDP(sport=47101, dport=port) / Raw(b"a question")
    yield [("pod4", from_pod("pod4", asked(ends.service, 700, 64)))]

    def told(src, quoted, ttl):
        unreachable = ICMPv6DestUnreach(code=4) if ends.v6 else ICMP(type=3, code=3)
        return ends.ip(src, ends.a, ttl) / unreachable / quoted
    outs = yield [("uplink", wrap(kind, 2, told(ends.remote, asked(ends.remote, 47000, 63), 64)))]
    same(only(outs, "pod4"), to_pod("pod4", told(ends.service, asked(ends.service, 700, 63), 63)))


def padded(ends):
    """What Ethernet adds to short frames is no part of the packet."""
    inner = ends.ip(ends.client, ends.a, 64) / UDP(sport=1, dport=2)
    frame = raw(from_outside(inner))
    outs = yield [("uplink", Ether(frame + b"\xaa" * (60 - len(frame) if len(frame) < 60 else 3)))]
    same(only(outs, "pod4"), to_pod("pod4", ends.ip(ends.client, ends.a, 63) / UDP(sport=1, dport=2)))


def geneve_options(kind, ends):
    """Options that are not critical are passed over (RFC 8926, 3.5)."""
    from scapy.contrib.geneve import GeneveOptions
    inner = ends.ip(ends.remote, ends.a, 64) / UDP(sport=1, dport=2) / Raw(b"options")
    options = [GeneveOptions(classid=0x102, type=1, length=2, data=b"12345678"), GeneveOptions(classid=1, type=2, length=0)]
    outs = yield [("uplink", wrap(kind, 2, inner, options=options))]
    same(only(outs, "pod4"), to_pod("pod4", ends.ip(ends.remote, ends.a, 63) / UDP(sport=1, dport=2) / Raw(b"options")))


def chosen(kind, made):
    """All of them by one tunnel of each family; some by the others."""
    return {name: shape for i, (name, shape) in enumerate(made.items()) if kind in ("vxlan4", "geneve6") or i % 7 == 0}


def cases():
    for kind in KINDS:
        for ends in (V4, V6):
            family = "IPv6" if ends.v6 else "IPv4"
            for name, shape in chosen(kind, all_shapes(ends)).items():
                yield f"{family} {name}, by {kind}", kind, through_the_tunnel(kind, ends, shape)
                if kind == "vxlan4":
                    yield f"{family} {name}, between pods", kind, between_pods(ends, shape)
            for l4s, ports in ((UDPS, SERVED["udp"]), (TCPS, SERVED["tcp"]), (SCTPS, SERVED["sctp"])):
                for name, shape in chosen(kind, shapes(ends, l4s)).items():
                    if name != "udp without a checksum" or l4s is UDPS:
                        yield f"{family} {name}, to a service by {kind}", kind, to_a_service(kind, ends, shape, ports)
            for order in (0, 1):
                yield f"{family} in fragments, order {order}, by {kind}", kind, in_fragments(kind, ends, order)
            yield f"{family} too big for {kind}", kind, too_big(kind, ends)
            yield f"{family} error about a translated packet by {kind}", kind, error_about_a_translated_packet(kind, ends)
            if kind.startswith("geneve"):
                yield f"{family} {kind} with options", kind, geneve_options(kind, ends)
    for ends in (V4, V6):
        family = "IPv6" if ends.v6 else "IPv4"
        echoes = ECHOES_V6 if ends.v6 else ECHOES_V4
        for name, shape in shapes(ends, {**UDPS, **TCPS, **echoes}).items():
            # scapy does not look behind a routing header without segments.
            if "routing" not in name and "three" not in name:
                yield f"{family} {name}, masqueraded", "vxlan4", masqueraded(ends, shape, "echo" not in name)
        yield f"{family} sctp init, masqueraded", "vxlan4", masqueraded(ends, shapes(ends, SCTPS)["sctp init"], False)
        for dst in (ends.b, ends.remote, ends.client, ends.service):
            yield f"{family} out of time to {dst}", "vxlan4", time_ran_out(ends, dst)
        yield f"{family} padded", "vxlan4", padded(ends)


class Running:
    def __init__(self, name, kind, steps):
        self.name, self.kind, self.steps = name, kind, steps
        self.asked, self.outs, self.failure = [], None, None
        self.proceed()

    def proceed(self):
        """What it wants to send next; nothing once it is over."""
        try:
            self.asked = self.steps.send(self.outs)
        except StopIteration:
            self.asked = []
        except Exception as error:  # A packet that scapy cannot even look at is a failure like any other.
            self.asked, self.failure = [], f"{type(error).__name__}: {error.args}"
        self.outs = []


def read_places():
    places = []
    for line in sys.stdin:
        if line == "end\n":
            return places
        places.append(line.split())
    sys.exit("the test is gone")


def main(folder):
    running = [Running(*case) for case in cases()]
    while any(case.asked for case in running):
        packets = []
        for number, case in enumerate(running):
            for place, packet in case.asked:
                print(number, f"{case.kind}.{place}")
                packets.append(raw(packet))
        wrpcap(os.path.join(folder, "asked.pcap"), [Ether(packet) for packet in packets])
        print("go", flush=True)
        places = read_places()
        answered = rdpcap(os.path.join(folder, "answered.pcap")) if places else []
        assert len(answered) == len(places)
        for (number, place), packet in zip(places, answered):
            running[int(number)].outs.append((place.split(".")[1], packet))
        for case in running:
            if case.asked:
                case.proceed()
    failures = [f"{case.name}: {case.failure}" for case in running if case.failure]
    print("\n".join(failures[:20]), file=sys.stderr)
    print(f"{len(failures)} of {len(running)} cases failed", file=sys.stderr)
    sys.exit(1 if failures else 0)


main(sys.argv[1])
