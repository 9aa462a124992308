//! What services ask of the node besides rows, kept for the report.

use crate::compile::{Announced, HealthPort};
use crate::object::Named;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Default)]
pub struct Reported {
    pub health_ports: Arc<BTreeMap<Named, HealthPort>>,
    pub announced: Arc<BTreeMap<Named, Announced>>,
}

impl Reported {
    pub fn set(&mut self, id: &Named, health: Option<HealthPort>, announced: Option<Announced>) {
        set_one(&mut self.health_ports, id, health);
        set_one(&mut self.announced, id, announced);
    }
}

fn set_one<T: Clone + PartialEq>(all: &mut Arc<BTreeMap<Named, T>>, id: &Named, value: Option<T>) {
    if all.get(id) == value.as_ref() {
        return;
    }
    let all = Arc::make_mut(all);
    match value {
        Some(value) => all.insert(id.clone(), value),
        None => all.remove(id),
    };
}
