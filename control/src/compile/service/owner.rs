//! Who has rows, and which: services by their number in the state, and pods with host ports. Must not decide what they are.

use super::group::Group;
use super::sources::Sources;
use crate::compile::problem::Subject;
use crate::object::{Common, Named};
use crate::state::{HashMap, Number, State};
use std::cmp::Ordering;
use tables::service::ServiceKey;

/// What rows belong to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    Service(Number),
    /// A pod with host ports.
    Pod(Common<Named>),
}

impl Owner {
    pub fn name<'a>(&'a self, state: &'a State) -> &'a Common<Named> {
        match self {
            Owner::Service(number) => &state.served(*number).name,
            Owner::Pod(name) => name,
        }
    }

    pub fn subject(&self, state: &State) -> Subject {
        let name = Named::clone(self.name(state));
        match self {
            Owner::Service(_) => Subject::Service(name),
            Owner::Pod(_) => Subject::Pod(name),
        }
    }

    /// Of two that claim one key the first has it: services before pods, and then by name.
    pub fn order(&self, other: &Owner, state: &State) -> Ordering {
        match (self, other) {
            (Owner::Service(_), Owner::Service(_)) if self != other => self.name(state).cmp(other.name(state)),
            _ => self.cmp(other),
        }
    }
}

/// What an owner has.
pub struct Held {
    pub name: Common<Named>,
    pub rows: Vec<ServiceKey>,
    /// Another owner has these.
    pub waits: Vec<ServiceKey>,
    pub groups: Vec<Group>,
    pub sources: Option<Box<Sources>>,
}

impl Held {
    pub fn nothing(name: Common<Named>) -> Held {
        Held { name, rows: Vec::new(), waits: Vec::new(), groups: Vec::new(), sources: None }
    }
}

/// What each owner has.
#[derive(Default)]
pub struct Holdings {
    /// By number.
    services: Vec<Option<Held>>,
    pods: HashMap<Common<Named>, Held>,
}

impl Holdings {
    pub fn reserve(&mut self, services: usize) {
        self.services.reserve(services);
    }

    pub fn get(&self, owner: &Owner) -> Option<&Held> {
        match owner {
            Owner::Service(number) => self.services.get(*number as usize)?.as_ref(),
            Owner::Pod(name) => self.pods.get(name),
        }
    }

    pub fn get_mut(&mut self, owner: &Owner) -> Option<&mut Held> {
        match owner {
            Owner::Service(number) => self.services.get_mut(*number as usize)?.as_mut(),
            Owner::Pod(name) => self.pods.get_mut(name),
        }
    }

    pub fn take(&mut self, owner: &Owner) -> Option<Held> {
        match owner {
            Owner::Service(number) => self.services.get_mut(*number as usize)?.take(),
            Owner::Pod(name) => self.pods.remove(name),
        }
    }

    pub fn keep(&mut self, owner: &Owner, held: Held) {
        match owner {
            Owner::Service(number) => {
                let at = *number as usize;
                if at >= self.services.len() {
                    self.services.resize_with(at + 1, || None);
                }
                self.services[at] = Some(held);
            }
            Owner::Pod(name) => drop(self.pods.insert(name.clone(), held)),
        }
    }

    pub fn owners(&self) -> impl Iterator<Item = Owner> {
        let services = self.services.iter().enumerate().filter(|(_, held)| held.is_some());
        services.map(|(i, _)| Owner::Service(i as Number)).chain(self.pods.keys().cloned().map(Owner::Pod))
    }
}
