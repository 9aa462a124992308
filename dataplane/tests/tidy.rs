//! The repository's rules as a test over the whole workspace: sizes, where `unsafe` may stand, what a file begins with,
//! words that must not be there. Reads source as tokens, so that comments and strings cannot fool it.

use proc_macro2::{TokenStream, TokenTree};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const FUNCTION_LINES_MEDIAN_MAX: usize = 12;

/// Where `unsafe` may stand, and why.
const UNSAFE: [(&str, &str); 5] = [
    ("dataplane/src/io/", "frames, rings and system calls that no library offers"),
    ("dataplane/tables/src/region.rs", "maps shared memory"),
    ("dataplane/tables/src/cpu.rs", "tells the processor to fetch ahead and to compare bytes at once"),
    ("pktgen/src/xsk.rs", "xsk-rs leaves frame ownership to its caller"),
    ("control/src/sys.rs", "ioctls of TUN and options of AF_XDP sockets"),
];

/// Macros that mean "not finished".
const UNFINISHED: [&str; 3] = ["dbg", "todo", "unimplemented"];

/// Words that have another one here (one word a thing).
const SYNONYMS: [(&str, &str); 7] = [
    ("upstream", "backend"),
    ("nexthop", "next_hop"),
    ("vxlan_id", "vni"),
    ("conntrack", "flow"),
    ("decapsulation", "decap"),
    ("hand_off", "handoff"),
    ("pkt", "packet"),
];

struct Source {
    /// From the workspace's root, with slashes.
    name: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every source file of the workspace, but build products.
fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" {
                    folders.push(path);
                }
            } else if name.ends_with(".rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                sources.push(Source { name, text });
            }
        }
    }
    assert!(sources.len() > 50, "found only {} files under {}", sources.len(), root().display());
    sources.sort_by(|a, b| a.name.cmp(&b.name));
    sources
}

/// Fails with everything that breaks a rule.
fn none(rule: &str, breaches: Vec<String>) {
    assert!(breaches.is_empty(), "{rule}:\n  {}", breaches.join("\n  "));
}

/// All identifiers outside comments and strings, with their lines; macros' bodies too.
fn identifiers(source: &Source) -> Vec<(String, usize)> {
    fn collect(tokens: TokenStream, into: &mut Vec<(String, usize)>) {
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => into.push((ident.to_string(), ident.span().start().line)),
                TokenTree::Group(group) => collect(group.stream(), into),
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
    }
    let mut found = Vec::new();
    let tokens = source.text.parse().unwrap_or_else(|error| panic!("{}: {error}", source.name));
    collect(tokens, &mut found);
    found
}

/// Lines of every function, by the line where it begins.
#[derive(Default)]
struct Functions(Vec<(usize, usize, String)>);

impl Functions {
    fn add(&mut self, name: &syn::Ident, whole: proc_macro2::Span) {
        let (first, last) = (name.span().start().line, whole.end().line);
        self.0.push((first, last + 1 - first, name.to_string()));
    }
}

impl<'a> Visit<'a> for Functions {
    fn visit_item_fn(&mut self, function: &'a syn::ItemFn) {
        self.add(&function.sig.ident, function.block.span());
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'a syn::ImplItemFn) {
        self.add(&function.sig.ident, function.block.span());
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'a syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.add(&function.sig.ident, block.span());
        }
        visit::visit_trait_item_fn(self, function);
    }
}

fn functions(source: &Source) -> Vec<(usize, usize, String)> {
    let file = syn::parse_file(&source.text).unwrap_or_else(|error| panic!("{}: {error}", source.name));
    let mut functions = Functions::default();
    functions.visit_file(&file);
    functions.0
}

#[test]
fn no_file_is_long() {
    let long = sources().into_iter().map(|s| (s.text.lines().count(), s.name));
    let long = long.filter(|(lines, _)| *lines > FILE_LINES_MAX).map(|(lines, name)| format!("{name}: {lines} lines"));
    none("a file of over 500 lines holds more than one idea", long.collect());
}

#[test]
fn no_function_is_long_and_most_are_short() {
    let mut long = Vec::new();
    let mut lengths = Vec::new();
    for source in sources() {
        for (line, lines, function) in functions(&source) {
            lengths.push(lines);
            if lines > FUNCTION_LINES_MAX {
                long.push(format!("{}:{line}: {function} has {lines} lines", source.name));
            }
        }
    }
    none("a function of over 70 lines does more than one thing", long);
    lengths.sort_unstable();
    let median = lengths[lengths.len() / 2];
    println!("{} functions, median {median} lines, longest {}", lengths.len(), lengths[lengths.len() - 1]);
    assert!(median < FUNCTION_LINES_MEDIAN_MAX, "the median function has {median} lines");
}

#[test]
fn unsafe_stays_behind_its_fence() {
    let mut outside = Vec::new();
    for source in sources() {
        if UNSAFE.iter().any(|(place, _)| source.name.starts_with(place)) {
            continue;
        }
        let found = identifiers(&source).into_iter().find(|(name, _)| name == "unsafe");
        outside.extend(found.map(|(_, line)| format!("{}:{line}", source.name)));
    }
    none("`unsafe` outside the files that this test lists with a reason", outside);
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent =
        sources().into_iter().filter(|source| !source.text.starts_with("//!") && !is_part_of_its_sibling(source));
    none("a file begins with a `//!` comment", silent.map(|source| source.name).collect());
}

