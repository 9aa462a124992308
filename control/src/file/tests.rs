use super::*;
use crate::object::{Kind, Named, ObjectKey};
use std::time::{Duration, Instant};

/// A directory that vanishes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("fairway-objects-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Scratch(path)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.0.join(name)).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn service(name: &str, port: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  clusterIP: 172.30.0.1\n  ports:\n  - port: {port}\n"
    )
}

/// What the update says, in short: `+name` and `-name`.
fn short(update: &Update) -> Vec<String> {
    let each = |change: &ObjectChange| match change {
        ObjectChange::Put(object) => format!("+{}", object.key().name),
        ObjectChange::Delete(key) => format!("-{}", key.name),
    };
    update.changes.iter().map(each).collect()
}

async fn next(directory: &mut Directory) -> Update {
    tokio::time::timeout(Duration::from_secs(10), directory.next()).await.expect("an update within ten seconds")
}

fn block<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

#[test]
fn the_first_update_is_everything_and_later_ones_are_differences() {
    block(async {
        let scratch = Scratch::new("follow");
        scratch.write("a.yaml", &format!("{}---\n{}", service("s1", "80"), service("s2", "80")));
        scratch.write("ignored.txt", &service("no", "80"));
        scratch.write(".a.yaml.swp", "garbage: [");
        let mut directory = Directory::open(&scratch.0).unwrap();
        let first = next(&mut directory).await;
        assert_eq!((short(&first), first.problems), (vec!["+s1".into(), "+s2".into()], vec![]));
        scratch.write("a.yaml", &format!("{}---\n{}", service("s1", "80"), service("s2", "81")));
        assert_eq!(short(&next(&mut directory).await), ["+s2"]);
        scratch.write("a.yaml", &service("s2", "81"));
        assert_eq!(short(&next(&mut directory).await), ["-s1"]);
        scratch.remove("a.yaml");
        assert_eq!(short(&next(&mut directory).await), ["-s2"]);
    });
}

#[test]
fn status_beside_the_objects_is_followed_from_its_first_word_on() {
    block(async {
        let scratch = Scratch::new("status");
        scratch.write("a.yaml", &service("s1", "80"));
        let mut directory = Directory::open(&scratch.0).unwrap();
        assert_eq!(next(&mut directory).await.statuses, []);
        let said =
            |addrs: &[&str]| (Named::new("demo", "s1"), addrs.iter().map(|addr| addr.parse().unwrap()).collect());
        for addrs in [&["192.0.2.1"][..], &["192.0.2.1", "2001:db8::1"], &[]] {
            let status = said(addrs);
            status::write(&scratch.0, std::slice::from_ref(&status)).unwrap();
            let update = next(&mut directory).await;
            assert_eq!((update.statuses.last(), short(&update).len()), (Some(&status), 0));
            // A directory that is new is read as a whole besides.
            while let Ok(again) = tokio::time::timeout(Duration::from_millis(200), directory.next()).await {
                assert_eq!(again.statuses.last(), Some(&status));
            }
        }
    });
}

/// All that is told within a while.
async fn told(directory: &mut Directory) -> Vec<String> {
    let mut all = Vec::new();
    while let Ok(update) = tokio::time::timeout(Duration::from_millis(200), directory.next()).await {
        all.extend(short(&update));
    }
    all
}

#[test]
fn objects_whose_file_gets_another_name_or_is_written_anew_are_never_gone() {
    block(async {
        let scratch = Scratch::new("renamed");
        scratch.write("a.yaml", &service("s", "80"));
        let mut directory = Directory::open(&scratch.0).unwrap();
        next(&mut directory).await;
        let rename = |from: &str, to: &str| std::fs::rename(scratch.0.join(from), scratch.0.join(to)).unwrap();
        rename("a.yaml", "b.yaml");
        assert_eq!(told(&mut directory).await, ["+s"]);
        // As some editors do it.
        rename("b.yaml", "b.yaml~");
        scratch.write("b.yaml", &service("s", "81"));
        assert_eq!(told(&mut directory).await, ["+s"]);
        scratch.remove("b.yaml");
        assert_eq!(told(&mut directory).await, ["-s"]);
    });
}

