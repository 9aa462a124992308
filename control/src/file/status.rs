//! What Fairway says of services, beside the objects: `status/NAMESPACE.NAME.json` in their directory, each a Service with
//! nothing but its name and `status.loadBalancer`, which is the body of a PATCH of the subresource `status` where an API
//! server holds the objects. Read back by every node. It must not touch the objects' own files.

use super::FileProblem;
use crate::disk::{self, DiskError};
use crate::object::Named;
use crate::object::balancer;
use crate::object::parse::load_balancer_ips;
use crate::state::Status;
use k8s_openapi::api::core::v1::Service;
use rustix::fs::{FlockOperation, flock};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use tables::Addr;

pub const DIRECTORY: &str = "status";

pub fn directory(objects: &Path) -> PathBuf {
    objects.join(DIRECTORY)
}

/// Neither a namespace nor a service has a dot in its name.
fn file(objects: &Path, id: &Named) -> PathBuf {
    directory(objects).join(format!("{}.{}.json", id.namespace, id.name))
}

fn named(path: &Path) -> Option<Named> {
    let (namespace, name) = path.file_name()?.to_str()?.strip_suffix(".json")?.split_once('.')?;
    (!namespace.is_empty() && !name.is_empty()).then(|| Named::new(namespace, name))
}

/// Writes or, without an address, removes; the others go on if one fails. Nodes may share the directory, so one writes at a
/// time: two would write the same drafts.
pub fn write(objects: &Path, statuses: &[Status]) -> Result<(), DiskError> {
    let beside = directory(objects);
    let fail = |source| DiskError::Write { path: beside.clone(), source };
    std::fs::create_dir_all(&beside).map_err(fail)?;
    let writers = File::open(&beside).map_err(fail)?;
    // A file system that knows no locks is written without.
    let _ = flock(&writers, FlockOperation::LockExclusive);
    statuses.iter().map(|(id, addrs)| write_one(&file(objects, id), id, addrs)).fold(Ok(()), Result::and)
}

fn write_one(path: &Path, id: &Named, addrs: &[Addr]) -> Result<(), DiskError> {
    if addrs.is_empty() {
        return disk::remove(path);
    }
    disk::write(path, &balancer::status_body(id, addrs))
}

/// What the directory says, as last read well.
#[derive(Default)]
pub struct Statuses {
    files: BTreeMap<PathBuf, Result<(), FileProblem>>,
    news: Vec<Status>,
}

impl Statuses {
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.keys()
    }

    pub fn problems(&self) -> impl Iterator<Item = &FileProblem> {
        self.files.values().filter_map(|file| file.as_ref().err())
    }

    pub fn take_news(&mut self) -> Vec<Status> {
        std::mem::take(&mut self.news)
    }

    /// A file that cannot be read changes nothing; one that is gone says nothing any more.
    pub fn read(&mut self, path: &Path) {
        let Some(id) = named(path) else { return };
        match std::fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.files.remove(path);
                self.news.push((id, Vec::new()));
            }
            read => {
                let addrs = read.map_err(|error| error.to_string()).and_then(|text| parse(&text));
                let wrong = |message| FileProblem { path: path.to_owned(), line: None, column: None, message };
                let outcome = addrs.map(|addrs| self.news.push((id, addrs))).map_err(wrong);
                self.files.insert(path.to_owned(), outcome);
            }
        }
    }
}

fn parse(text: &str) -> Result<Vec<Addr>, String> {
    let service: Service = serde_json::from_str(text).map_err(|error| error.to_string())?;
    load_balancer_ips(&service.status.unwrap_or_default()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_goes_again() {
        let objects = std::env::temp_dir().join(format!("fairway-status-{}", std::process::id()));
        let (id, addrs) =
            (Named::new("demo", "web"), vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]);
        let path = file(&objects, &id);
        let mut statuses = Statuses::default();
        write(&objects, &[(id.clone(), addrs.clone())]).unwrap();
        statuses.read(&path);
        assert_eq!(statuses.take_news(), [(id.clone(), addrs)]);
        std::fs::write(&path, "{ half").unwrap();
        statuses.read(&path);
        assert_eq!((statuses.take_news(), statuses.problems().count()), (vec![], 1));
        write(&objects, &[(id.clone(), vec![])]).unwrap();
        statuses.read(&path);
        assert_eq!((statuses.take_news(), statuses.problems().count()), (vec![(id, vec![])], 0));
        std::fs::remove_dir_all(&objects).unwrap();
    }

    #[test]
    fn nodes_that_write_at_once_are_not_in_each_others_way() {
        let objects = std::env::temp_dir().join(format!("fairway-statuses-{}", std::process::id()));
        let statuses: [Status; 3] =
            [1, 2, 3].map(|i| (Named::new("demo", format!("s{i}")), vec![Addr::v4([192, 0, 2, i])]));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..30).for_each(|_| write(&objects, &statuses).unwrap()));
            }
        });
        let mut read = Statuses::default();
        statuses.iter().for_each(|(id, _)| read.read(&file(&objects, id)));
        assert_eq!(read.take_news(), statuses);
        std::fs::remove_dir_all(&objects).unwrap();
    }
}
