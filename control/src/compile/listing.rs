//! Names for what stands in the tables: what the CLI and metrics show of it. Not for the hot path: look-ups may scan.

use super::Compiler;
use super::policy;
use super::service::{Owner, Row};
use crate::object::forwarding::Forwarding;
use crate::object::{Kind, ObjectKey};
use crate::state::{State, policy_key};
use serde::Serialize;
use tables::endpoint::EndpointRecord;
use tables::layout::Table;
use tables::limits::*;
use tables::policy::{IDENTITY_ANY, IDENTITY_NODE, IDENTITY_WORLD};
use tables::route::FLAG_MASQUERADE;
use tables::service::{
    Algorithm, FLAG_ADDRESS_ONLY, FLAG_DIRECT, FLAG_MASQUERADE_ALL, FLAG_MASQUERADE_OUTSIDE, ServiceKey,
};
use tables::{Addr, Prefix, Protocol};

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceListing {
    pub namespace: String,
    pub name: String,
    pub port_name: String,
    pub id: u32,
    pub addr: Addr,
    pub port: u16,
    pub protocol: Protocol,
    pub affinity_s: u32,
    pub algorithm: Algorithm,
    /// How clients outside reach backends of other nodes; None: with their own address, and those of this node alone.
    pub forwarding: Option<Forwarding>,
    pub backends: Vec<BackendListing>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendListing {
    pub addr: Addr,
    pub port: u16,
    pub id: u32,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyListing {
    pub kind: Kind,
    /// Empty for policies of the whole cluster.
    pub namespace: String,
    pub name: String,
    pub index: Option<u32>,
    /// `Ingress`, `Egress` as far as the policy isolates, or has rules if it is of the whole cluster.
    pub types: Vec<&'static str>,
    /// Attachments on this node that it selects.
    pub local_endpoints: usize,
}

impl PolicyListing {
    /// What people call it, see [`Compiler::policy_name`].
    pub fn shown(&self) -> String {
        let key = ObjectKey { kind: self.kind, namespace: self.namespace.clone(), name: self.name.clone() };
        policy::shown(&key)
    }
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteListing {
    pub prefix: Prefix,
    pub id: u32,
    /// `Local`, `Tunnel`, ... as in [`tables::route::RouteKind`].
    pub kind: String,
    /// The other node's address, for tunnels.
    pub peer: Option<Addr>,
    pub next_hop: Option<Addr>,
    pub masquerade: bool,
}

/// How full a table is.
#[derive(Clone, Debug, Serialize)]
pub struct Fill {
    pub table: &'static str,
    pub used: usize,
    pub limit: usize,
}

fn forwarding(flags: u16) -> Option<Forwarding> {
    let is_masqueraded = flags & (FLAG_MASQUERADE_ALL | FLAG_MASQUERADE_OUTSIDE) != 0;
    let told = if flags & FLAG_DIRECT != 0 { Forwarding::Dsr } else { Forwarding::Snat };
    is_masqueraded.then_some(told)
}

impl Compiler {
    /// Service ports with their backends, sorted by namespace, name and port.
    pub fn services(&self) -> Vec<ServiceListing> {
        let mut all: Vec<_> = self.services.rows().filter_map(|(key, row)| self.service_listing(key, row)).collect();
        all.sort_by(|a, b| {
            (&a.namespace, &a.name, a.addr, a.port, a.protocol).cmp(&(
                &b.namespace,
                &b.name,
                b.addr,
                b.port,
                b.protocol,
            ))
        });
        all
    }

    /// None for an address row and for a pod's.
    fn service_listing(&self, key: &ServiceKey, row: &Row) -> Option<ServiceListing> {
        let id = self.services.owner_name(row).filter(|_| matches!(row.owner, Owner::Service(_)))?;
        if row.record.flags & FLAG_ADDRESS_ONLY != 0 {
            return None;
        }
        let (port_name, backends) = self.services.behind(row);
        Some(ServiceListing {
            namespace: id.namespace.clone(),
            name: id.name.clone(),
            port_name: port_name.to_owned(),
            id: row.record.id,
            addr: key.addr,
            port: key.port,
            protocol: key.protocol,
            affinity_s: row.record.affinity_s,
            algorithm: row.record.algorithm(),
            forwarding: forwarding(row.record.flags),
            backends: backends.map(|b| BackendListing { addr: b.addr, port: b.port, id: b.id }).collect(),
        })
    }

    /// `namespace/name:port` of a service id.
    pub fn service_name(&self, id: u32) -> Option<String> {
        let (key, row) = self.services.rows().find(|(_, row)| row.record.id == id)?;
        Some(self.services.row_name(key, row))
    }

    /// `namespace/name:port` of every service id.
    pub fn service_names(&self) -> impl Iterator<Item = (u32, String)> + '_ {
        self.services.rows().map(|(key, row)| (row.record.id, self.services.row_name(key, row)))
    }

    /// Of all kinds, sorted by namespace and name.
    pub fn policies(&self, state: &State) -> Vec<PolicyListing> {
        let namespaced = state.policies().map(|(id, p)| (policy_key(&id), [0, 1].map(|d: usize| p.rules[d].is_some())));
        let cluster = state.cluster_policies().map(|p| (p.key(), [0, 1].map(|d: usize| !p.rules[d].is_empty())));
        let mut all: Vec<_> = namespaced.chain(cluster).map(|(key, speaks)| self.policy_listing(key, speaks)).collect();
        all.sort_by(|a, b| (&a.namespace, &a.name, a.kind).cmp(&(&b.namespace, &b.name, b.kind)));
        all
    }

    fn policy_listing(&self, key: ObjectKey, speaks: [bool; 2]) -> PolicyListing {
        let types = ["Ingress", "Egress"].into_iter().zip(speaks).filter(|(_, speaks)| *speaks);
        PolicyListing {
            index: self.policies.index_of(&key),
            types: types.map(|(direction, _)| direction).collect(),
            local_endpoints: self.policies.members_of(&key),
            kind: key.kind,
            namespace: key.namespace,
            name: key.name,
        }
    }

    /// What people call the policy of an index: `namespace/name`, or kind and name if it is of the whole cluster.
    pub fn policy_name(&self, index: u32) -> Option<String> {
        self.policies.name_of(index).map(policy::shown)
    }

    /// The name that a policy gives a rule; only those of cluster-wide policies have names.
    pub fn rule_name(&self, state: &State, policy: u32, rule: &str) -> Option<String> {
        let (direction, number) = rule.strip_suffix(']')?.split_once('[')?;
        let policy = state.cluster_policies.get(self.policies.name_of(policy)?)?;
        let rule = policy.rules[(direction == "egress") as usize].get(number.parse::<usize>().ok()?)?;
        (!rule.name.is_empty()).then(|| rule.name.clone())
    }

    /// The policies that make up a policy set.
    pub fn policy_set_names(&self, set: u32) -> Vec<String> {
        self.policies.policies_of_set(set).into_iter().map(policy::shown).collect()
    }

    pub fn identity_of(&self, addr: Addr) -> u32 {
        self.identities.of(addr)
    }

    pub fn identity_name(&self, id: u32) -> String {
        match id {
            IDENTITY_ANY => "any".to_owned(),
            IDENTITY_WORLD => "world".to_owned(),
            IDENTITY_NODE => "node".to_owned(),
            _ => self.identities.class(id).map_or_else(|| format!("identity {id}"), ToString::to_string),
        }
    }

    /// Address and row of each of an attachment's addresses.
    pub fn endpoint_rows(&self, attachment: &str) -> Vec<(Addr, EndpointRecord)> {
        self.endpoints.of_attachment(attachment).map(|(addr, row)| (addr, *row)).collect()
    }

    /// The policy set of an attachment; None while its policies are not in force.
    pub fn policy_set_of(&self, attachment: &str) -> Option<u32> {
        self.policies.set_of(attachment)
    }

    /// Sorted by prefix.
    pub fn routes(&self) -> Vec<RouteListing> {
        let listing = |(prefix, id, kind, flags, peer, next_hop)| RouteListing {
            prefix,
            id,
            kind: format!("{kind:?}"),
            peer,
            next_hop,
            masquerade: flags & FLAG_MASQUERADE != 0,
        };
        let mut all: Vec<RouteListing> = self.routes.iter().map(listing).collect();
        all.sort_by_key(|route| route.prefix);
        all
    }

    /// The prefix of a route id.
    pub fn route_name(&self, id: u32) -> Option<String> {
        self.routes.iter().find(|route| route.1 == id).map(|route| route.0.to_string())
    }

    pub fn neighbour_addr(&self, index: u32) -> Option<Addr> {
        self.neighbours.addr_of(index)
    }

    /// Every table that can fill up.
    pub fn fill(&self) -> Vec<Fill> {
        let [services, backends, sources, rings] = self.services.used();
        let [policies, sets, rows, rules] = self.policies.used();
        let fill = |table, used, limit| Fill { table, used, limit };
        vec![
            fill(Table::Endpoint.name(), self.endpoints.used(), ENDPOINTS_MAX),
            fill(Table::Route.name(), self.routes.used(), ROUTES_MAX),
            fill(Table::IdentityPrefix.name(), self.identities.used(), IDENTITIES_MAX),
            fill(Table::Neighbour.name(), self.neighbours.used(), NEIGHBOURS_MAX),
            fill(Table::Peer.name(), self.peers.used(), PEERS_MAX),
            fill(Table::Service.name(), services, SERVICES_MAX),
            fill(Table::Backend.name(), backends, BACKENDS_MAX),
            fill(Table::Source.name(), sources, SOURCES_MAX),
            fill(Table::Ring.name(), rings, RING_WORDS_MAX),
            fill("policies", policies.0, policies.1),
            fill(Table::PolicySet.name(), sets.0, sets.1),
            fill(Table::Policy.name(), rows.0, rows.1),
            fill(Table::Rule.name(), rules.0, rules.1),
        ]
    }
}
