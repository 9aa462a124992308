//! Which packets from outside ask a service, as the tables said when they were last asked: a cache for the first pass, so
//! that clients outside need no look-ups for it. Knows only ports that a service has; the rest asks the tables.

use crate::classify::Context;
use bytemuck::Zeroable;
use tables::flow::Tuple;
use tables::owner::{Asker, SnatPorts};
use tables::{Addr, Protocol};

/// Services' ports that are kept. More take turns at the places, which costs time only.
const PLACES: usize = 1024;

#[derive(Clone, Copy, Default)]
struct Kept {
    addr: Addr,
    /// Of the tables, plus one: 0 is nothing kept.
    generation: u64,
    port: u16,
    protocol: Protocol,
    asker: Asker,
}

pub struct Asked {
    kept: Box<[Kept; PLACES]>,
}

impl Default for Asked {
    fn default() -> Asked {
        Asked { kept: vec![Kept::default(); PLACES].into_boxed_slice().try_into().ok().expect("of that length") }
    }
}

impl Asked {
    /// Forgets everything: the tables' generations begin anew.
    pub fn clear(&mut self) {
        self.kept.fill(Kept::default());
    }

    /// How the service at this port finds the worker of who asks it; None: ask the tables.
    #[inline(always)]
    pub fn find(
        &mut self,
        context: &Context<'_>,
        snat: &SnatPorts,
        (addr, port, protocol): (Addr, u16, Protocol),
    ) -> Option<Asker> {
        let [high, low] = addr.words();
        let place = (low ^ low >> 10 ^ high ^ port as u64) as usize % PLACES;
        let kept = &self.kept[place];
        let is_it = kept.addr == addr && (kept.port, kept.protocol) == (port, protocol);
        if is_it && kept.generation == context.view.generation() + 1 {
            return Some(kept.asker);
        }
        self.ask(context, snat, (addr, port, protocol), place)
    }

    #[cold]
    fn ask(
        &mut self,
        context: &Context<'_>,
        snat: &SnatPorts,
        (addr, port, protocol): (Addr, u16, Protocol),
        place: usize,
    ) -> Option<Asker> {
        // What comes there may be another node's.
        if (port, protocol) == (context.node.direct_port, Protocol::UDP) {
            return None;
        }
        let end = Tuple { local: addr, local_port: port, protocol, ..Tuple::zeroed() };
        let asker = tables::owner::asker(&context.view, snat, &end)?;
        self.kept[place] = Kept { addr, generation: context.view.generation() + 1, port, protocol, asker };
        Some(asker)
    }
}

#[cfg(test)]
#[path = "asked_tests.rs"]
mod tests;
