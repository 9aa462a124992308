use super::*;
use crate::api::{self, Failure, Reply, code};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;

/// The run directory of a control process; gone at the end of the test.
struct RunDir(PathBuf);

impl Drop for RunDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A control process that gives one answer to whoever asks.
fn control(name: &str, reply: Reply) -> RunDir {
    let directory = std::env::temp_dir().join(format!("fairway-cli-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    let listener = UnixListener::bind(api::socket_path(&directory)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            serde_json::from_str::<Request>(&line).unwrap();
            writeln!(stream, "{}", serde_json::to_string(&reply).unwrap()).unwrap();
        }
    });
    RunDir(directory)
}

fn fairway(directory: &std::path::Path, arguments: &str) -> (ExitCode, String) {
    let base = ["fairway", "--run-dir", directory.to_str().unwrap()];
    let cli = Cli::try_parse_from(base.into_iter().chain(arguments.split_whitespace())).unwrap();
    let mut out = Vec::new();
    (run(&cli, &mut out), String::from_utf8(out).unwrap())
}

fn endpoint(namespace: &str, name: &str, last: u8) -> Value {
    json!(EndpointView {
        namespace: namespace.into(),
        name: name.into(),
        addrs: vec![tables::Addr::v4([10, 244, 1, last])],
        mac: tables::Mac([2, 0xfa, 10, 244, 1, last]),
        container: "c".into(),
        ifname: "eth0".into(),
        interface: Some(3),
        owner: Some(0),
        identity: None,
        policy_set: None,
        ready: true,
    })
}

#[test]
fn a_listing_is_aligned_and_namespaced() {
    let rows = json!([endpoint("demo", "web-1", 4), endpoint("other", "a", 10)]);
    let directory = control("list", Reply::Done(rows));
    let (code, text) = fairway(&directory.0, "endpoints");
    assert_eq!(code, ExitCode::SUCCESS);
    let expected = "\
NAMESPACE   NAME    READY   ADDRESS       INTERFACE
demo        web-1   true    10.244.1.4    3
other       a       true    10.244.1.10   3
";
    assert_eq!(text, expected);
    assert_eq!(fairway(&directory.0, "endpoint -n other").1.lines().count(), 2);
    assert!(fairway(&directory.0, "ep -A -o wide").1.contains("02:fa:0a:f4:01:04"));
    let (_, json) = fairway(&directory.0, "endpoints -o json");
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()[1]["addrs"], json!(["10.244.1.10"]));
    assert!(fairway(&directory.0, "endpoints -o yaml").1.contains("name: web-1"));
}

#[test]
fn drops_and_explain_have_the_promised_shape() {
    let drops = json!([DropView {
        reason: "PolicyIngress".into(),
        sentence: "No.".into(),
        count: 4,
        policy: Some("demo/deny".into()),
    }]);
    let (_, text) = fairway(&control("drops", Reply::Done(drops)).0, "drops -o json");
    let expected = json!([{"reason": "PolicyIngress", "sentence": "No.", "count": 4, "policy": "demo/deny"}]);
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
    let explained = json!({
        "verdict": "drop", "reason": "PolicyIngress", "policy": "demo/deny", "rule": null, "service": "demo/web:http",
        "backends": ["10.244.1.4:8080"], "steps": [["route", "local"]], "inside": null, "outside": null,
        "masquerade": false, "generation": 7,
    });
    let directory = control("explain", Reply::Done(explained.clone()));
    let (_, text) = fairway(&directory.0, "explain demo/a 10.96.0.1:80/tcp -o json");
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), explained);
    let (_, text) = fairway(&directory.0, "explain demo/a 10.96.0.1:80/tcp");
    assert!(text.contains("drop (PolicyIngress)") && text.contains("demo/deny"), "{text}");
}

#[test]
fn explain_answers_a_file_of_flows_in_rows_and_names_a_line_that_is_none() {
    let told = json!([
        ExplainView { verdict: "forward".into(), ..ExplainView::default() },
        ExplainView { verdict: "drop".into(), policy: Some("demo/deny".into()), ..ExplainView::default() },
    ]);
    let directory = control("explain-file", Reply::Done(told));
    let file = directory.0.join("flows");
    std::fs::write(&file, "# who asks whom\ndemo/a 10.96.0.1:80/tcp\n\ndemo/b demo/web:53/UDP\n").unwrap();
    let (code, text) = fairway(&directory.0, &format!("explain --file {}", file.display()));
    assert_eq!(code, ExitCode::SUCCESS);
    let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[1], ["demo/a", "10.96.0.1:80/tcp", "forward", "-", "-", "-", "-"]);
    assert_eq!(words[2], ["demo/b", "demo/web:53/udp", "drop", "-", "demo/deny", "-", "-"]);
    std::fs::write(&file, "demo/a 10.96.0.1:80/tcp\ndemo/a\n").unwrap();
    assert_eq!(fairway(&directory.0, &format!("explain -f {}", file.display())).0, ExitCode::FAILURE);
    let error = many::read(&file, 1, None).unwrap_err().to_string();
    assert!(error.ends_with("flows:2: SOURCE ADDRESS:PORT/PROTOCOL is expected"), "{error}");
}

