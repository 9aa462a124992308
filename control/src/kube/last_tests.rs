//! The last state comes back as it was, or not at all.

use super::*;
use crate::file::parse::{Syntax, parse};
use crate::object::Kind;

const SERVER: &str = "https://192.0.2.1:6443";

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("fairway-last-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn last(&self) -> Last {
        Last::new(&self.0, SERVER)
    }

    fn kept(&self) -> Vec<Object> {
        let mut objects = self.last().read().unwrap().map_or_else(Vec::new, |kept| kept.objects);
        objects.sort_by_key(Object::key);
        objects
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// One object of each kind, with as many fields as there are.
fn objects() -> Vec<Object> {
    let text = include_str!("../../tests/kube/objects.yaml");
    let parsed = parse(text, Syntax::Yaml);
    assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
    let mut objects = parsed.objects;
    objects.sort_by_key(Object::key);
    let kinds: std::collections::BTreeSet<Kind> = objects.iter().map(|object| object.key().kind).collect();
    assert_eq!(kinds.len(), crate::object::KINDS.len());
    objects
}

fn puts(objects: &[Object]) -> Vec<ObjectChange> {
    objects.iter().cloned().map(ObjectChange::Put).collect()
}

#[test]
fn what_was_complete_comes_back_as_it_was() {
    let (scratch, objects) = (Scratch::new("same"), objects());
    let mut last = scratch.last();
    last.add(&puts(&objects[1..]), false).unwrap();
    assert_eq!(scratch.kept(), []);
    last.add(&puts(&objects[..1]), true).unwrap();
    assert_eq!(scratch.kept(), objects);
    last.add(&[ObjectChange::Delete(objects[0].key())], true).unwrap();
    assert_eq!(scratch.kept(), objects[1..]);
    // The next process has not read everything yet.
    scratch.last().add(&puts(&objects[..2]), false).unwrap();
    assert_eq!(scratch.kept(), objects[1..]);
}

#[test]
fn a_line_that_was_cut_off_does_not_count_and_a_damaged_file_is_not_used() {
    let (scratch, objects) = (Scratch::new("damaged"), objects());
    scratch.last().add(&puts(&objects), true).unwrap();
    let path = scratch.last().path().to_owned();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() - 3]).unwrap();
    assert_eq!(scratch.kept().len(), objects.len() - 1);
    let refused = |text: &str| {
        fs::write(&path, text).unwrap();
        scratch.last().read().err().unwrap().to_string()
    };
    assert!(refused(&text.replacen("\"Put\"", "\"Pat\"", 1)).contains("line 2 is damaged"));
    assert!(refused(&text.replacen("\"version\":1", "\"version\":0", 1)).contains("another version"));
    assert!(refused(&text.replacen("192.0.2.1", "192.0.2.2", 1)).contains("another API server"));
    assert!(refused("").contains("empty"));
}

#[test]
fn the_file_does_not_grow_for_ever() {
    let (scratch, objects) = (Scratch::new("grows"), objects());
    let mut last = scratch.last();
    last.add(&puts(&objects), true).unwrap();
    for _ in 0..1_000 {
        last.add(&puts(&objects), true).unwrap();
        last.add(&[ObjectChange::Delete(objects[0].key())], true).unwrap();
    }
    let lines = fs::read_to_string(last.path()).unwrap().lines().count();
    assert!(lines < 2_200, "{lines}");
    assert_eq!(scratch.kept(), objects[1..]);
}
