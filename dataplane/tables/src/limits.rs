//! How much fits, each with its reason. Memory is sized at start from these; growing past one is an error that names
//! the table and its limit. Untouched pages of a region cost nothing, so room is cheap.

/// Services times ports: 45,000 single-endpoint services, with room for node ports and the address rows.
pub const SERVICES_MAX: usize = 1 << 17;
/// Backends of all services: 250,000 endpoints behind up to two services each, and room for the allocator's classes.
pub const BACKENDS_MAX: usize = 1 << 20;
/// Words of the rings of all services by source hash and Maglev: a backend takes 128 to 512, so that there is room
/// for 16,000 to 65,000 of them.
pub const RING_WORDS_MAX: usize = 1 << 23;
/// Source ranges of all load balancer services.
pub const SOURCES_MAX: usize = 1 << 16;
/// Source ranges of one service; more are refused by control.
pub const SOURCES_PER_SERVICE_MAX: usize = 256;
/// Local attachments: the kubelet's 110 pods, times the densest nodes seen (500), times two families.
pub const ENDPOINTS_MAX: usize = 1 << 11;
/// Nodes (5,000) with a few pod ranges each, local addresses and the kernel's routes.
pub const ROUTES_MAX: usize = 1 << 15;
/// Pod addresses of the whole cluster that a policy may have to tell apart, and ipBlock prefixes.
pub const IDENTITIES_MAX: usize = 1 << 19;
/// Groups of the IPv4 trie of a prefix table (lpm.rs), so that its prefixes never lack one: the empty one, one for each
/// /16, one for each prefix longer than 24, and the top; a power of two.
pub const fn trie_groups(prefixes_max: usize) -> usize {
    let top = crate::lpm::TOP_ENTRIES / crate::lpm::GROUP_ENTRIES;
    (1 + crate::lpm::TOP_ENTRIES + prefixes_max + top).next_power_of_two()
}
/// Next hops of the underlay: every other node of a flat network, and routers.
pub const NEIGHBOURS_MAX: usize = 1 << 13;
/// Addresses of other nodes: 5,000 with one or two of each family.
pub const PEERS_MAX: usize = 1 << 14;
/// Distinct sets of policies on the pods of one node.
pub const POLICY_SETS_MAX: usize = 1 << 12;
/// (policy set, direction, identity) rows.
pub const POLICY_ROWS_MAX: usize = 1 << 20;
/// Blocks of port rules of all rows; equal lists are shared. The first one stays empty.
pub const RULE_BLOCKS_MAX: usize = 1 << 18;
/// Policies that can have a drop counter of their own.
pub const POLICIES_MAX: usize = 1 << 14;
/// Workers of one dataplane.
pub const WORKERS_MAX: usize = 64;
/// Interfaces of one dataplane: pods, the host, uplinks.
pub const INTERFACES_MAX: usize = 1 << 10;
/// Probes of one look-up in a hash table; a table at half load stays well below (see hash.rs).
pub const PROBES_MAX: usize = 128;
/// Touched scopes are hashed to this many private counters of 4 bytes: 8 KiB a worker.
pub const SCOPE_SLOTS: usize = 2048;
/// Publishes a sleeping worker may miss before it must revalidate everything.
pub const JOURNAL_PUBLISHES: usize = 64;
/// Unknown on-link neighbours that may be asked for at once.
pub const REQUESTS_MAX: usize = 256;
/// Rules of one policy row, a power of four; more are refused by control.
pub const RULES_PER_ROW_MAX: usize = 256;
