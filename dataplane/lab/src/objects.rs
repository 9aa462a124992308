//! The directory of Kubernetes objects that both nodes watch: one YAML file an object.
//!
//! A file appears and changes at once: it is written beside the directory and renamed into it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::wait::now_us;

/// Writes and removes objects.
#[derive(Clone, Debug)]
pub struct Objects {
    directory: PathBuf,
    drafts: PathBuf,
}

impl Objects {
    /// Makes the directory inside the lab's.
    pub fn create(lab: &Path) -> Result<Self> {
        let objects = Objects { directory: lab.join("objects"), drafts: lab.join("drafts") };
        fs::create_dir(&objects.directory)?;
        fs::create_dir(&objects.drafts)?;
        Ok(objects)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The file of one object.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.yaml"))
    }

    /// Puts the object in force; the time (in microseconds) right after it became visible.
    pub fn apply(&self, name: &str, yaml: &str) -> Result<u64> {
        let (file, draft) = (self.file(name), self.drafts.join(name));
        fs::write(&draft, yaml).with_context(|| format!("cannot write {}", draft.display()))?;
        fs::rename(&draft, &file).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(now_us())
    }

    /// Takes the object away; the time (in microseconds) right after it vanished.
    pub fn delete(&self, name: &str) -> Result<u64> {
        let file = self.file(name);
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
        Ok(now_us())
    }
}
