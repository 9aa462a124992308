//! Policy rules of the kernel (`ip rule`): those that Fairway made, and the one that leads to the table `local`. It must
//! not decide which rules are to be there.

use super::{Netlink, ROUTE_PROTOCOL, Result, failed};
use futures_util::stream::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use rtnetlink::{Error, Handle, IpVersion};
use tables::{Addr, Protocol};

const TABLE_LOCAL: u32 = libc::RT_TABLE_LOCAL as u32;
/// What packets of this node itself come in by, as rules see it.
const LOOPBACK: &str = "lo";

/// Ports of one protocol, or of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    pub protocol: Option<Protocol>,
    pub first: u16,
    pub last: u16,
}

/// What this node itself sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Own {
    To(Addr, Ports),
    From(Addr, Ports),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Then {
    /// This table is asked.
    Table(u32),
    /// The rules from this priority on are.
    Goto(u32),
}

/// A rule that Fairway makes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    pub priority: u32,
    pub is_v4: bool,
    /// None: every packet.
    pub own: Option<Own>,
    pub then: Then,
}

impl Rule {
    /// Every packet asks the table `local`.
    pub fn local(is_v4: bool, priority: u32) -> Rule {
        Rule { priority, is_v4, own: None, then: Then::Table(TABLE_LOCAL) }
    }

    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = if self.is_v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let attributes = &mut message.attributes;
        attributes.push(RuleAttribute::Priority(self.priority));
        if let Some(own) = &self.own {
            let length = if self.is_v4 { 32 } else { 128 };
            let (Own::To(addr, ports) | Own::From(addr, ports)) = own;
            let range = RulePortRange { start: ports.first, end: ports.last };
            attributes.push(RuleAttribute::Iifname(LOOPBACK.to_owned()));
            attributes.extend(ports.protocol.map(|protocol| RuleAttribute::IpProtocol(protocol.0.into())));
            if matches!(own, Own::To(..)) {
                message.header.dst_len = length;
                attributes.extend([RuleAttribute::Destination(addr.ip()), RuleAttribute::DestinationPortRange(range)]);
            } else {
                message.header.src_len = length;
                attributes.extend([RuleAttribute::Source(addr.ip()), RuleAttribute::SourcePortRange(range)]);
            }
        }
        match self.then {
            Then::Table(table) => {
                message.header.action = RuleAction::ToTable;
                attributes.push(RuleAttribute::Table(table));
            }
            Then::Goto(priority) => {
                message.header.action = RuleAction::Goto;
                attributes.push(RuleAttribute::Goto(priority));
            }
        }
        message
    }

    fn read(message: &RuleMessage) -> Option<Rule> {
        let is_v4 = message.header.family == AddressFamily::Inet;
        let (mut priority, mut protocol) = (0, None);
        let (mut to, mut to_ports, mut from, mut from_ports) = (None, None, None, None);
        let mut then = Then::Table(u32::from(message.header.table));
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Priority(value) => priority = *value,
                RuleAttribute::Destination(ip) => to = Some(Addr::from(*ip)),
                RuleAttribute::Source(ip) => from = Some(Addr::from(*ip)),
                RuleAttribute::SourcePortRange(value) => from_ports = Some(*value),
                RuleAttribute::IpProtocol(value) => protocol = Some(Protocol(u8::from(*value))),
                RuleAttribute::DestinationPortRange(value) => to_ports = Some(*value),
                RuleAttribute::Table(table) if message.header.action == RuleAction::ToTable => {
                    then = Then::Table(*table);
                }
                RuleAttribute::Goto(target) => then = Then::Goto(*target),
                _ => {}
            }
        }
        let ports = |range: RulePortRange| Ports { protocol, first: range.start, last: range.end };
        let own = match (to, to_ports, from, from_ports) {
            (None, None, None, None) => None,
            (Some(to), Some(range), None, None) => Some(Own::To(to, ports(range))),
            (None, None, Some(from), Some(range)) => Some(Own::From(from, ports(range))),
            _ => return None,
        };
        Some(Rule { priority, is_v4, own, then })
    }
}

fn is_ours(message: &RuleMessage) -> bool {
    message.attributes.contains(&RuleAttribute::Protocol(ROUTE_PROTOCOL))
}

impl Netlink {
    async fn dump_rules(&self, is_v4: bool) -> Result<Vec<RuleMessage>> {
        let version = if is_v4 { IpVersion::V4 } else { IpVersion::V6 };
        let dumped = self.handle.rule().get(version).execute().try_collect::<Vec<_>>().await;
        dumped.map_err(failed("list policy rules".into()))
    }

    /// Rules that this or an earlier run of Fairway made.
    pub async fn own_rules(&self) -> Result<Vec<Rule>> {
        let mut all = Vec::new();
        for is_v4 in [true, false] {
            // A kernel without IPv6, or without policy rules, has none.
            let dumped = self.dump_rules(is_v4).await.unwrap_or_default();
            all.extend(dumped.iter().filter(|message| is_ours(message)).filter_map(Rule::read));
        }
        Ok(all)
    }

    /// Whether the kernel's own rule is where it was made: every packet asks `local` before all else.
    pub async fn asks_local_first(&self, is_v4: bool) -> Result<bool> {
        let local = Rule::local(is_v4, 0);
        let rules = self.dump_rules(is_v4).await?;
        Ok(rules.iter().any(|message| !is_ours(message) && Rule::read(message).as_ref() == Some(&local)))
    }

    /// One that is there already is left as it is.
    pub async fn put_rule(&self, rule: &Rule) -> Result<()> {
        let put = add(&self.handle, rule, ROUTE_PROTOCOL).await;
        ignoring(put, libc::EEXIST).map_err(failed(format!("install a policy rule at {}", rule.priority)))
    }

    pub async fn delete_rule(&self, rule: &Rule) -> Result<()> {
        let mut message = rule.message();
        message.attributes.push(RuleAttribute::Protocol(ROUTE_PROTOCOL));
        let deleted = self.handle.rule().del(message).execute().await;
        ignoring(deleted, libc::ENOENT).map_err(failed(format!("delete a policy rule at {}", rule.priority)))
    }

    /// Puts the kernel's own rule back.
    pub async fn put_local_first(&self, is_v4: bool) -> Result<()> {
        let put = add(&self.handle, &Rule::local(is_v4, 0), RouteProtocol::Kernel).await;
        ignoring(put, libc::EEXIST).map_err(failed("put the rule of the table local back".into()))
    }

    /// Takes the kernel's own rule away: another leads to the table already.
    pub async fn delete_local_first(&self, is_v4: bool) -> Result<()> {
        let deleted = self.handle.rule().del(Rule::local(is_v4, 0).message()).execute().await;
        ignoring(deleted, libc::ENOENT).map_err(failed("move the rule of the table local".into()))
    }
}

async fn add(handle: &Handle, rule: &Rule, protocol: RouteProtocol) -> std::result::Result<(), Error> {
    let mut request = handle.rule().add();
    *request.message_mut() = rule.message();
    request.message_mut().attributes.push(RuleAttribute::Protocol(protocol));
    request.execute().await
}

fn ignoring(outcome: std::result::Result<(), Error>, errno: i32) -> std::result::Result<(), Error> {
    match outcome {
        Err(Error::NetlinkError(message)) if message.raw_code() == -errno => Ok(()),
        other => other,
    }
}