#[test]
fn failures_exit_with_1_and_usage_errors_with_2() {
    let directory = control("fail", Reply::Failed(Failure::new(code::FAILED, "the dataplane is gone")));
    assert_eq!(fairway(&directory.0, "drops").0, ExitCode::FAILURE);
    let missing = std::env::temp_dir().join("fairway-nobody");
    assert_eq!(fairway(&missing, "status").0, ExitCode::FAILURE);
    for bad in [&["fairway", "frobnicate"][..], &["fairway", "drops", "-o", "xml"], &["fairway", "explain", "a", "b"]] {
        let error = Cli::try_parse_from(bad).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{bad:?}");
    }
}

#[test]
fn a_missing_control_says_what_to_do() {
    let error = api::ask::<Value>(std::path::Path::new("/nowhere"), &Request::Status).unwrap_err().to_string();
    assert!(error.contains("/nowhere/control.sock") && error.contains("start it"), "{error}");
}

#[test]
fn a_destination_names_address_port_and_protocol() {
    let parsed = |text: &str| parse_destination(text).map(|d| (d.addr, d.port, d.protocol));
    assert_eq!(parsed("10.0.0.1:80/TCP"), Ok(("10.0.0.1".into(), 80, "tcp".into())));
    assert_eq!(parsed("[fd00::1]:53/udp"), Ok(("fd00::1".into(), 53, "udp".into())));
    assert_eq!(parsed("demo/web:8080/tcp"), Ok(("demo/web".into(), 8080, "tcp".into())));
    assert_eq!(parsed("10.0.0.1/icmp"), Ok(("10.0.0.1".into(), 0, "icmp".into())));
    for bad in ["10.0.0.1", "10.0.0.1:80", "10.0.0.1:80/gre", "10.0.0.1:x/tcp", ""] {
        assert!(parsed(bad).is_err(), "{bad}");
    }
}

#[test]
fn runtime_shows_load_bursts_and_what_each_stage_costs() {
    let stage = |name: &str, ns: Option<f64>, share: f64| StageView {
        stage: name.into(),
        sentence: "It.".into(),
        packets: 640,
        burst_mean: 64.0,
        ticks_per_packet: ns.map(|ns| ns * 2.0),
        ns_per_packet: ns,
        share,
    };
    let worker = WorkerRuntime {
        id: 1,
        asleep: false,
        shares_core: true,
        busy_1s: 0.375,
        busy_10s: 0.25,
        packets_per_s: 1e6,
        packets: 640,
        rounds: 10,
        empty_rounds: 90,
        sleeps: 3,
        handoffs_out: 0,
        handoffs_in: 0,
        sampled_rounds: 2,
        preempted_rounds: 1,
        tick_hz: 2_000_000_000,
        burst_mean: 64.0,
        bursts: vec![BurstView { size: "1".into(), bursts: 1 }, BurstView { size: "64+".into(), bursts: 3 }],
        stages: vec![stage("Receive", Some(5.0), 0.25), stage("HandOff", None, 0.0), stage("Act", Some(15.0), 0.75)],
        ticks_per_packet: Some(40.0),
        ns_per_packet: Some(20.0),
    };
    let view = RuntimeView { node: "n".into(), polling: "adaptive".into(), workers: vec![worker] };
    let directory = control("runtime", Reply::Done(json!(view)));
    let (code, text) = fairway(&directory.0, "status --runtime");
    assert_eq!(code, ExitCode::SUCCESS);
    for expected in [
        "Worker 1:  awake, shares its core",
        "37.5% (last second), 25.0% (last 10 s)",
        "1: 25%  64+: 75%",
        "Act       640       64.0        15.0        30.0           75.0%",
        "HandOff   640       64.0        -           -              0.0%",
        "all       640       64.0        20.0        40.0",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    let (_, json) = fairway(&directory.0, "status --runtime -o json");
    assert_eq!(serde_json::from_str::<RuntimeView>(&json).unwrap(), view);
}
