//! What would become of a packet that was never sent: the worker's own classify on the live tables, and what it found.
//! Never a second evaluator: this file only words the decisions.

use crate::classify::service::ByHash;
use crate::classify::{self, Context, Decision, Masquerade, Origin, Verdict};
use std::num::NonZeroU32;
use tables::flow::{HopKind, Tuple};
use tables::layout::Table;
use tables::message::{ExplainQuery, Explained};
use tables::node::NodeRecord;
use tables::route::{RouteKind, RouteRecord};
use tables::{Addr, View};

/// Backends that are named: more would not fit one message of the control socket.
const BACKENDS_TOLD: u32 = 512;

/// The reason of what passes although a policy that is only being tried would drop it.
const AUDIT: &str = "PolicyAudit";

/// Answers a query on a pinned view.
pub fn explain(view: View<'_>, query: &ExplainQuery) -> Explained {
    let node: NodeRecord = view.row(Table::Node, 0);
    let context = Context::new(view, &node);
    let tuple = tuple(query);
    match query.interface {
        Some(interface) => {
            opened(&context, &tuple, classify::from_local(&context, &tuple, interface, &mut ByHash(0), None))
        }
        None if asks_service(view, query) => {
            opened(&context, &tuple, classify::outside::from_outside(&context, &tuple, 0, &mut ByHash(0), None))
        }
        None => {
            let tuple = tuple.reversed();
            let decision = classify::to_local(&context, &tuple, origin(view, query.src));
            let mut told = worded(&context, &tuple, &decision);
            note(&context, &mut told, "towards", &tuple, &decision);
            told
        }
    }
}

/// How packets of a sender elsewhere come in: other nodes' pods by the tunnel.
fn origin(view: View<'_>, src: Addr) -> Origin {
    match classify::route::find(&view, src).map(|(_, route)| (route.kind(), route.peer)) {
        Some((Some(RouteKind::Tunnel | RouteKind::Ipip), peer)) => Origin::Tunnel(peer),
        _ => Origin::Uplink,
    }
}

fn tuple(query: &ExplainQuery) -> Tuple {
    Tuple {
        local: query.src,
        remote: query.dst,
        local_port: query.src_port,
        remote_port: if query.protocol.has_ports() { query.dst_port } else { 0 },
        protocol: query.protocol,
        reserved: 0,
        network: 0,
    }
}

fn asks_service(view: View<'_>, query: &ExplainQuery) -> bool {
    classify::outside::is_service(&view, query.dst, query.dst_port, query.protocol)
}

/// The sender's half, and the receiver's if that is on this node too.
fn opened(context: &Context<'_>, tuple: &Tuple, decision: Decision) -> Explained {
    let mut told = worded(context, tuple, &decision);
    note(context, &mut told, "from", tuple, &decision);
    let origin = decision.client.map_or(Origin::Local, Origin::Client);
    if decision.verdict != Verdict::Forward || decision.out.kind() != HopKind::Endpoint {
        return told;
    }
    let other = decision.outside(tuple).reversed();
    let second = classify::to_local(context, &other, origin);
    note(context, &mut told, "towards", &other, &second);
    let half = worded(context, &other, &second);
    // Who only tries the first half is named, unless there is something to say of the other.
    if half.reason.is_some() || told.reason.is_none() {
        (told.verdict, told.reason) = (half.verdict, half.reason);
        if half.policy.is_some() {
            (told.policy, told.rule) = (half.policy, half.rule);
        }
    }
    told
}

fn worded(context: &Context<'_>, tuple: &Tuple, decision: &Decision) -> Explained {
    let (verdict, reason) = match decision.verdict {
        Verdict::Forward => ("forward", decision.is_audit.then(|| AUDIT.to_owned())),
        Verdict::Drop(reason) => ("drop", Some(reason.name().to_owned())),
        Verdict::Reject => ("reject", None),
        Verdict::Punt => ("punt", None),
    };
    let backends = decision.service.map_or(Vec::new(), |found| {
        (0..found.backends.count.min(BACKENDS_TOLD))
            .map(|i| classify::service::backend(&context.view, &found, i))
            .map(|backend| (backend.addr, backend.port))
            .collect()
    });
    Explained {
        verdict: verdict.to_owned(),
        reason,
        policy: decision.policy.map(NonZeroU32::get),
        rule: rule(decision),
        steps: Vec::new(),
        service: decision.service.map(|found| found.id),
        backends,
        inside: Some(shown(tuple)),
        outside: (decision.verdict == Verdict::Forward).then(|| shown(&decision.outside(tuple))),
        masquerade: decision.masquerade != Masquerade::No,
        direct: direct_by(context, decision).map(|route| route.peer),
        generation: context.view.generation(),
    }
}

fn rule(decision: &Decision) -> Option<String> {
    decision.rule.map(|(direction, rule)| format!("{}[{rule}]", direction.name()))
}

/// The route to the node that answers by itself.
fn direct_by(context: &Context<'_>, decision: &Decision) -> Option<RouteRecord> {
    let is_direct = decision.verdict == Verdict::Forward && decision.out.kind() == HopKind::Direct;
    is_direct.then(|| context.view.row(Table::Route, decision.out.target as usize))
}

/// Adds the look-ups of one half.
fn note(context: &Context<'_>, told: &mut Explained, half: &str, tuple: &Tuple, decision: &Decision) {
    let mut step = |what: &str, result: String| told.steps.push((format!("{half} {}: {what}", tuple.local), result));
    if let Some(service) = decision.service {
        step("service", format!("id {}, {} backends", service.id, service.backends.count));
    }
    step("identity", format!("{} is {}", decision.remote, decision.identity));
    if let Some(set) = decision.policy_set {
        let rule = rule(decision).map_or(String::new(), |rule| format!(" {rule}"));
        let by = decision.policy.map_or("no policy speaks of it".to_owned(), |policy| format!("policy {policy}{rule}"));
        step("policy set", format!("{set}: {by}"));
    }
    if let Some(route) = decision.route {
        step("route", format!("id {route}, {:?} {}", decision.out.kind(), decision.out.target));
    }
    if let Masquerade::As(addr) = decision.masquerade {
        step("masquerade", format!("as {addr}"));
    }
    if let Some(route) = direct_by(context, decision) {
        step("direct server return", format!("through {}", route.peer));
    }
    step("verdict", format!("{:?}", decision.verdict));
}

fn shown(tuple: &Tuple) -> String {
    let end = |addr: tables::Addr, port: u16| {
        if addr.is_v4() { format!("{addr}:{port}") } else { format!("[{addr}]:{port}") }
    };
    let (local, remote) = (end(tuple.local, tuple.local_port), end(tuple.remote, tuple.remote_port));
    format!("{local} {remote} {}", tuple.protocol)
}
