//! The last state on disk, for a start while the API server cannot be reached: one line a change, in the order in which
//! they came. A file bears its name only from the first complete read on, so that half a cluster is never taken for the
//! whole; a line that a crash cut off at its end does not count, and a file with anything else wrong is not used. When most
//! lines are outdated by later ones the file is written anew. It must not know what objects mean.

use crate::disk;
use crate::object::{Object, ObjectChange, ObjectKey};
use crate::state::HashMap;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const NAME: &str = "objects.jsonl";
/// What a line means: raised whenever an older file would be misread.
const VERSION: u32 = 1;
/// Fewer outdated lines are never worth writing anew.
const OUTDATED_MIN: usize = 1_000;

#[derive(Debug, thiserror::Error)]
pub enum LastError {
    #[error("cannot keep the last state in {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read the last state in {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("the last state in {path} is not used: {why}")]
    Unusable { path: PathBuf, why: String },
}

#[derive(Serialize, Deserialize, PartialEq)]
struct Header {
    version: u32,
    /// Objects of another cluster are none of ours.
    server: String,
}

#[derive(Serialize)]
enum LineOut<'a> {
    Put(&'a Object),
    Delete(&'a ObjectKey),
}

#[derive(Deserialize)]
enum Line {
    Put(Object),
    Delete(ObjectKey),
}

impl Line {
    fn key(&self) -> ObjectKey {
        match self {
            Line::Put(object) => object.key(),
            Line::Delete(key) => key.clone(),
        }
    }
}

/// The file, as it grows.
pub struct Last {
    path: PathBuf,
    server: String,
    file: Option<BufWriter<File>>,
    is_complete: bool,
    lines: usize,
    /// How many of them counted when the file was last written anew.
    counted: usize,
}

/// What a file says, and when it was last changed.
pub struct Kept {
    pub objects: Vec<Object>,
    pub changed: SystemTime,
}

impl Last {
    pub fn new(directory: &Path, server: &str) -> Last {
        let path = directory.join(NAME);
        Last { path, server: server.to_owned(), file: None, is_complete: false, lines: 0, counted: 0 }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn draft(&self) -> PathBuf {
        self.path.with_extension(disk::DRAFT)
    }

    fn header(&self) -> Header {
        Header { version: VERSION, server: self.server.clone() }
    }

    /// None if nothing was kept.
    pub fn read(&self) -> Result<Option<Kept>, LastError> {
        let fail = |source| LastError::Read { path: self.path.clone(), source };
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(fail)?,
        };
        let changed = file.metadata().and_then(|meta| meta.modified()).map_err(fail)?;
        let mut objects = HashMap::default();
        self.each(file, |_, line| {
            match line {
                Line::Put(object) => drop(objects.insert(object.key(), object)),
                Line::Delete(key) => drop(objects.remove(&key)),
            };
        })?;
        Ok(Some(Kept { objects: objects.into_values().collect(), changed }))
    }

    /// Every line but one that was cut off.
    fn each(&self, file: File, mut take: impl FnMut(&[u8], Line)) -> Result<(), LastError> {
        let fail = |source| LastError::Read { path: self.path.clone(), source };
        let unusable = |why: String| LastError::Unusable { path: self.path.clone(), why };
        let (mut reader, mut text) = (BufReader::new(file), Vec::new());
        for number in 1.. {
            text.clear();
            reader.read_until(b'\n', &mut text).map_err(fail)?;
            if text.pop() != Some(b'\n') {
                return if number == 1 { Err(unusable("it is empty".to_owned())) } else { Ok(()) };
            }
            let damaged = |error| unusable(format!("line {number} is damaged: {error}"));
            if number > 1 {
                take(&text, serde_json::from_slice(&text).map_err(damaged)?);
            } else if serde_json::from_slice::<Header>(&text).map_err(damaged)? != self.header() {
                return Err(unusable("it is of another version or another API server".to_owned()));
            }
        }
        Ok(())
    }

    /// Adds what changed; `is_complete`: every object has been read once.
    pub fn add(&mut self, changes: &[ObjectChange], is_complete: bool) -> Result<(), LastError> {
        let outcome = self.append(changes, is_complete);
        let path = self.path.clone();
        outcome.map_err(|source| LastError::Write { path, source })?;
        let outdated = self.lines.saturating_sub(self.counted);
        if self.is_complete && outdated > OUTDATED_MIN && outdated > self.counted {
            self.write_anew()?;
        }
        Ok(())
    }

    fn append(&mut self, changes: &[ObjectChange], is_complete: bool) -> io::Result<()> {
        let draft = self.draft();
        if self.file.is_none() {
            self.file = Some(begin(&draft, &self.header())?);
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        for change in changes {
            let line = match change {
                ObjectChange::Put(object) => LineOut::Put(object),
                ObjectChange::Delete(key) => LineOut::Delete(key),
            };
            put(file, &line)?;
        }
        self.lines += changes.len();
        file.flush()?;
        if is_complete && !self.is_complete {
            file.get_ref().sync_all()?;
            fs::rename(&draft, &self.path)?;
            self.is_complete = true;
            self.counted = self.lines;
        }
        Ok(())
    }

    /// Only what counts of the file as it is: twice through it, so that no more than names are held.
    fn write_anew(&mut self) -> Result<(), LastError> {
        let fail = |source| LastError::Write { path: self.path.clone(), source };
        let open = || File::open(&self.path).map_err(fail);
        let mut newest: HashMap<ObjectKey, usize> = HashMap::default();
        let mut number = 0;
        self.each(open()?, |_, line| {
            newest.insert(line.key(), number);
            number += 1;
        })?;
        let mut draft = begin(&self.draft(), &self.header()).map_err(fail)?;
        let (mut number, mut kept, mut written) = (0, 0, Ok(()));
        self.each(open()?, |text, line| {
            if written.is_ok() && matches!(line, Line::Put(_)) && newest.get(&line.key()) == Some(&number) {
                written = draft.write_all(text).and_then(|()| draft.write_all(b"\n"));
                kept += 1;
            }
            number += 1;
        })?;
        let whole = written.and_then(|()| draft.flush()).and_then(|()| draft.get_ref().sync_all());
        whole.and_then(|()| fs::rename(self.draft(), &self.path)).map_err(fail)?;
        (self.file, self.lines, self.counted) = (Some(draft), kept, kept);
        Ok(())
    }
}

fn begin(path: &Path, header: &Header) -> io::Result<BufWriter<File>> {
    let mut file = BufWriter::new(File::create(path)?);
    put(&mut file, header)?;
    Ok(file)
}

fn put(file: &mut BufWriter<File>, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *file, line)?;
    file.write_all(b"\n")
}

#[cfg(test)]
#[path = "last_tests.rs"]
mod tests;
