// Which packets of the uplink are Fairway's: those go to the AF_XDP socket of their queue, all others to the kernel.
//
// What is claimed is data: one configuration row, a longest-prefix map of ranges and a map of single ports, all keyed by
// 16-byte addresses (IPv4 as ::ffff:a.b.c.d), so that both families share every rule. It must not change packets, must
// not claim what it cannot read. While no socket lives the kernel gets what it can make sense of, and what is for ports of
// ours alone is dropped (`bpf_redirect_map`'s last argument): the kernel would refuse it, and connections that are to
// outlive a restart of the dataplane would end there.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define QUEUES_MAX 64
#define MEMBERS_MAX 8
#define RANGES_MAX 65536
#define SINGLES_MAX 262144 // each row of the service table and its address; only buckets are allocated ahead
#define EXTENSION_HEADERS_MAX 4
#define VLAN_ID 0x0fff
#define GENEVE_CRITICAL 0x40
#define DIRECT_CLASS 0xff46
#define DIRECT_TYPE 0x81

struct addr {
    __be32 words[4];
};

struct config {
    struct addr node[2]; // the node's own addresses: IPv4 (mapped), IPv6
    __u8 mac[6];         // only frames to this address are ours
    __be16 tunnel_port; // 0 for none
    __u16 snat_first; // host byte order, both ends included
    __u16 snat_last;
    __u16 ip_in_ip; // 1 if the overlay is IP in IP: those packets to the node are ours
    __u16 vlan; // the 802.1Q tag of our frames, 0: they have none, not even one that only says a priority
    __be16 direct_port; // 0 for none: Geneve to this port that names a backend is ours, whatever the overlay is
    __u16 queues; // of each member, if the uplink is a bond; else 0
    __u32 members[MEMBERS_MAX]; // of a bond: indices of those that receive, 0 for others, which the kernel hears for itself
};

struct range_key {
    __u32 length;
    struct addr addr;
};

struct single_key {
    struct addr addr;
    __be16 port; // 0 with protocol 0: some port of this address is ours
    __u8 protocol;
    __u8 reserved;
};

struct {
    __uint(type, BPF_MAP_TYPE_XSKMAP);
    __uint(max_entries, QUEUES_MAX);
    __type(key, __u32);
    __type(value, __u32);
} xsks SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct config);
} config SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(max_entries, RANGES_MAX);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct range_key);
    __type(value, __u32);
} ranges SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, SINGLES_MAX);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct single_key);
    __type(value, __u32);
} singles SEC(".maps");

// The fixed headers, declared here: the kernel's own structs come with bit fields and user-space baggage.
struct ipv4 {
    __u8 version_length;
    __u8 tos;
    __be16 size;
    __be16 id;
    __be16 fragment;
    __u8 ttl;
    __u8 protocol;
    __be16 checksum;
    __be32 src;
    __be32 dst;
};

struct ipv6 {
    __be32 version_class_flow;
    __be16 size;
    __u8 next;
    __u8 hops;
    struct addr src;
    struct addr dst;
};

struct tag {
    __be16 control; // priority, then the VLAN
    __be16 type;
};

struct extension {
    __u8 next;
    __u8 length; // in units of 8 bytes, without the first
    __be16 fragment;
    __be32 id;
};

struct icmp {
    __u8 type;
    __u8 code;
    __be16 checksum;
    __be16 id;
    __be16 sequence;
};

struct ports {
    __be16 src;
    __be16 dst;
};

// Geneve with one critical option of ours (the dataplane's overlay/direct.rs), behind the UDP header.
struct direct {
    __be16 ports[4];
    __u8 options;
    __u8 flags;
    __be16 protocol;
    __be32 vni;
    __be16 class;
    __u8 type;
};

struct packet {
    struct addr src;
    struct addr dst;
    void *transport;
    __u8 protocol;
    __u8 fragment;
    __u8 later_fragment;
};

#define ICMP_ECHO_REPLY 0
#define ICMP_UNREACHABLE 3
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER 12
#define ICMPV6_ERROR_LAST 4
#define ICMPV6_ECHO 128
#define ICMPV6_ECHO_REPLY 129
#define PROTOCOL_HOP_BY_HOP 0
#define PROTOCOL_IPIP 4
#define PROTOCOL_IPV6_IN_IP 41
#define PROTOCOL_ROUTING 43
#define PROTOCOL_FRAGMENT 44
#define PROTOCOL_ICMPV6 58
#define PROTOCOL_OPTIONS 60
#define PROTOCOL_SCTP 132

static __always_inline struct addr mapped(__be32 v4)
{
    struct addr addr = {{0, 0, bpf_htonl(0xffff), v4}};
    return addr;
}

static __always_inline int same(const struct addr *a, const struct addr *b)
{
    return a->words[0] == b->words[0] && a->words[1] == b->words[1] && a->words[2] == b->words[2] &&
           a->words[3] == b->words[3];
}