#[test]
fn a_change_is_told_within_a_hundred_milliseconds_and_what_is_renamed_into_its_place_at_once() {
    block(async {
        let scratch = Scratch::new("quick");
        let mut directory = Directory::open(&scratch.0).unwrap();
        assert_eq!(next(&mut directory).await, Update::default());
        let mut times = Vec::new();
        for i in 0..21 {
            let draft = std::env::temp_dir().join(format!("fairway-draft-{}.yaml", std::process::id()));
            std::fs::write(&draft, service(&format!("s{i}"), "80")).unwrap();
            let start = Instant::now();
            std::fs::rename(&draft, scratch.0.join(format!("{i}.yaml"))).unwrap();
            next(&mut directory).await;
            times.push(start.elapsed());
        }
        times.sort();
        println!("from rename to update: {times:?}");
        assert!(times[10] < Duration::from_millis(100), "{times:?}");
        assert!(times[0] < Duration::from_millis(5), "{times:?}");
    });
}

#[test]
fn what_breaks_keeps_its_last_good_version_and_names_its_place() {
    block(async {
        let scratch = Scratch::new("broken");
        scratch.write("a.yaml", &format!("{}---\n{}", service("s1", "80"), service("s2", "80")));
        let mut directory = Directory::open(&scratch.0).unwrap();
        next(&mut directory).await;
        scratch.write("a.yaml", &format!("{}---\n{}", service("s1", "81"), service("s2", "eighty")));
        let update = next(&mut directory).await;
        assert_eq!(short(&update), ["+s1"]);
        let text = update.problems[0].to_string();
        assert!(text.contains("a.yaml:17:11: spec.ports[0].port: invalid type: string \"eighty\""), "{text}");
        scratch.write("a.yaml", "a: [");
        let update = next(&mut directory).await;
        assert!(update.changes.is_empty() && update.problems.len() == 1, "{update:?}");
        scratch.write("a.yaml", &service("s2", "80"));
        let update = next(&mut directory).await;
        assert_eq!((short(&update), update.problems), (vec!["-s1".into()], vec![]));
    });
}

#[test]
fn an_object_in_two_files_is_reported_and_the_second_steps_in() {
    block(async {
        let scratch = Scratch::new("twice");
        scratch.write("a.yaml", &service("s", "80"));
        scratch.write("b.yaml", &service("s", "81"));
        let mut directory = Directory::open(&scratch.0).unwrap();
        let first = next(&mut directory).await;
        assert_eq!(short(&first), ["+s"]);
        let text = first.problems[0].to_string();
        assert!(text.contains("b.yaml: Service default/s is in") && text.contains("a.yaml too"), "{text}");
        scratch.remove("a.yaml");
        let update = next(&mut directory).await;
        let [ObjectChange::Put(crate::object::Object::Service(service))] = &update.changes[..] else {
            panic!("{update:?}")
        };
        assert_eq!((service.ports[0].port, update.problems.len()), (81, 0));
    });
}

#[test]
fn a_vanished_directory_takes_nothing_with_it_and_is_found_again() {
    block(async {
        let scratch = Scratch::new("vanish");
        scratch.write("a.yaml", &service("s1", "80"));
        let mut directory = Directory::open(&scratch.0).unwrap();
        next(&mut directory).await;
        let aside = scratch.0.with_extension("aside");
        std::fs::rename(&scratch.0, &aside).unwrap();
        std::fs::remove_dir_all(&aside).unwrap();
        let update = next(&mut directory).await;
        // The file's removal may be seen before the directory's.
        if !update.changes.is_empty() {
            assert_eq!(short(&update), ["-s1"]);
        }
        std::fs::create_dir(&scratch.0).unwrap();
        scratch.write("b.yaml", &service("s2", "80"));
        let deadline = Instant::now() + Duration::from_secs(10);
        while !short(&next(&mut directory).await).contains(&"+s2".to_owned()) {
            assert!(Instant::now() < deadline, "the new directory was not found");
        }
    });
}

#[test]
fn a_directory_that_is_not_there_says_what_to_do() {
    let error = Directory::open(Path::new("/nonexistent/objects")).err().unwrap().to_string();
    assert!(error.contains("/nonexistent/objects") && error.contains("--objects"), "{error}");
}

/// Line and message.
type Said = (Option<u64>, String);

fn parsed(text: &str, syntax: parse::Syntax) -> (Vec<ObjectKey>, Vec<Said>, bool) {
    let parsed = parse::parse(text, syntax);
    let keys = parsed.objects.iter().map(crate::object::Object::key).collect();
    (keys, parsed.problems.into_iter().map(|p| (p.line, p.message)).collect(), parsed.is_partial)
}

