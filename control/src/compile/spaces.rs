//! Which namespaces a namespace selector selects, found once for all who use it; and selectors of pods by the namespaces
//! in which they look. Must not know what they are used for.

use super::selectors::SelectorIndex;
use crate::object::selector::{Labels, Selector};
use crate::state::{HashMap, State};
use std::collections::BTreeSet;

/// Where a selector of pods looks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Within {
    Namespace(String),
    /// The namespaces of a selector, by its id.
    Selected(u32),
}

#[derive(Debug)]
struct Known {
    selector: Selector,
    /// What it asks of a namespace of which only the name is known.
    unknown: bool,
    users: usize,
    names: BTreeSet<String>,
}

/// Namespace selectors, and the namespaces that anybody asked about.
#[derive(Debug, Default)]
pub struct Spaces {
    ids: HashMap<(Selector, bool), u32>,
    known: HashMap<u32, Known>,
    next: u32,
    index: SelectorIndex,
    of: HashMap<String, BTreeSet<u32>>,
}

impl Spaces {
    /// `unknown`: see [`State::selects_namespace`].
    pub fn acquire(&mut self, state: &State, selector: &Selector, unknown: bool) -> u32 {
        let key = (selector.clone(), unknown);
        if let Some(&id) = self.ids.get(&key) {
            self.known.get_mut(&id).expect("has an id").users += 1;
            return id;
        }
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        let mut names = BTreeSet::new();
        for (name, of) in &mut self.of {
            if state.selects_namespace(selector, name, unknown) {
                names.insert(name.clone());
                of.insert(id);
            }
        }
        self.index.insert(id, selector);
        self.ids.insert(key, id);
        self.known.insert(id, Known { selector: selector.clone(), unknown, users: 1, names });
        id
    }

    pub fn release(&mut self, id: u32) {
        let Some(known) = self.known.get_mut(&id) else { return };
        known.users -= 1;
        if known.users > 0 {
            return;
        }
        let Some(known) = self.known.remove(&id) else { return };
        for name in &known.names {
            if let Some(of) = self.of.get_mut(name) {
                of.remove(&id);
            }
        }
        self.index.remove(id, &known.selector);
        self.ids.remove(&(known.selector, known.unknown));
    }

    /// The selectors that select a namespace.
    pub fn of(&mut self, state: &State, name: &str) -> &BTreeSet<u32> {
        if !self.of.contains_key(name) {
            let found = self.selecting(state, name);
            for id in &found {
                self.known.get_mut(id).expect("in the index").names.insert(name.to_owned());
            }
            self.of.insert(name.to_owned(), found);
        }
        &self.of[name]
    }

    fn selecting(&self, state: &State, name: &str) -> BTreeSet<u32> {
        let is_selected = |known: &Known| state.selects_namespace(&known.selector, name, known.unknown);
        if !state.knows_namespace(name) {
            return self.known.iter().filter(|(_, known)| is_selected(known)).map(|(id, _)| *id).collect();
        }
        let selects = |id: &u32| self.known.get(id).is_some_and(is_selected);
        self.index.candidates(&state.namespace_labels(name)).filter(selects).collect()
    }

    /// A namespace's labels changed: which selectors select it no more, and which do now.
    pub fn change(&mut self, state: &State, name: &str) -> (Vec<u32>, Vec<u32>) {
        let Some(before) = self.of.get(name) else { return Default::default() };
        let now = self.selecting(state, name);
        let left: Vec<u32> = before.difference(&now).copied().collect();
        let joined: Vec<u32> = now.difference(before).copied().collect();
        for id in &left {
            self.known.get_mut(id).expect("it selected").names.remove(name);
        }
        for id in &joined {
            self.known.get_mut(id).expect("in the index").names.insert(name.to_owned());
        }
        self.of.insert(name.to_owned(), now);
        (left, joined)
    }

    /// The namespaces that a selector selects, of those that anybody asked about.
    pub fn names(&self, id: u32) -> impl Iterator<Item = &String> {
        self.known.get(&id).into_iter().flat_map(|known| &known.names)
    }
}

/// Selectors of pods, by where they look.
#[derive(Debug, Default)]
pub struct PodSelectors {
    by_namespace: HashMap<String, SelectorIndex>,
    by_space: HashMap<u32, SelectorIndex>,
}

impl PodSelectors {
    pub fn insert(&mut self, id: u32, within: &Within, pods: &Selector) {
        let index = match within {
            Within::Namespace(name) => self.by_namespace.entry(name.clone()).or_default(),
            Within::Selected(space) => self.by_space.entry(*space).or_default(),
        };
        index.insert(id, pods);
    }

    pub fn remove(&mut self, id: u32, within: &Within, pods: &Selector) {
        match within {
            Within::Namespace(name) => {
                let Some(index) = self.by_namespace.get_mut(name) else { return };
                index.remove(id, pods);
                if index.is_empty() {
                    self.by_namespace.remove(name);
                }
            }
            Within::Selected(space) => {
                let Some(index) = self.by_space.get_mut(space) else { return };
                index.remove(id, pods);
                if index.is_empty() {
                    self.by_space.remove(space);
                }
            }
        }
    }

    /// Those that may select a pod of a namespace that these spaces select.
    pub fn candidates<'a>(
        &'a self,
        namespace: &str,
        spaces: &'a BTreeSet<u32>,
        labels: &'a Labels,
    ) -> impl Iterator<Item = u32> + 'a {
        let own = self.by_namespace.get(namespace).into_iter();
        let selected = spaces.iter().filter_map(|space| self.by_space.get(space));
        own.chain(selected).flat_map(|index| index.candidates(labels))
    }

    /// Those of one space that may select a pod with these labels.
    pub fn in_space<'a>(&'a self, space: u32, labels: &'a Labels) -> impl Iterator<Item = u32> + 'a {
        self.by_space.get(&space).into_iter().flat_map(|index| index.candidates(labels))
    }
}
