//! What is looked up: the same flows, prefixes and rules as the programs in benches/peers make (peer.h, hash.c, fib.c and
//! acl.c), so that ours and theirs answer the same questions. Must not look anything up.

use tables::flow::Tuple;
use tables::{Addr, Prefix, Protocol};

/// splitmix64, as a function of its counter.
pub fn mix(i: u64) -> u64 {
    let mut z = i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

fn v4(bits: u32) -> Addr {
    Addr::v4(bits.to_be_bytes())
}

/// Flow `i` of up to 2^24.
pub fn tuple(i: u32) -> Tuple {
    let random = mix(i as u64);
    Tuple {
        local: v4(0x0a01_0000 | (random & 0xff) as u32),
        remote: v4(0x0b00_0000 | i),
        local_port: 1024 + (random >> 8 & 0x7fff) as u16,
        remote_port: 80,
        protocol: Protocol::UDP,
        reserved: 0,
        network: 0,
    }
}

const NODES: u32 = 5000;
const PODS: u32 = 190_000;
const BLOCKS: u32 = 4996;
/// The node's own range, the second node's, services, everything.
const FEW: [(u32, u8); 4] = [(0x0a01_0000, 24), (0x0a02_0000, 16), (0xac1e_0000, 16), (0, 0)];
/// Prefixes of a big cluster's routes; then those of its identities too.
pub const NODES_PREFIXES: u32 = FEW.len() as u32 + NODES;
pub const MIXED_PREFIXES: u32 = NODES_PREFIXES + PODS + BLOCKS;

/// Prefix `i`; its value is `i + 1`. Pods are spread over the nodes' ranges.
pub fn prefix(i: u32) -> Prefix {
    let few = FEW.len() as u32;
    let (bits, length) = match i {
        i if i < few => FEW[i as usize],
        i if i < NODES_PREFIXES => (0x0b00_0000 + ((i - few) << 8), 24),
        i if i < NODES_PREFIXES + PODS => {
            let pod = i - NODES_PREFIXES;
            (0x0b00_0002 + ((pod % NODES) << 8) + pod / NODES, 32)
        }
        i => (0x6440_0000 + ((i - NODES_PREFIXES - PODS) << 8), 26),
    };
    Prefix::new(v4(bits), length).expect("its host bits are zero")
}

/// Of 16: one each to the second node's range, a service, an ipBlock and the world, the others to nodes and pods.
pub fn address(i: u32) -> u32 {
    let random = mix(i as u64);
    let (wide, narrow) = ((random >> 32) as u32, (random >> 8 & 0xff) as u32);
    match random & 15 {
        0 => 0x0a02_0000 | wide & 0xffff,
        1 => 0xac1e_0000 | wide & 0xffff,
        2 => 0x6440_0000 + ((wide % BLOCKS) << 8) + narrow,
        3 => wide,
        _ => 0x0b00_0000 + ((wide % NODES) << 8) + narrow,
    }
}

/// Port rules of a (policy set, identity) row, and rows of a policy set.
pub const RULES_PER_ROW: u32 = 4;
const ROWS_PER_SET: u32 = 8;

/// The row that rule `i` is of.
pub fn row(i: u32) -> (u32, u32) {
    let row = i / RULES_PER_ROW;
    (1 + row / ROWS_PER_SET, 16 + row * 37 % 1000)
}

/// What a rule allows.
#[derive(Clone, Copy)]
pub struct PortRule {
    pub protocol: Protocol,
    pub port_first: u16,
    pub port_last: u16,
}

/// Rule `i`, of the policy of that number. Of several that allow a packet the first one answers.
pub fn rule(i: u32) -> PortRule {
    let random = mix(i as u64);
    let port_first = 1024 + (random % 60_000) as u16;
    let protocol = if random >> 16 & 1 == 1 { Protocol::TCP } else { Protocol::UDP };
    PortRule { protocol, port_first, port_last: port_first + ((random >> 32) % 16) as u16 }
}

/// A packet that is judged.
#[derive(Clone, Copy)]
pub struct Query {
    pub policy_set: u32,
    pub identity: u32,
    pub protocol: Protocol,
    pub port: u16,
}

/// Of 16: one from an identity without rules, four to a port without one, the others to a port of some rule.
pub fn query(i: u32, rules: u32) -> Query {
    let random = mix(1 << 20 | i as u64);
    let (of, kind) = ((random % rules as u64) as u32, random >> 60);
    let (rule, (policy_set, identity)) = (rule(of), row(of));
    let ports = rule.port_last - rule.port_first + 1;
    let port = rule.port_first + (random >> 32 & 0xffff) as u16 % ports;
    Query {
        policy_set,
        identity: if kind == 0 { 1 } else { identity },
        protocol: rule.protocol,
        port: if (1..=4).contains(&kind) { 80 } else { port },
    }
}
