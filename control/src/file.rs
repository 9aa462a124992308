//! A directory of Kubernetes objects in YAML and JSON.

use crate::object::ObjectChange;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// Why a file, or a part of it, is not in force.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct FileProblem {
    pub path: PathBuf,
    pub line: Option<u64>,
    pub column: Option<u64>,
    pub message: String,
}

/// A directory that is being followed.
pub struct Directory {}

impl Directory {
    /// The first message is the complete first read.
    pub fn open(_path: &Path) -> std::io::Result<(Directory, mpsc::Receiver<Vec<ObjectChange>>)> {
        todo!()
    }

    /// What is wrong right now.
    pub fn problems(&self) -> Vec<FileProblem> {
        Vec::new()
    }
}
