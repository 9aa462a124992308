//! The NIC must not take VLAN tags out of frames before the XDP program sees them: it could not tell one VLAN from another.
//! That offload is off while Fairway runs, and as it was afterwards; what to restore is kept on disk, so that a crash
//! loses nothing.

use crate::disk::{self, DiskError};
use crate::{log, sys};
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
    /// The device to turn it on for again.
    device: Option<String>,
    record: PathBuf,
}

fn record(state_dir: &Path) -> PathBuf {
    state_dir.join("vlan-offload.json")
}

/// Turns it off. `needed`: the uplink is a VLAN, which could not be seen with it; else frames of others may pass for ours.
pub fn turn_off(device: &str, needed: bool, state_dir: &Path) -> Result<Offload, OffloadError> {
    let record = record(state_dir);
    // Left by a run that was killed.
    let mut before: Option<String> = disk::read(&record)?;
    if let Some(other) = before.take_if(|other| other != device) {
        let _ = sys::set_vlan_offload(&other, true);
        disk::remove(&record)?;
    }
    match sys::vlan_offload(device) {
        Ok(true) => {
            disk::write(&record, &device)?;
            before = Some(device.to_owned());
            if let Err(source) = sys::set_vlan_offload(device, false) {
                disk::remove(&record)?;
                before = None;
                refused(device, needed, source)?;
            }
        }
        Ok(false) => {}
        Err(source) => refused(device, needed, source)?,
    }
    Ok(Offload { device: before, record })
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
    /// Restores what a run that ended without doing so turned off; the device.
    pub fn left(state_dir: &Path) -> Result<Option<String>, OffloadError> {
        let record = record(state_dir);
        let device: Option<String> = disk::read(&record)?;
        Offload { device: device.clone(), record }.release()?;
        Ok(device)
    }

    /// A device that is gone needs nothing.
    pub fn release(self) -> Result<(), OffloadError> {
        if let Some(device) = self.device {
            let _ = sys::set_vlan_offload(&device, true);
            disk::remove(&self.record)?;
        }
        Ok(())
    }
}