static __always_inline int parse_v4(void *at, void *end, struct packet *packet)
{
    struct ipv4 *ip = at;
    if ((void *)(ip + 1) > end || ip->version_length >> 4 != 4)
        return 0;
    __u32 length = (ip->version_length & 0xf) * 4;
    if (length < sizeof(*ip))
        return 0;
    packet->src = mapped(ip->src);
    packet->dst = mapped(ip->dst);
    packet->protocol = ip->protocol;
    packet->fragment = (ip->fragment & bpf_htons(0x3fff)) != 0;
    packet->later_fragment = (ip->fragment & bpf_htons(0x1fff)) != 0;
    packet->transport = at + length;
    return 1;
}

static __always_inline int parse_v6(void *at, void *end, struct packet *packet)
{
    struct ipv6 *ip = at;
    if ((void *)(ip + 1) > end || bpf_ntohl(ip->version_class_flow) >> 28 != 6)
        return 0;
    packet->src = ip->src;
    packet->dst = ip->dst;
    packet->protocol = ip->next;
    packet->fragment = 0;
    packet->later_fragment = 0;
    packet->transport = ip + 1;
    for (int i = 0; i < EXTENSION_HEADERS_MAX; i++) {
        struct extension *extension = packet->transport;
        __u8 kind = packet->protocol;
        if (kind != PROTOCOL_HOP_BY_HOP && kind != PROTOCOL_ROUTING && kind != PROTOCOL_FRAGMENT &&
            kind != PROTOCOL_OPTIONS)
            return 1;
        if ((void *)(extension + 1) > end)
            return 1; // the addresses are known; whoever needs the transport header checks for it
        if (kind == PROTOCOL_FRAGMENT) {
            packet->fragment = (extension->fragment & bpf_htons(0xfff9)) != 0;
            packet->later_fragment = (extension->fragment & bpf_htons(0xfff8)) != 0;
            packet->transport += sizeof(*extension);
        } else {
            packet->transport += 8 + extension->length * 8;
        }
        packet->protocol = extension->next;
    }
    return 1;
}

static __always_inline int parse(void *at, void *end, __be16 ethertype, struct packet *packet)
{
    if (ethertype == bpf_htons(ETH_P_IP))
        return parse_v4(at, end, packet);
    if (ethertype == bpf_htons(ETH_P_IPV6))
        return parse_v6(at, end, packet);
    return 0;
}

static __always_inline int in_ranges(const struct addr *addr)
{
    struct range_key key = {128, *addr};
    return bpf_map_lookup_elem(&ranges, &key) != NULL;
}

static __always_inline int is_node(const struct config *config, const struct addr *addr)
{
    return same(addr, &config->node[0]) || same(addr, &config->node[1]);
}

static __always_inline int in_snat(const struct config *config, __be16 port)
{
    __u16 number = bpf_ntohs(port);
    return number >= config->snat_first && number <= config->snat_last;
}

static __always_inline int has_ports(__u8 protocol)
{
    return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == PROTOCOL_SCTP;
}

static __always_inline int is_ip_in_ip(const struct config *config, __u8 protocol)
{
    return config->ip_in_ip && (protocol == PROTOCOL_IPIP || protocol == PROTOCOL_IPV6_IN_IP);
}

static __always_inline int is_single(const struct addr *addr, __be16 port, __u8 protocol)
{
    struct single_key key = {*addr, port, protocol, 0};
    return bpf_map_lookup_elem(&singles, &key) != NULL;
}

// An ICMP error belongs to whoever sent the packet that it quotes.
static __always_inline int quoted_is_ours(const struct config *config, const struct addr *dst, void *at, void *end,
                                          __be16 ethertype)
{
    struct packet quoted = {};
    if (!parse(at, end, ethertype, &quoted))
        return 0;
    int node = is_node(config, &quoted.src);
    if (in_ranges(&quoted.src))
        return is_node(config, dst);
    if (quoted.later_fragment || !same(dst, &quoted.src))
        return 0;
    if (has_ports(quoted.protocol)) {
        struct ports *ports = quoted.transport;
        if ((void *)(ports + 1) > end)
            return 0;
        if (is_single(&quoted.src, ports->src, quoted.protocol))
            return 1;
        return node && (in_snat(config, ports->src) ||
                        (quoted.protocol == IPPROTO_UDP && ports->dst == config->tunnel_port));
    }
    if (!node)
        return 0;
    if (is_ip_in_ip(config, quoted.protocol))
        return 1;
    struct icmp *icmp = quoted.transport;
    if ((void *)(icmp + 1) > end)
        return 0;
    int echo = (quoted.protocol == IPPROTO_ICMP && icmp->type == ICMP_ECHO) ||
               (quoted.protocol == PROTOCOL_ICMPV6 && icmp->type == ICMPV6_ECHO);
    return echo && in_snat(config, icmp->id);
}

