//! Policies: whom they select, of whom they speak, and what they say.

use super::{Kind, Labels, Named, ObjectKey, Selector};
use serde::{Deserialize, Serialize};
use tables::{Prefix, Protocol};

/// NetworkPolicy: all of its rules accept, and what none of a pod's policies accepts is denied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPolicy {
    pub id: Named,
    pub pods: Selector,
    /// By direction (see [`tables::policy::Direction`]): None if the policy does not isolate in it.
    pub rules: [Option<Vec<PolicyRule>>; 2],
    /// It is only being tried, as its annotation says: what it would deny is counted.
    pub audit: bool,
}

/// ClusterNetworkPolicy, and its forerunners AdminNetworkPolicy and BaselineAdminNetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterPolicy {
    pub kind: Kind,
    pub name: String,
    pub tier: Tier,
    /// Lower ones come first; of equal ones the first by name.
    pub priority: u16,
    pub subject: Subject,
    /// By direction: the first rule that matches decides.
    pub rules: [Vec<PolicyRule>; 2],
    /// It is only being tried, see [`NetworkPolicy::audit`].
    pub audit: bool,
}

impl ClusterPolicy {
    pub fn key(&self) -> ObjectKey {
        ObjectKey { kind: self.kind, namespace: String::new(), name: self.name.clone() }
    }
}

/// Whether it goes before the NetworkPolicies, or holds for pods that none of these isolates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tier {
    Admin,
    Baseline,
}

/// Pods of namespaces. Never those of the host's network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    pub namespaces: Selector,
    pub pods: Selector,
}

impl Subject {
    pub fn selects(&self, namespace: &Labels, pod: &Labels) -> bool {
        self.namespaces.matches(namespace) && self.pods.matches(pod)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Action {
    #[default]
    Accept,
    Deny,
    /// Leaves it to the next tier.
    Pass,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRule {
    /// Empty: it has none.
    pub name: String,
    pub action: Action,
    /// Empty: every peer.
    pub peers: Vec<Peer>,
    /// Empty: every protocol and port.
    pub ports: Vec<PortMatch>,
}

impl PolicyRule {
    /// It denies something to pods by what only their objects say.
    pub fn denies_unclaimed(&self) -> bool {
        let by_name = self.ports.iter().any(|port| matches!(port.port, PortRange::Name(_)));
        self.action == Action::Deny && (by_name || self.denies_pods())
    }

    /// It denies something to pods by their labels.
    pub fn denies_pods(&self) -> bool {
        self.action == Action::Deny && self.peers.iter().any(|peer| matches!(peer, Peer::Pods { .. }))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Peer {
    Block {
        cidr: Prefix,
        except: Vec<Prefix>,
    },
    /// Pods of the namespaces selected, or of the policy's own one.
    Pods {
        namespaces: Option<Selector>,
        pods: Selector,
    },
    /// The addresses of nodes, and so of the pods of their networks.
    Nodes(Selector),
    /// Of an accepting rule that could not be read.
    Nobody,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMatch {
    pub protocol: Protocol,
    pub port: PortRange,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PortRange {
    /// Inclusive.
    Numbers(u16, u16),
    /// A container port of the pod that receives.
    Name(String),
}
