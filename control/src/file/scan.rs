//! What the files of a directory hold, as last read well, and which file an object is taken from.

use super::parse::{self, Syntax};
use super::status::{self, Statuses};
use super::{FileProblem, Update};
use crate::object::{Object, ObjectChange, ObjectKey};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};

#[derive(Default)]
struct Contents {
    objects: BTreeMap<ObjectKey, Object>,
    problems: Vec<FileProblem>,
}

pub struct Scan {
    directory: PathBuf,
    files: BTreeMap<PathBuf, Contents>,
    /// The files that hold an object; the first is the one that counts.
    holders: HashMap<ObjectKey, BTreeSet<PathBuf>>,
    /// Objects that more than one file holds.
    doubles: BTreeSet<ObjectKey>,
    statuses: Statuses,
    /// Why the directory itself cannot be read.
    unreadable: Option<FileProblem>,
}

impl Scan {
    pub fn new(directory: &Path) -> Scan {
        Scan {
            directory: directory.to_owned(),
            files: BTreeMap::new(),
            holders: HashMap::new(),
            doubles: BTreeSet::new(),
            statuses: Statuses::default(),
            unreadable: None,
        }
    }

    /// Reads everything again.
    pub fn read_all(&mut self) -> Update {
        match names(&self.directory) {
            Ok(mut paths) => {
                self.unreadable = None;
                // Where nothing has been said yet there is no such directory.
                paths.extend(names(&status::directory(&self.directory)).unwrap_or_default());
                paths.extend(self.files.keys().chain(self.statuses.paths()).cloned());
                self.read(&paths)
            }
            Err(error) => {
                // Objects stay: a directory that is gone for a moment must not take the services with it.
                let message = format!("the directory cannot be read: {error}; its objects stay as they were");
                self.unreadable = Some(problem(&self.directory, message));
                self.update(BTreeSet::new())
            }
        }
    }

    /// Reads these files again, as far as they count; those that are gone take their objects with them.
    pub fn read<'p>(&mut self, paths: impl IntoIterator<Item = &'p PathBuf>) -> Update {
        let mut touched = BTreeSet::new();
        let beside = status::directory(&self.directory);
        for path in paths {
            if path.parent() == Some(&beside) {
                self.statuses.read(path);
            } else if let Some(syntax) = syntax(path) {
                self.read_file(path, syntax, &mut touched);
            }
        }
        self.update(touched)
    }

    fn read_file(&mut self, path: &Path, syntax: Syntax, touched: &mut BTreeSet<ObjectKey>) {
        let new = match std::fs::read_to_string(path) {
            Ok(text) => Some(self.take_text(path, syntax, &text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(Contents {
                objects: self.files.get(path).map_or_else(BTreeMap::new, |old| old.objects.clone()),
                problems: vec![problem(path, format!("cannot be read: {error}"))],
            }),
        };
        self.replace(path, new, touched);
    }

    fn take_text(&self, path: &Path, syntax: Syntax, text: &str) -> Contents {
        let parsed = parse::parse(text, syntax);
        let place = |p: parse::TextProblem| FileProblem {
            path: path.to_owned(),
            line: p.line,
            column: p.column,
            message: p.message,
        };
        let problems = parsed.problems.into_iter().map(place).collect();
        let mut contents = Contents { objects: BTreeMap::new(), problems };
        if parsed.is_partial
            && let Some(old) = self.files.get(path)
        {
            contents.objects = old.objects.clone();
        }
        let mut here = BTreeSet::new();
        for object in parsed.objects {
            let key = object.key();
            if !here.insert(key.clone()) {
                contents.problems.push(problem(path, format!("{key} stands here twice: the last one counts")));
            }
            contents.objects.insert(key, object);
        }
        contents
    }

    fn replace(&mut self, path: &Path, new: Option<Contents>, touched: &mut BTreeSet<ObjectKey>) {
        let old = match new {
            Some(new) => {
                for (key, object) in &new.objects {
                    let holders = self.holders.entry(key.clone()).or_default();
                    if holders.insert(path.to_owned()) && holders.len() > 1 {
                        self.doubles.insert(key.clone());
                    }
                    if self.files.get(path).and_then(|old| old.objects.get(key)) != Some(object) {
                        touched.insert(key.clone());
                    }
                }
                self.files.insert(path.to_owned(), new)
            }
            None => self.files.remove(path),
        };
        let now = self.files.get(path);
        for key in old.iter().flat_map(|old| old.objects.keys()) {
            if now.is_none_or(|now| !now.objects.contains_key(key)) {
                touched.insert(key.clone());
                if let Some(holders) = self.holders.get_mut(key)
                    && holders.remove(path)
                    && holders.len() <= 1
                {
                    self.doubles.remove(key);
                }
            }
        }
    }

    fn update(&mut self, touched: BTreeSet<ObjectKey>) -> Update {
        let mut changes = Vec::with_capacity(touched.len());
        for key in touched {
            let holder = self.holders.get(&key).and_then(BTreeSet::first);
            match holder.and_then(|path| self.files.get(path)?.objects.get(&key)) {
                Some(object) => changes.push(ObjectChange::Put(object.clone())),
                None => {
                    self.holders.remove(&key);
                    changes.push(ObjectChange::Delete(key));
                }
            }
        }
        Update { changes, statuses: self.statuses.take_news(), problems: self.problems() }
    }

    fn problems(&self) -> Vec<FileProblem> {
        let mut all: Vec<FileProblem> = self.files.values().flat_map(|contents| contents.problems.clone()).collect();
        for key in &self.doubles {
            let mut holders = self.holders.get(key).into_iter().flatten();
            let Some(first) = holders.next() else { continue };
            all.extend(
                holders.map(|path| problem(path, format!("{key} is in {} too: that one counts", first.display()))),
            );
        }
        all.extend(self.statuses.problems().chain(&self.unreadable).cloned());
        all.sort_by(|a, b| (&a.path, a.line, &a.message).cmp(&(&b.path, b.line, &b.message)));
        all
    }
}

fn problem(path: &Path, message: String) -> FileProblem {
    FileProblem { path: path.to_owned(), line: None, column: None, message }
}

fn names(directory: &Path) -> io::Result<BTreeSet<PathBuf>> {
    std::fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect()
}

/// How a file is to be read; None: it does not count.
pub fn syntax(path: &Path) -> Option<Syntax> {
    if path.file_name()?.to_str()?.starts_with('.') {
        return None;
    }
    match path.extension()?.to_str()? {
        "yaml" | "yml" => Some(Syntax::Yaml),
        "json" => Some(Syntax::Json),
        _ => None,
    }
}