/// (text, line, beginning of the message, whether the last good version stays)
const BROKEN: &[(&str, u64, &str, bool)] = &[
    ("apiVersion: v1\nkind: Service\nmetadata: [\n", 3, "unclosed bracket", true),
    ("apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n bad: b\n", 5, "while parsing a block mapping", true),
    ("apiVersion: v1\nkind: Service\nkind: Pod\n", 3, "duplicate mapping key: kind", true),
    ("just text", 1, "apiVersion or kind is missing", true),
    ("- a\n- b\n", 1, "apiVersion or kind is missing", true),
    ("apiVersion: v1\nkind: Servce\n", 1, "v1 Servce is ignored: Fairway follows v1 Node", false),
    (
        "# c\n---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - port: 70000\n",
        8,
        "spec.ports[0].port: 70000 is not a port",
        true,
    ),
    (
        "apiVersion: v1\nkind: Service\nmetadata:\n  labels:\n    a: 1\n",
        5,
        "metadata.labels.a: invalid type: integer `1`, expected a string",
        true,
    ),
    ("apiVersion: v1\nkind: Pod\nmetadata: {}\n", 3, "metadata.name: is missing", true),
];

#[test]
fn every_mistake_names_its_line_and_field() {
    for (text, line, message, is_partial) in BROKEN {
        let (keys, problems, partial) = parsed(text, parse::Syntax::Yaml);
        let [(found, said)] = &problems[..] else { panic!("{text}\n{problems:?}") };
        assert_eq!((*found, partial, keys.len()), (Some(*line), *is_partial, 0), "{text}\n{said}");
        assert!(said.starts_with(message), "{said}");
    }
}

#[test]
fn an_unknown_field_is_told_of_and_does_no_harm() {
    let (keys, problems, partial) =
        parsed("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  hostnetwork: true\n", parse::Syntax::Yaml);
    assert_eq!((keys.len(), partial), (1, false));
    assert_eq!(problems, [(Some(5), "spec.hostnetwork: is no field that the API has; it has no effect".to_owned())]);
}

#[test]
fn a_lists_good_items_are_taken_and_its_bad_ones_named() {
    let item = |name: &str, more: &str| format!("- apiVersion: v1\n  kind: Pod\n  metadata: {{name: {name}}}\n{more}");
    let bad = [item("b", "  spec: {hostNetwork: maybe}\n"), item("c", "  status: {podIP: nine}\n")].concat();
    let text = format!("apiVersion: v1\nkind: List\nitems:\n{}{bad}{}", item("a", ""), item("d", ""));
    let (keys, problems, partial) = parsed(&text, parse::Syntax::Yaml);
    assert_eq!(keys.iter().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["a", "d"]);
    assert!(partial && problems[0].1.starts_with("items[1].spec.hostNetwork: invalid type"), "{problems:?}");
    assert_eq!(problems[1], (Some(14), "items[2].status.podIP: \"nine\": invalid IP address syntax".into()));
}

#[test]
fn json_is_read_too_and_a_typed_list_lends_its_kind() {
    let text = "{\"apiVersion\": \"v1\", \"kind\": \"PodList\", \"items\": [\n\t{\"metadata\": {\"name\": \"a\", \"namespace\": \"b\"}}]}";
    let (keys, problems, _) = parsed(text, parse::Syntax::Json);
    assert_eq!(keys, [ObjectKey { kind: Kind::Pod, namespace: "b".into(), name: "a".into() }], "{problems:?}");
    let (_, problems, partial) = parsed("{\"apiVersion\": \"v1\",\n \"kind\": }", parse::Syntax::Json);
    assert!(partial && problems[0].0 == Some(2), "{problems:?}");
}

#[test]
fn a_big_directory_is_read_in_good_time() {
    let documents: String = (0..2_000).map(|i| format!("---\n{}", service(&format!("s{i}"), "80"))).collect();
    let start = Instant::now();
    let (keys, problems, _) = parsed(&documents, parse::Syntax::Yaml);
    println!("read 2,000 services: {:?}", start.elapsed());
    assert_eq!((keys.len(), problems.len()), (2_000, 0));
    assert!(start.elapsed() < Duration::from_secs(20));
}