static __always_inline int icmp_is_ours(const struct config *config, struct packet *packet, void *end,
                                        __be16 ethertype)
{
    struct icmp *icmp = packet->transport;
    if ((void *)(icmp + 1) > end)
        return 0;
    int v6 = packet->protocol == PROTOCOL_ICMPV6;
    if (icmp->type == (v6 ? ICMPV6_ECHO_REPLY : ICMP_ECHO_REPLY))
        return is_node(config, &packet->dst) && in_snat(config, icmp->id);
    int error = v6 ? icmp->type >= 1 && icmp->type <= ICMPV6_ERROR_LAST
                   : icmp->type == ICMP_UNREACHABLE || icmp->type == ICMP_TIME_EXCEEDED ||
                         icmp->type == ICMP_PARAMETER;
    return error && quoted_is_ours(config, &packet->dst, icmp + 1, end, ethertype);
}

enum whose { THE_KERNELS, OURS, OURS_ALONE };

static __always_inline int is_direct(const struct config *config, void *at, void *end)
{
    struct direct *direct = at;
    if ((void *)(direct + 1) > end)
        return 0;
    return direct->ports[1] == config->direct_port && (direct->flags & GENEVE_CRITICAL) &&
           direct->class == bpf_htons(DIRECT_CLASS) && direct->type == DIRECT_TYPE;
}

static __always_inline enum whose by_ports(const struct config *config, struct packet *packet, void *end)
{
    struct ports *ports = packet->transport;
    if ((void *)(ports + 1) > end)
        return THE_KERNELS;
    if (is_node(config, &packet->dst)) {
        if (packet->protocol == IPPROTO_UDP && ports->dst == config->tunnel_port)
            return OURS_ALONE;
        if (in_snat(config, ports->dst))
            return OURS_ALONE;
        if (packet->protocol == IPPROTO_UDP && config->direct_port && is_direct(config, ports, end))
            return OURS_ALONE;
    }
    return is_single(&packet->dst, ports->dst, packet->protocol) ? OURS_ALONE : THE_KERNELS;
}

static __always_inline enum whose whose(const struct config *config, void *at, void *end)
{
    struct ethhdr *eth = at;
    struct packet packet = {};
    if ((void *)(eth + 1) > end)
        return THE_KERNELS;
    for (int i = 0; i < ETH_ALEN; i++)
        if (eth->h_dest[i] != config->mac[i])
            return THE_KERNELS;
    void *ip = eth + 1;
    __be16 type = eth->h_proto;
    if (config->vlan) {
        struct tag *tag = ip;
        if ((void *)(tag + 1) > end || type != bpf_htons(ETH_P_8021Q) ||
            (bpf_ntohs(tag->control) & VLAN_ID) != config->vlan)
            return THE_KERNELS;
        ip = tag + 1;
        type = tag->type;
    }
    if (!parse(ip, end, type, &packet))
        return THE_KERNELS;
    if (in_ranges(&packet.dst))
        return OURS;
    int icmp = packet.protocol == IPPROTO_ICMP || packet.protocol == PROTOCOL_ICMPV6;
    // Only the first has ports, and it may come last: all of them are taken, and the host is given its own back.
    if (packet.fragment)
        return (has_ports(packet.protocol) || icmp) && (is_node(config, &packet.dst) || is_single(&packet.dst, 0, 0))
                   ? OURS
                   : THE_KERNELS;
    if (has_ports(packet.protocol))
        return by_ports(config, &packet, end);
    if (is_ip_in_ip(config, packet.protocol))
        return is_node(config, &packet.dst) ? OURS : THE_KERNELS;
    if (icmp)
        return icmp_is_ours(config, &packet, end, type) ? OURS : THE_KERNELS;
    return THE_KERNELS;
}

// Where the sockets of the receiving device begin; -1 if it has none.
static __always_inline int first_socket(const struct config *config, __u32 device)
{
    if (!config->queues)
        return 0;
    for (int i = 0; i < MEMBERS_MAX; i++)
        if (config->members[i] == device)
            return i * config->queues;
    return -1;
}

SEC("xdp")
int fairway_claim(struct xdp_md *context)
{
    __u32 zero = 0;
    struct config *row = bpf_map_lookup_elem(&config, &zero);
    void *data = (void *)(long)context->data;
    void *end = (void *)(long)context->data_end;
    enum whose packet = row ? whose(row, data, end) : THE_KERNELS;
    if (packet == THE_KERNELS)
        return XDP_PASS;
    int first = first_socket(row, context->ingress_ifindex);
    if (first < 0)
        return XDP_PASS;
    return bpf_redirect_map(&xsks, first + context->rx_queue_index, packet == OURS_ALONE ? XDP_DROP : XDP_PASS);
}

char LICENSE[] SEC("license") = "Apache-2.0";
