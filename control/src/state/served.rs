//! Services and the EndpointSlices of each, by name and by a small number, so that who deals with many of them keeps no
//! names. It knows no other objects, and not what changed.

use super::HashMap;
use crate::object::{Common, EndpointSlice, Named, Service};
use foldhash::fast::RandomState;
use indexmap::{Equivalent, IndexMap};
use std::sync::Arc;

/// A service's number: its own from when a first object names it until the last one went and [`Services::forget`] was
/// called.
pub type Number = u32;

/// A service as it is known; its slices' order is that in which they came. None of it may be there.
pub struct Served {
    pub name: Common<Named>,
    pub service: Option<Box<Service>>,
    /// Empty: the directory holds none.
    pub slices: Vec<Arc<EndpointSlice>>,
}

/// A service that is there, and the slices that the directory holds for it.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub service: &'a Service,
    pub slices: &'a [Arc<EndpointSlice>],
}

impl Served {
    pub fn source(&self) -> Option<Source<'_>> {
        Some(Source { service: self.service.as_deref()?, slices: &self.slices })
    }

    fn is_gone(&self) -> bool {
        self.service.is_none() && self.slices.is_empty()
    }
}

/// A name that is looked up without being built. Hashes as [`Named`] does: field by field.
#[derive(Hash)]
struct Parts<'a> {
    namespace: &'a str,
    name: &'a str,
}

impl Equivalent<Common<Named>> for Parts<'_> {
    fn equivalent(&self, other: &Common<Named>) -> bool {
        self.namespace == other.namespace && self.name == other.name
    }
}

struct Slice {
    slice: Arc<EndpointSlice>,
    of: Option<Number>,
}

#[derive(Default)]
pub struct Services {
    numbers: IndexMap<Common<Named>, Number, RandomState>,
    all: Vec<Served>,
    /// Of `all`, to be given anew.
    free: Vec<Number>,
    /// Those without an object that have their number still.
    gone: Vec<Number>,
    slices: HashMap<Common<Named>, Slice>,
    /// How many have a Service object.
    len: usize,
}

impl Services {
    pub fn number(&self, name: &Named) -> Option<Number> {
        self.numbers.get(name).copied()
    }

    fn number_of(&mut self, name: &Common<Named>) -> Number {
        self.number(name).unwrap_or_else(|| self.give_number(name.clone()))
    }

    fn give_number(&mut self, name: Common<Named>) -> Number {
        let served = Served { name: name.clone(), service: None, slices: Vec::new() };
        let number = match self.free.pop() {
            Some(number) => {
                self.all[number as usize] = served;
                number
            }
            None => {
                self.all.push(served);
                self.all.len() as Number - 1
            }
        };
        self.numbers.insert(name, number);
        number
    }

    pub fn at(&self, number: Number) -> &Served {
        &self.all[number as usize]
    }

    pub fn source(&self, name: &Named) -> Option<Source<'_>> {
        self.at(self.number(name)?).source()
    }

    pub fn get(&self, name: &Named) -> Option<&Service> {
        Some(self.source(name)?.service)
    }

    /// Those with a Service object, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (Number, &Service)> {
        self.all.iter().enumerate().filter_map(|(i, served)| Some((i as Number, served.service.as_deref()?)))
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn slices_len(&self) -> usize {
        self.slices.len()
    }

    pub fn put(&mut self, service: Service) -> Number {
        let number = self.number_of(&service.id);
        let have = &mut self.all[number as usize].service;
        self.len += have.is_none() as usize;
        match have {
            Some(have) => **have = service,
            None => *have = Some(Box::new(service)),
        }
        number
    }

    pub fn remove(&mut self, name: &Named) -> Option<Number> {
        let number = self.number(name)?;
        self.all[number as usize].service.take()?;
        self.len -= 1;
        self.note_if_gone(number);
        Some(number)
    }

    pub fn slice(&self, name: &Named) -> Option<&EndpointSlice> {
        Some(&self.slices.get(name)?.slice)
    }

    /// The services that it was of and is of.
    pub fn put_slice(&mut self, slice: EndpointSlice) -> [Option<Number>; 2] {
        let before = self.slices.get(&slice.id).and_then(|old| old.of);
        let is_same = |of: &Number| {
            let Named { namespace, name } = &*self.at(*of).name;
            slice.service.as_ref() == Some(name) && slice.id.namespace == *namespace
        };
        let after = before.filter(is_same).or_else(|| {
            let (namespace, name) = (&slice.id.namespace, slice.service.as_ref()?);
            let known = self.numbers.get(&Parts { namespace, name }).copied();
            Some(known.unwrap_or_else(|| self.give_number(Named::new(namespace, name).into())))
        });
        let slice = Arc::new(slice);
        match self.slices.insert(slice.id.clone(), Slice { slice: slice.clone(), of: after }) {
            Some(old) => self.replace(old, after, slice),
            None => self.enter(after, slice),
        }
        [before, after]
    }

    /// The service that it was of.
    pub fn remove_slice(&mut self, name: &Named) -> Option<Number> {
        let Slice { slice, of } = self.slices.remove(name)?;
        self.leave(of?, &slice);
        of
    }

    /// One that stays with its service stays in its place.
    fn replace(&mut self, old: Slice, after: Option<Number>, slice: Arc<EndpointSlice>) {
        match old.of {
            Some(before) if after == old.of => {
                let slices = &mut self.all[before as usize].slices;
                let place = slices.iter_mut().find(|have| Arc::ptr_eq(have, &old.slice));
                place.into_iter().for_each(|place| *place = slice.clone());
            }
            before => {
                before.into_iter().for_each(|before| self.leave(before, &old.slice));
                self.enter(after, slice);
            }
        }
    }

    fn enter(&mut self, service: Option<Number>, slice: Arc<EndpointSlice>) {
        if let Some(service) = service {
            self.all[service as usize].slices.push(slice);
        }
    }

    fn leave(&mut self, service: Number, slice: &Arc<EndpointSlice>) {
        self.all[service as usize].slices.retain(|have| !Arc::ptr_eq(have, slice));
        self.note_if_gone(service);
    }

    fn note_if_gone(&mut self, number: Number) {
        if self.all[number as usize].is_gone() {
            self.gone.push(number);
        }
    }

    /// Everybody who has to know has been told of those in `gone`, as they were then: their numbers become free.
    pub fn forget(&mut self, gone: Vec<Number>) {
        for number in gone {
            let served = &self.all[number as usize];
            // It may be back, or be here twice, having been back in between.
            if served.is_gone() && self.numbers.get(&served.name) == Some(&number) {
                self.numbers.swap_remove(&served.name);
                self.free.push(number);
            }
        }
    }

    /// Those that have gone since the last call, to be forgotten once their going is known everywhere.
    pub fn take_gone(&mut self) -> Vec<Number> {
        std::mem::take(&mut self.gone)
    }
}

#[cfg(test)]
#[path = "served_tests.rs"]
mod tests;
