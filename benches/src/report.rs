//! Everything that a run found, and how it is written into files.

use crate::conditions::Conditions;
use crate::figures::{Row, Verdict};
use crate::page;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub conditions: Conditions,
    /// What each chapter is about.
    pub chapters: Vec<Chapter>,
    pub rows: Vec<Row>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chapter {
    pub title: String,
    pub about: String,
}

impl Report {
    /// In one line: what was reached, and what not.
    pub fn summary(&self) -> String {
        let count = |verdict| self.rows.iter().filter(|row| row.verdict() == verdict).count();
        let [aims, floors, missed, failed] =
            [Verdict::Aim, Verdict::Floor, Verdict::Missed, Verdict::Failed].map(count);
        let rows = self.rows.len();
        format!(
            "{rows} rows: {aims} reach their aim, {floors} what is wanted at least, {missed} miss it, {failed} failed"
        )
    }

    /// Ours that did not run: the bench itself is broken.
    pub fn is_broken(&self) -> bool {
        self.rows.iter().any(|row| !row.is_peer() && row.verdict() == Verdict::Failed)
    }

    pub fn write(&self, folder: &Path) -> Result<()> {
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        write("report.json", serde_json::to_string_pretty(self)?)?;
        write("report.html", page::page(self)?)
    }
}
