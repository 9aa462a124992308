//! What is left to a successor when both processes end at once, as with the pod that they are containers of: flow memory,
//! which nobody keeps open then, goes into files beside the sockets, and comes back from there. It must not know flows.

use super::{Custody, Supervisor};
use crate::log;
use crate::sys;
use std::fs::{self, File};
use std::io::{self, Seek};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tables::owner::Worker;

/// The dataplane was told to end together with this process, or it was not.
const DATAPLANE_ENDS: Duration = Duration::from_secs(1);

fn path(run_dir: &Path, worker: Worker) -> PathBuf {
    run_dir.join(format!("flows-{worker}"))
}

impl Supervisor {
    /// Saves flow memory if the dataplane ends, too: not before it wrote its last. One that runs on keeps it itself.
    pub(super) async fn keep_flows(&mut self) {
        let lost = async {
            while self.dataplane.is_some() {
                let incoming = super::session::incoming(&mut self.dataplane).await;
                self.take_incoming(incoming).await;
            }
        };
        if tokio::time::timeout(DATAPLANE_ENDS, lost).await.is_err() {
            return;
        }
        for (&worker, fd) in &self.custody.flows {
            if let Err(error) = save(fd, &path(&self.args.run_dir, worker)) {
                log(format_args!("cannot keep the flows of worker {worker}: {error}"));
            }
        }
    }
}

fn save(flows: &OwnedFd, path: &Path) -> io::Result<()> {
    let mut from = File::from(flows.try_clone()?);
    from.rewind()?;
    let draft = path.with_extension(crate::disk::DRAFT);
    io::copy(&mut from, &mut File::create(&draft)?)?;
    fs::rename(draft, path)
}

impl Custody {
    /// With what a predecessor saved. What is wrong with it the dataplane finds.
    pub(super) fn found(run_dir: &Path) -> Custody {
        let mut custody = Custody::default();
        for worker in 0..tables::limits::WORKERS_MAX as Worker {
            let path = path(run_dir, worker);
            let Ok(mut file) = File::open(&path) else { continue };
            // Used up, whatever comes of it: a later start must not find what is old by then.
            let _ = fs::remove_file(&path);
            match sys::sealed_copy(&mut file) {
                Ok(flows) => drop(custody.flows.insert(worker, flows)),
                Err(error) => log(format_args!("cannot take up the flows of worker {worker}: {error}")),
            }
        }
        custody
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tables::Region;
    use tables::region::Access;

    #[test]
    fn what_was_saved_is_found_once_and_can_be_shared() {
        let directory = std::env::temp_dir().join(format!("fairway-keep-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let region = Region::create(c"test", 4096).unwrap();
        region.words()[4095].store(7, std::sync::atomic::Ordering::Relaxed);
        save(&region.fd().try_clone_to_owned().unwrap(), &path(&directory, 1)).unwrap();
        let mut found = Custody::found(&directory);
        assert_eq!(found.flows.len(), 1);
        let copy = Region::attach(found.flows.remove(&1).unwrap(), Access::ReadWrite).unwrap();
        assert_eq!(copy.words().len(), 4096);
        assert_eq!(copy.words()[4095].load(std::sync::atomic::Ordering::Relaxed), 7);
        assert!(Custody::found(&directory).flows.is_empty());
        fs::remove_dir(&directory).unwrap();
    }
}
