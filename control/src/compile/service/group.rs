//! What the rows of a service port share in one family: its id, its backends and how flows are spread over them. Must not
//! know keys of rows.

use super::lists::Lists;
use super::rings::Rings;
use super::wanted::{self, GroupKey, Which};
use crate::alloc::Ids;
use tables::publish::TableFull;
use tables::service::{Algorithm, Rows};

/// What an owner's rows share: a service port in one family.
pub struct Group {
    pub key: GroupKey,
    /// The service port's.
    pub name: String,
    /// 0 is no service.
    pub id: u32,
    pub affinity_s: u32,
    pub algorithm: Algorithm,
    pub lists: Lists,
    pub rings: Option<Box<Rings>>,
}

impl Group {
    pub fn fresh(wanted: &wanted::Group, ids: &mut Ids) -> Result<Group, TableFull> {
        let id = ids.alloc()?;
        let (name, lists, algorithm) = (String::new(), Lists::default(), Algorithm::Random);
        Ok(Group { key: wanted.key, name, id, affinity_s: 0, algorithm, lists, rings: None })
    }

    pub fn rows(&self, which: Which) -> Rows {
        match which {
            Which::Cluster => self.lists.cluster(),
            Which::Local => self.lists.local(),
        }
    }
}
