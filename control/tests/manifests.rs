//! What is applied to a cluster: that the plain YAML is the chart's, and that it grants and says just what control asks for.

#[allow(dead_code, reason = "kube.rs asks it for more")]
#[path = "kube/server.rs"]
mod server;
#[path = "kube/single.rs"]
mod single;
#[allow(dead_code, reason = "kube.rs asks it for more")]
#[path = "kube/store.rs"]
mod store;
#[allow(dead_code, reason = "kube.rs asks it for more")]
#[path = "kube/world.rs"]
mod world;

use clap::Parser;
use control::args::Args;
use control::kube::Order;
use control::object::Named;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;
use world::*;

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy");

fn text(file: &str) -> String {
    std::fs::read_to_string(format!("{DEPLOY}/{file}")).unwrap()
}

/// The objects of a file, by kind.
fn object(file: &str, kind: &str) -> Value {
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text(file)).unwrap();
    let found: Vec<Value> = objects.into_iter().filter(|object| object["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "{file}: {kind}");
    found.into_iter().next().unwrap()
}

#[test]
fn the_plain_files_are_those_of_the_chart() {
    let digest = Command::new("sh").arg("chart-digest").current_dir(DEPLOY).output().unwrap();
    let digest = String::from_utf8(digest.stdout).unwrap();
    assert_eq!(digest.trim().len(), 64, "{digest}");
    for file in ["fairway.yaml", "uninstall.yaml"] {
        assert!(text(file).contains(digest.trim()), "{file} is out of date: run `make manifests`");
    }
}

#[test]
fn the_configured_arguments_are_what_control_takes() {
    let configuration = object("fairway.yaml", "ConfigMap");
    let lines = configuration["data"]["control"].as_str().unwrap().lines();
    let args = Args::try_parse_from(["fairway-control", "--node=a"].into_iter().chain(lines)).unwrap();
    args.check().unwrap();
    assert!(args.kubernetes && args.uplink == "auto");
}

fn granted() -> BTreeSet<(String, String)> {
    let strings = |value: &Value| -> Vec<String> { serde_json::from_value(value.clone()).unwrap() };
    let mut granted = BTreeSet::new();
    for rule in object("fairway.yaml", "ClusterRole")["rules"].as_array().unwrap() {
        for group in strings(&rule["apiGroups"]) {
            for resource in strings(&rule["resources"]) {
                granted.extend(strings(&rule["verbs"]).into_iter().map(|verb| (verb, format!("{group}/{resource}"))));
            }
        }
    }
    granted
}

/// One of each kind of request that there is.
async fn asked() -> BTreeSet<(String, String)> {
    let mut world = World::new().await;
    let admin = CLUSTER_POLICIES.replace("v1alpha2/cluster", "v1alpha1/admin");
    let baseline = CLUSTER_POLICIES.replace("v1alpha2/cluster", "v1alpha1/baselineadmin");
    let mut tainted = node("a", 1);
    tainted["spec"]["taints"] = json!([{ "key": "node.kubernetes.io/network-unavailable", "effect": "NoSchedule" }]);
    {
        let mut store = world.server.store();
        [CLUSTER_POLICIES, &admin, &baseline].into_iter().for_each(|collection| store.install(collection));
        store.put(NODES, tainted);
        store.put(SERVICES, service("web", 80));
    }
    world.until_watched().await;
    let writer = world.cluster.writer().clone();
    writer.write(Order::Statuses(vec![(Named::new("demo", "web"), vec![])])).await.unwrap();
    writer.write(Order::Networked { node: "a".to_owned() }).await.unwrap();
    let is_watched = |asked: &BTreeSet<(String, String)>| {
        let of = |verb: &str| asked.iter().filter(|(asked, _)| asked == verb).count();
        of("watch") == of("list")
    };
    world.until("every kind that is listed is watched", |world| is_watched(&world.server.faults().asked)).await;
    world.server.faults().asked.clone()
}

#[test]
fn the_role_allows_just_what_control_asks_for() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (asked, granted) = (runtime.block_on(asked()), granted());
    assert_eq!(asked.difference(&granted).collect::<Vec<_>>(), Vec::<&(String, String)>::new(), "not allowed");
    assert_eq!(granted.difference(&asked).collect::<Vec<_>>(), Vec::<&(String, String)>::new(), "never asked for");
}

#[test]
fn no_container_is_privileged_and_each_has_its_capabilities_by_name() {
    let expected = [
        ("fairway.yaml", "install-cni", json!(["DAC_OVERRIDE"])),
        ("fairway.yaml", "control", json!(["NET_ADMIN", "NET_RAW", "BPF", "SYS_ADMIN"])),
        ("fairway.yaml", "dataplane", json!(["IPC_LOCK"])),
        ("uninstall.yaml", "uninstall", json!(["NET_ADMIN", "BPF", "SYS_ADMIN", "DAC_OVERRIDE"])),
        ("uninstall.yaml", "done", Value::Null),
    ];
    let mut seen = 0;
    for file in ["fairway.yaml", "uninstall.yaml"] {
        let pod = object(file, "DaemonSet")["spec"]["template"]["spec"].clone();
        for container in ["initContainers", "containers"].iter().flat_map(|key| pod[key].as_array().unwrap()) {
            let security = &container["securityContext"];
            let wanted = expected.iter().find(|(of, name, _)| *of == file && container["name"] == *name).unwrap();
            assert_eq!(security["capabilities"]["add"], wanted.2, "{}", container["name"]);
            assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
            assert!(security["privileged"].is_null() && security["readOnlyRootFilesystem"] == true);
            seen += 1;
        }
    }
    assert_eq!(seen, expected.len());
}

/// Of whichever systemd there is; without one nothing is said.
#[test]
fn systemd_has_no_objection_to_the_units() {
    let directory = std::env::temp_dir().join(format!("fairway-units-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let units = ["fairway-control.service", "fairway-dataplane.service"].map(|unit| {
        let (path, program) = (directory.join(unit), env!("CARGO_BIN_EXE_fairway-control"));
        let text = text(&format!("systemd/{unit}"));
        let start = text.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
        std::fs::write(&path, text.replace(start, &format!("ExecStart={program}"))).unwrap();
        path
    });
    let verified = Command::new("systemd-analyze").arg("verify").args(&units).output();
    std::fs::remove_dir_all(&directory).unwrap();
    if let Ok(verified) = verified {
        let said = String::from_utf8_lossy(&verified.stderr);
        assert!(verified.status.success() && said.is_empty(), "{said}");
    }
}

#[test]
fn units_have_the_capabilities_of_containers() {
    let pod = object("fairway.yaml", "DaemonSet")["spec"]["template"]["spec"].clone();
    for name in ["control", "dataplane"] {
        let unit = text(&format!("systemd/fairway-{name}.service"));
        let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
        let bounding: Vec<&str> = line.split(' ').map(|capability| capability.strip_prefix("CAP_").unwrap()).collect();
        let container = pod["containers"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap();
        assert_eq!(container["securityContext"]["capabilities"]["add"], json!(bounding), "{name}");
    }
}