/// Unit tests in a file of their own (`parse_tests.rs`, `file/tests.rs`) belong to the file they test, which says it.
fn is_part_of_its_sibling(source: &Source) -> bool {
    source.name.ends_with("tests.rs") && source.text.contains("use super::")
}

#[test]
fn nothing_is_left_unfinished() {
    let mut found = Vec::new();
    for source in sources() {
        let is_this = source.name.ends_with("tests/tidy.rs");
        for (i, line) in source.text.lines().enumerate() {
            if !is_this && ["TODO", "FIXME", "XXX:"].iter().any(|word| line.contains(word)) {
                found.push(format!("{}:{}: {}", source.name, i + 1, line.trim()));
            }
        }
        let macros = identifiers(&source).into_iter().filter(|(name, _)| UNFINISHED.contains(&name.as_str()));
        let called = |line: usize, name: &str| source.text.lines().nth(line - 1).unwrap().contains(&format!("{name}!"));
        let called = macros.filter(|(name, line)| called(*line, name));
        found.extend(called.map(|(name, line)| format!("{}:{line}: {name}!", source.name)));
    }
    none("unfinished", found);
}

#[test]
fn the_processes_share_nothing_but_tables() {
    let mut crossed = Vec::new();
    for source in sources() {
        let forbidden: &[&str] = match source.name.split('/').collect::<Vec<_>>()[..] {
            ["control", ..] => &["dataplane", "fairway_dataplane"],
            ["dataplane", "src", ..] => &["control", "fairway_control"],
            ["dataplane", "tables", ..] => &["control", "fairway_control", "dataplane", "fairway_dataplane"],
            _ => continue,
        };
        for (i, line) in source.text.lines().enumerate() {
            let used = |krate: &&&str| {
                let line = line.trim_start();
                line.starts_with(&format!("use {krate}::")) || line.contains(&format!(" ::{krate}::"))
            };
            // The loom models of the contract live with it; a crate's own modules may bear such a name.
            let imported = forbidden.iter().find(used).filter(|_| !line.contains("crate::"));
            crossed.extend(imported.map(|krate| format!("{}:{}: {krate}", source.name, i + 1)));
        }
    }
    for (manifest, forbidden) in [
        ("control/Cargo.toml", "dataplane"),
        ("dataplane/Cargo.toml", "control"),
        ("dataplane/tables/Cargo.toml", "dataplane"),
        ("dataplane/tables/Cargo.toml", "control"),
    ] {
        let text = std::fs::read_to_string(root().join(manifest)).unwrap();
        let depends = |line: &str| {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            name == forbidden || name == format!("fairway-{forbidden}")
        };
        crossed.extend(text.lines().filter(|line| depends(line)).map(|line| format!("{manifest}: {line}")));
    }
    none("control and dataplane know each other only through tables", crossed);
}

#[test]
fn one_thing_has_one_word() {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for source in sources().iter().filter(|source| source.name.starts_with("dataplane/")) {
        // Types are one word each, and constants in capitals are often the kernel's.
        let ours = identifiers(source).into_iter().filter(|(name, _)| !name.contains(|c: char| c.is_uppercase()));
        for (name, line) in ours {
            let synonym = SYNONYMS.iter().find(|(synonym, _)| name.split('_').any(|part| part == *synonym));
            let synonym = synonym.or_else(|| SYNONYMS.iter().find(|(s, _)| s.contains('_') && name.contains(s)));
            if let Some((synonym, word)) = synonym {
                found.entry(name).or_insert(format!("{}:{line}: {synonym}, elsewhere {word}", source.name));
            }
        }
    }
    none("a second word for the same thing", found.into_iter().map(|(name, at)| format!("{name} ({at})")).collect());
}

/// Whether `file::name` is a golden packet, another test of this folder or of the lab's, or a script.
fn is_shown(name: &str) -> bool {
    let tests = root().join("dataplane/tests");
    let Some((file, test)) = name.split_once("::") else { return false };
    let holds = |path: PathBuf| std::fs::read_to_string(path).is_ok_and(|text| text.contains(&format!("fn {test}()")));
    let in_scripts = file == "scripts" && tests.join(format!("scripts/{test}.script")).exists();
    let places = ["dataplane/tests/golden", "dataplane/tests", "dataplane/lab/tests"];
    in_scripts || places.iter().any(|place| holds(root().join(format!("{place}/{file}.rs"))))
}

#[test]
fn what_is_said_of_packets_is_shown_by_tests_that_there_are() {
    let text = std::fs::read_to_string(root().join("dataplane/PACKETS.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| packet"));
    let named = |row: &str| -> Vec<String> {
        let last = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        last.split(", ").map(|name| name.trim_matches('`').to_owned()).collect()
    };
    let breaches = rows.flat_map(named).filter(|name| !is_shown(name)).collect();
    none("no such test", breaches);
}
