//! The NIC must not take VLAN tags out of frames before the XDP program sees them: it could not tell one VLAN from another.
//! That offload is off while Fairway runs, and as it was afterwards; what to restore is kept on disk, so that a crash
//! loses nothing.

use crate::disk::{self, DiskError};
use crate::{log, sys};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum OffloadError {
    #[error(
        "{device} takes VLAN tags out of frames, and that cannot be turned off ({source}): see `ethtool -K {device} rxvlan off`, or give another uplink than a VLAN"
    )]
    Fixed { device: String, source: io::Error },
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// The offload stays off while this is kept; `release` restores it.
#[derive(Debug)]
pub struct Offload {
    /// The devices to turn it on for again.
    devices: Vec<String>,
    record: PathBuf,
}

fn record(state_dir: &Path) -> PathBuf {
    state_dir.join("vlan-offload.json")
}

/// What is on disk; builds before bonds were uplinks wrote one name.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Record {
    One(String),
    Many(Vec<String>),
}

fn recorded(record: &Path) -> Result<Vec<String>, DiskError> {
    Ok(match disk::read(record)? {
        None => Vec::new(),
        Some(Record::One(device)) => vec![device],
        Some(Record::Many(devices)) => devices,
    })
}

/// Turns it off. `needed`: the uplink is a VLAN, which could not be seen with it; else frames of others may pass for ours.
pub fn turn_off(devices: &[String], needed: bool, state_dir: &Path) -> Result<Offload, OffloadError> {
    let record = record(state_dir);
    // Left by a run that was killed.
    let (kept, others): (Vec<_>, Vec<_>) = recorded(&record)?.into_iter().partition(|device| devices.contains(device));
    others.iter().for_each(|device| _ = sys::set_vlan_offload(device, true));
    let mut offload = Offload { devices: kept, record };
    offload.keep()?;
    for device in devices {
        if let Err(error) = offload.add(device, needed) {
            offload.release()?;
            return Err(error);
        }
    }
    Ok(offload)
}

fn refused(device: &str, needed: bool, source: io::Error) -> Result<(), OffloadError> {
    if needed {
        return Err(OffloadError::Fixed { device: device.to_owned(), source });
    }
    log(format_args!(
        "{device} may take VLAN tags out of frames, and that cannot be turned off ({source}): frames of other VLANs may pass for the uplink's"
    ));
    Ok(())
}

impl Offload {
    fn keep(&self) -> Result<(), DiskError> {
        if self.devices.is_empty() { disk::remove(&self.record) } else { disk::write(&self.record, &self.devices) }
    }

    fn add(&mut self, device: &str, needed: bool) -> Result<(), OffloadError> {
        match sys::vlan_offload(device) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(source) => return refused(device, needed, source),
        }
        self.devices.retain(|kept| kept != device);
        self.devices.push(device.to_owned());
        self.keep()?;
        if let Err(source) = sys::set_vlan_offload(device, false) {
            self.devices.pop();
            self.keep()?;
            refused(device, needed, source)?;
        }
        Ok(())
    }

    /// Restores what a run that ended without doing so turned off; the devices.
    pub fn left(state_dir: &Path) -> Result<Vec<String>, OffloadError> {
        let record = record(state_dir);
        let devices = recorded(&record)?;
        Offload { devices: devices.clone(), record }.release()?;
        Ok(devices)
    }

    /// A device that is gone needs nothing.
    pub fn release(self) -> Result<(), OffloadError> {
        if !self.devices.is_empty() {
            self.devices.iter().for_each(|device| _ = sys::set_vlan_offload(device, true));
            disk::remove(&self.record)?;
        }
        Ok(())
    }
}
