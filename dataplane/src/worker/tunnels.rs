//! The outer headers of the peers that a worker sends to, made from the tables once for each generation of them. A cache:
//! what it says is what the tables say. Must not touch packets.

use crate::classify::Context;
use crate::overlay::{Outer, OuterHeaders};
use tables::Addr;
use tables::layout::Table;
use tables::neighbour::NeighbourRecord;
use tables::node::family;
use tables::route::RouteRecord;

/// Peers whose headers are kept: others take turns at the places, which costs time only.
const PLACES: usize = 1024;

/// The headers of one route's peer.
#[derive(Clone, Copy)]
struct Kept {
    route: u32,
    generation: u64,
    headers: OuterHeaders,
}

/// Headers by route id.
#[derive(Default)]
pub struct Tunnels {
    kept: Vec<Option<Kept>>,
}

/// Where the headers of a peer are, until the next call of `find`.
#[derive(Clone, Copy, Debug)]
pub struct Place(usize);

impl Tunnels {
    /// Room for all places.
    pub fn new() -> Tunnels {
        Tunnels { kept: vec![None; PLACES] }
    }

    /// Forgets everything: the tables' generations begin anew.
    pub fn clear(&mut self) {
        self.kept.fill(None);
    }

    /// The headers to the peer of a tunnel route; `Err` is the address whose neighbour is not known yet.
    #[inline(always)]
    pub fn find(&mut self, context: &Context<'_>, route: u32) -> Result<Place, Addr> {
        let place = route as usize % PLACES;
        let generation = context.view.generation();
        match &self.kept[place] {
            Some(kept) if kept.route == route && kept.generation == generation => Ok(Place(place)),
            _ => self.make(context, route, place),
        }
    }

    #[cold]
    fn make(&mut self, context: &Context<'_>, id: u32, place: usize) -> Result<Place, Addr> {
        let route: RouteRecord = context.view.row(Table::Route, id as usize);
        let next: NeighbourRecord = context.view.row(Table::Neighbour, route.next_hop as usize);
        if !next.is_resolved() {
            return Err(if next.addr.is_unspecified() { route.peer } else { next.addr });
        }
        let node = context.node;
        let headers = OuterHeaders::new(&Outer {
            src_mac: node.uplink_mac,
            dst_mac: next.mac,
            src: node.node[family(route.peer)],
            dst: route.peer,
            tunnel_port: node.tunnel_port,
            vni: node.vni,
        });
        self.kept[place] = Some(Kept { route: id, generation: context.view.generation(), headers });
        Ok(Place(place))
    }

    #[inline(always)]
    pub fn headers(&self, place: Place) -> Option<&OuterHeaders> {
        self.kept[place.0].as_ref().map(|kept| &kept.headers)
    }
}
