//! `fairway bundle`: what the read commands show of a node, and what it would do with packets, can be asked of the file when
//! the node is gone.

use lab::shell::Cmd;
use lab::{Families, Lab, Options, manifests};
use serde_json::Value;
use std::path::Path;

/// Of the service.
const NUMBER: u8 = 10;

const LISTINGS: [&str; 7] = ["interfaces", "endpoints", "services", "policies", "routes", "status", "flows"];

fn asked(program: &Path, line: &str, from: &Path) -> String {
    let command = Cmd::new(program).args(line.split_whitespace()).args(["--from"]).arg(from.display());
    let ran = command.run().expect("it runs").ok().unwrap_or_else(|error| panic!("{line}: {error:#}"));
    ran.stdout
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_bundle_answers_when_the_node_is_gone() {
    let families = Families::Dual;
    let mut lab = Lab::start(&Options { families, ..Options::default() }).expect("a lab");
    for (name, node) in [("alice", 0), ("web-1", 0), ("web-2", 1)] {
        lab.add_pod(name, node, &[("app", if name == "alice" { "alice" } else { "web" })]).expect("a pod");
    }
    let service = manifests::service("web", &families.service(NUMBER), ("app", "web"));
    lab.objects().apply("service-web", &service).expect("a service");
    lab.settle().expect("it settles");
    let address = families.service(NUMBER)[0];
    let (netns, url) = (lab.pod("alice").expect("alice").netns().clone(), format!("http://{address}/"));
    for _ in 0..4 {
        Cmd::line(&format!("curl -sS -m 5 -o /dev/null {url}")).netns(&netns).ok().expect("the service answers");
    }
    let node = lab.node_of("alice").expect("its node");
    let (fairway, file) = (node.fairway(), std::env::temp_dir().join(format!("fairway-bundle-{}", std::process::id())));
    let program = lab.binaries().path("fairway");
    fairway.run(&format!("bundle {}", file.display())).expect("a bundle");
    let explain = |to: &str| format!("explain demo/alice {to} -o json");
    let questions: Vec<String> = [format!("{address}:80/tcp"), "demo/web-2:80/tcp".into(), "192.0.2.1:53/udp".into()]
        .iter()
        .map(|to| explain(to))
        .collect();
    let live: Vec<Value> = questions.iter().map(|q| json(&fairway.run(q).expect("it explains").stdout)).collect();
    let wide = fairway.run("services -o wide").expect("services").stdout;
    // Which backend each of the four got is chance; all of them are somebody's.
    let http = wide.lines().find(|line| line.contains(&format!("{address} ")) && line.contains("80/TCP"));
    let http = http.unwrap_or_else(|| panic!("no such service:\n{wide}"));
    let flows = |part: &str| part.rsplit_once('(').and_then(|(_, count)| count.parse::<u64>().ok()).unwrap_or(0);
    assert_eq!(http.split(" flows,").map(flows).sum::<u64>(), 4, "{http}");
    let capture = file.with_extension("pcap");
    let captured = format!("timeout 2 tcpdump --immediate-mode -U -i eth0 -w {} tcp port 80", capture.display());
    let script = format!("{captured} & sleep 1; curl -sS -m 5 -o /dev/null {url}; wait");
    Cmd::new("sh").args(["-c", &script]).netns(&netns).run().expect("a capture");
    drop(lab);
    for listing in LISTINGS {
        let told = json(&asked(&program, &format!("{listing} -o json"), &file));
        assert!(!told.as_array().is_some_and(Vec::is_empty) || listing == "policies", "{listing} is empty");
    }
    for (question, live) in questions.iter().zip(live) {
        assert_eq!(json(&asked(&program, question, &file)), live, "{question}");
    }
    let replay = asked(&program, &format!("replay {}", capture.display()), &file);
    let rows: Vec<&str> = replay.lines().skip(1).collect();
    assert!(rows.len() >= 8 && rows[0].contains("demo/alice"), "a connection:\n{replay}");
    let [own, forwarded] =
        ["sent by the node itself", ":8080 tcp"].map(|way| rows.iter().filter(|row| row.contains(way)).count());
    assert!(own >= 3 && forwarded >= 4 && own + forwarded == rows.len(), "each packet has its way:\n{replay}");
    std::fs::remove_file(&capture).expect("the capture was there");
    let nonsense = Cmd::new(&program).args(["services", "--from", "/nowhere"]).run().expect("it runs");
    assert!(nonsense.code == 1 && nonsense.stderr.contains("there is no such file"), "{}", nonsense.stderr);
    std::fs::remove_file(&file).expect("the bundle was there");
}
