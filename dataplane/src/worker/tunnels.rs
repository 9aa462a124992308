//! The outer headers of the peers that a worker sends to, made from the tables once for each generation of them. A cache:
//! what it says is what the tables say. Must not touch packets.

use crate::classify::Context;
use crate::overlay::{Encap, Outer, OuterHeaders};
use tables::layout::Table;
use tables::neighbour::NeighbourRecord;
use tables::node::{Encapsulation, NodeRecord, family};
use tables::route::{RouteKind, RouteRecord};
use tables::{Addr, Mac};

/// Peers whose headers are kept: others take turns at the places, which costs time only.
const PLACES: usize = 1024;

/// Added to a route's id: what goes to its peer by direct server return.
const DIRECT: u32 = 1 << 31;
/// A route's id that no route has.
const NO_ROUTE: u32 = u32::MAX;

/// The headers of one route's peer, in two cache lines.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Kept {
    /// Or with [`DIRECT`]; [`NO_ROUTE`]: nothing is kept.
    route: u32,
    generation: u64,
    headers: OuterHeaders,
}

impl Kept {
    const NONE: Kept = Kept { route: NO_ROUTE, generation: 0, headers: OuterHeaders::NONE };

    #[inline(always)]
    fn is(&self, route: u32, generation: u64) -> bool {
        self.route == route && self.generation == generation
    }

    #[inline(always)]
    fn place(&self, index: usize) -> Place {
        Place { index: index as u32, size: self.headers.size() as u32 }
    }
}

/// Headers by route id.
pub struct Tunnels {
    kept: Box<[Kept; PLACES]>,
}

/// Where the headers of a peer are, until the next call of `find`.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    index: u32,
    size: u32,
}

impl Place {
    /// Bytes that an IP packet grows by.
    #[inline(always)]
    pub fn size(self) -> usize {
        self.size as usize
    }
}

impl Tunnels {
    /// Room for all places.
    pub fn new() -> Tunnels {
        let kept = vec![Kept::NONE; PLACES].try_into().unwrap_or_else(|_| unreachable!("so many were made"));
        Tunnels { kept }
    }

    /// Forgets everything: the tables' generations begin anew.
    pub fn clear(&mut self) {
        self.kept.fill(Kept::NONE);
    }

    /// The headers to the peer of a tunnel route; `Err` is the address whose neighbour is not known yet.
    #[inline(always)]
    pub fn find(&mut self, context: &Context<'_>, route: u32) -> Result<Place, Addr> {
        let place = route as usize % PLACES;
        let generation = context.view.generation();
        match &self.kept[place] {
            kept if kept.is(route, generation) => Ok(kept.place(place)),
            _ => self.make(context, route, place),
        }
    }

    /// The same if they were made before.
    #[inline(always)]
    pub fn kept(&self, context: &Context<'_>, route: u32) -> Option<&OuterHeaders> {
        let kept = &self.kept[route as usize % PLACES];
        kept.is(route, context.view.generation()).then_some(&kept.headers)
    }

    /// The same of direct server return, but for the option that names a backend.
    pub fn find_direct(&mut self, context: &Context<'_>, route: u32) -> Result<Place, Addr> {
        let (id, place) = (route | DIRECT, (route as usize + PLACES / 2) % PLACES);
        let generation = context.view.generation();
        match &self.kept[place] {
            kept if kept.is(id, generation) => Ok(kept.place(place)),
            _ => self.make(context, id, place),
        }
    }

    #[cold]
    fn make(&mut self, context: &Context<'_>, id: u32, place: usize) -> Result<Place, Addr> {
        let route: RouteRecord = context.view.row(Table::Route, (id & !DIRECT) as usize);
        let next: NeighbourRecord = context.view.row(Table::Neighbour, route.next_hop as usize);
        if !next.is_resolved() {
            return Err(if next.addr.is_unspecified() { route.peer } else { next.addr });
        }
        let node = context.node;
        let (encap, tunnel_port) = match id & DIRECT {
            0 => (encap(node, &route), node.tunnel_port),
            _ => (Encap::Geneve, node.direct_port),
        };
        let headers = OuterHeaders::new(&Outer {
            encap,
            src_mac: node.uplink_mac,
            dst_mac: next.mac,
            src: node.node[family(route.peer)],
            dst: route.peer,
            inner_mac: (route.inner_mac != Mac([0; 6])).then_some(route.inner_mac),
            tunnel_port,
            vni: node.vni,
        });
        let kept = Kept { route: id, generation: context.view.generation(), headers };
        self.kept[place] = kept;
        Ok(kept.place(place))
    }

    #[inline(always)]
    pub fn headers(&self, place: Place) -> Option<&OuterHeaders> {
        self.kept.get(place.index as usize).map(|kept| &kept.headers)
    }
}

fn encap(node: &NodeRecord, route: &RouteRecord) -> Encap {
    match (route.kind(), node.encapsulation()) {
        (Some(RouteKind::Ipip), _) => Encap::Ip,
        (_, Encapsulation::Geneve) => Encap::Geneve,
        (_, Encapsulation::Vxlan) => Encap::Vxlan,
    }
}
