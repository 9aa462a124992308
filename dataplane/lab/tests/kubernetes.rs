//! Two nodes that follow an API server: services and policies as by files, and what happens while the server is gone.

#[path = "kubernetes/api.rs"]
mod api;
#[allow(dead_code, reason = "control's tests ask it for more")]
#[path = "../../../control/tests/kube/server.rs"]
mod server;
#[path = "../../../control/tests/kube/single.rs"]
mod single;
#[allow(dead_code, reason = "control's tests ask it for more")]
#[path = "../../../control/tests/kube/store.rs"]
mod store;

use api::{Api, KUBECONFIG, LEASES, is_ready};
use control::api::{self as questions, Request};
use control::listing::StatusView;
use lab::manifests::PodSpec;
use lab::netns::Netns;
use lab::pod::container;
use lab::shell::Cmd;
use lab::{Lab, Options, manifests, wait};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

fn status(lab: &Lab, node: usize) -> StatusView {
    questions::ask(&lab.nodes[node].directory().join("run"), &Request::Status).expect("control answers")
}

fn reaches(lab: &Lab, pod: &str, url: &str) -> bool {
    let netns = lab.pod(pod).expect("a pod").netns();
    Cmd::line("curl -s -m 1 -o /dev/null").arg(url).netns(netns).run().is_ok_and(|ran| ran.succeeded())
}

fn eventually(what: &str, look: impl FnMut() -> bool) {
    assert!(wait::until(PATIENCE, look), "never: {what}");
}

struct Cluster {
    // Goes before the namespaces that it serves in.
    api: Api,
    lab: Lab,
    kubeconfig: PathBuf,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.kubeconfig);
    }
}

/// Both nodes run, and follow the server.
fn start() -> Cluster {
    start_with(&[])
}

fn start_with(more: &[&str]) -> Cluster {
    let kubeconfig = std::env::temp_dir().join(format!("fairway-kubeconfig-{}", std::process::id()));
    std::fs::write(&kubeconfig, KUBECONFIG).expect("a file");
    let mut control_args = vec!["--kubeconfig".to_owned(), kubeconfig.display().to_string()];
    control_args.extend(more.iter().map(ToString::to_string));
    let mut lab = Lab::wire(&Options { control_args, ..Options::default() }).expect("the lab is wired");
    let mut api = Api::new();
    api.mirror(&lab).expect("objects");
    api.start(&lab).expect("the server starts");
    lab.nodes.iter_mut().for_each(|node| node.start().expect("Fairway starts"));
    Cluster { api, lab, kubeconfig }
}

impl Cluster {
    fn mirror(&mut self) {
        self.api.mirror(&self.lab).expect("objects");
    }
}

#[test]
fn a_cluster_is_served_by_its_api_and_goes_on_without_it() {
    let _one = lab::one_at_a_time();
    let mut cluster = start();
    for (name, node) in [("asker", 0), ("web-1", 0), ("web-2", 1)] {
        let label = [("app", name.split('-').next().expect("a word"))];
        cluster.lab.add_pod(name, node, &label).expect("a pod");
    }
    let service = "10.96.0.20".parse().expect("an address");
    cluster
        .lab
        .objects()
        .apply("service-web", &manifests::service("web", &[service], ("app", "web")))
        .expect("written");
    // Known before the server goes, without an address: as kubelet has it.
    let labels = [("app".to_owned(), "web".to_owned())];
    let node = cluster.lab.nodes[0].name();
    let late = manifests::pod(&PodSpec { name: "late", node, labels: &labels, addresses: &[] });
    cluster.lab.objects().apply("pod-late", &late).expect("written");
    cluster.mirror();
    let url = "http://10.96.0.20/";
    eventually("the service answers", || reaches(&cluster.lab, "asker", url));
    let web_2 = cluster.lab.pod("web-2").expect("a pod").url();
    eventually("a pod of the other node answers", || reaches(&cluster.lab, "asker", &web_2));
    assert_eq!(status(&cluster.lab, 0).source.state, "connected");
    assert_eq!(is_ready(cluster.lab.nodes[0].netns()).expect("curl"), "ok\n");

    let is_told = || {
        let store = cluster.api.shared.store();
        let node = store.get("/api/v1/nodes", "/node-1").cloned().unwrap_or_default();
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|one| one["type"] == "NetworkUnavailable" && one["status"] == "False")
    };
    eventually("the node is said to have its network", is_told);

    // Without it everything goes on, and new pods get addresses.
    cluster.api.stop();
    eventually("status tells", || status(&cluster.lab, 0).source.state == "failing");
    let ready = is_ready(cluster.lab.nodes[0].netns()).expect("curl");
    assert!(ready.contains("http://127.0.0.1:6443") && ready.contains("stays in force"), "{ready}");
    assert!(reaches(&cluster.lab, "asker", url) && reaches(&cluster.lab, "asker", &web_2));
    cluster.lab.add_pod("late", 0, &[("app", "web")]).expect("a pod without the server");
    let late = cluster.lab.pod("late").expect("a pod").url();
    eventually("the new pod is reached by its address", || reaches(&cluster.lab, "asker", &late));

    // A control process that starts without it goes by the last state, which it says.
    cluster.lab.nodes[0].kill_control().expect("control runs");
    cluster.lab.nodes[0].start_control().expect("control starts");
    cluster.lab.nodes[0].wait_connected().expect("control answers");
    let is_recalled = |problem: &String| problem.contains("objects.jsonl");
    eventually("the last state", || status(&cluster.lab, 0).problems.iter().any(is_recalled));
    cluster.lab.nodes[0].wait_connected().expect("tables of the last state");
    assert!(reaches(&cluster.lab, "asker", url) && reaches(&cluster.lab, "asker", &late));

    // What was said meanwhile counts once the server is back.
    cluster.lab.objects().apply("policy", &manifests::friends_only("web")).expect("written");
    cluster.mirror();
    cluster.api.start(&cluster.lab).expect("the server starts");
    eventually("the policy bites", || !reaches(&cluster.lab, "asker", &web_2));
    eventually("the source is followed", || status(&cluster.lab, 0).source.state == "connected");
    assert_eq!(is_ready(cluster.lab.nodes[0].netns()).expect("curl"), "ok\n");
    assert_eq!(status(&cluster.lab, 0).problems, Vec::<String>::new());
    cluster.api.stop();
}

/// As long as a lease lasts, and what it takes to see that.
const TAKEOVER: Duration = Duration::from_secs(40);

fn holder(cluster: &Cluster) -> String {
    let store = cluster.api.shared.store();
    let lease = store.get(LEASES, "kube-system/fairway").cloned().unwrap_or_default();
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

/// The addresses of services as the server has them: none is another's.
fn given(cluster: &Cluster) -> usize {
    let store = cluster.api.shared.store();
    let ip = |object: &serde_json::Value| object.pointer("/status/loadBalancer/ingress/0/ip").map(ToString::to_string);
    let services = store.all().filter(|(collection, _)| *collection == "/api/v1/services");
    let all: Vec<String> = services.filter_map(|(_, object)| ip(object)).collect();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "given twice: {all:?}");
    all.len()
}

#[test]
fn one_control_gives_addresses_and_the_other_takes_over_when_it_is_killed_or_leaves() {
    let _one = lab::one_at_a_time();
    let mut cluster = start_with(&["--load-balancer-pool", "p=192.0.2.0-192.0.2.63"]);
    let add = |cluster: &Cluster, numbers: std::ops::Range<u32>| {
        for i in numbers {
            let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "namespace": "demo", "name": format!("b{i}") },
                "spec": { "type": "LoadBalancer", "clusterIP": format!("10.96.1.{i}"), "ports": [{ "port": 80 }] } });
            cluster.api.shared.store().put("/api/v1/services", service);
        }
    };
    add(&cluster, 1..11);
    assert!(wait::until(TAKEOVER, || given(&cluster) == 10), "{} given", given(&cluster));
    let killed = cluster.lab.nodes.iter().position(|node| node.name() == holder(&cluster)).expect("a node holds it");
    cluster.lab.nodes[killed].kill_control().expect("it runs");
    add(&cluster, 11..21);
    assert!(wait::until(TAKEOVER, || given(&cluster) == 20), "{} given", given(&cluster));
    assert_eq!(holder(&cluster), cluster.lab.nodes[1 - killed].name());
    // The other one is back, and the holder leaves in good order: it need not be waited for.
    cluster.lab.nodes[killed].start_control().expect("control starts");
    cluster.lab.nodes[killed].wait_connected().expect("control answers");
    cluster.lab.nodes[1 - killed].stop().expect("it ends");
    add(&cluster, 21..31);
    assert!(wait::until(PATIENCE, || given(&cluster) == 30), "{} given", given(&cluster));
    assert_eq!(holder(&cluster), cluster.lab.nodes[killed].name());
    cluster.api.stop();
}

const PODS: usize = 10_000;
/// Memory of control's own for them: 20 MB.
const MEMORY_MAX_KIB: u64 = 20_000_000 / 1024;
/// For what reading left behind to be given back, on a busy machine.
const GIVEN_BACK: Duration = Duration::from_secs(60);

/// A pod of another node, as large as servers send them.
fn remote_pod(number: usize) -> serde_json::Value {
    let noise: Vec<_> = (0..40).map(|i| json!({ "name": format!("VARIABLE_{i}"), "value": "a".repeat(60) })).collect();
    let fields = json!({ "f:metadata": { "f:labels": { "f:app": {}, "f:pod-template-hash": {} } }, "f:spec": noise });
    let (name, hash) = (format!("web-{:x}-{number}", number / 10), format!("{:x}", number / 10));
    let addr = format!("10.244.{}.{}", 128 + number / 250, 4 + number % 250);
    json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "namespace": format!("team-{}", number % 50), "name": name, "managedFields": [fields],
            "labels": { "app": format!("web-{}", number / 100), "pod-template-hash": hash, "tier": "front",
                "app.kubernetes.io/instance": format!("web-{}", number / 100) } },
        "spec": { "nodeName": "node-2", "containers": [{ "name": "main", "image": "web:1", "env": noise,
            "ports": [{ "name": "http", "containerPort": 8080, "protocol": "TCP" }] }] },
        "status": { "phase": "Running", "podIP": addr, "podIPs": [{ "ip": addr }],
            "conditions": [{ "type": "Ready", "status": "True" }] } })
}

/// KiB that only control has: now, and at most so far (which counts shared memory, too).
fn memory(lab: &Lab) -> (u64, u64) {
    let pid = lab.nodes[0].control_pid().expect("control runs");
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a line of status");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    };
    (value("RssAnon:"), value("VmHWM:"))
}

#[test]
fn ten_thousand_pods_of_other_nodes_take_little_memory() {
    let _one = lab::one_at_a_time();
    let mut cluster = start();
    let known = |lab: &Lab| status(lab, 0).objects["Pod"];
    eventually("an empty cluster is read", || status(&cluster.lab, 0).source.state == "connected");
    wait::sleep_ms(500);
    let before = memory(&cluster.lab);
    cluster.api.stop();
    let size: usize = {
        let mut store = cluster.api.shared.store();
        (0..PODS).for_each(|number| store.put("/api/v1/pods", remote_pod(number)));
        // So that they are listed, not watched one by one.
        store.compact();
        remote_pod(0).to_string().len()
    };
    cluster.api.start(&cluster.lab).expect("the server starts");
    assert!(wait::until(Duration::from_secs(60), || known(&cluster.lab) == PODS), "{}", known(&cluster.lab));
    let taken = |lab: &Lab| {
        let now = memory(lab);
        (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1))
    };
    // What reading left behind is given back once it is quiet.
    let is_little = wait::until(GIVEN_BACK, || taken(&cluster.lab).0 <= MEMORY_MAX_KIB);
    let (kept, peak) = taken(&cluster.lab);
    println!("{PODS} pods of {size} bytes: {kept} KiB are kept, {peak} KiB at most with what is shared");
    assert!(is_little, "{kept} KiB");
    cluster.api.stop();
}

/// The kubelet may be quicker than the watch: what the object asks for is waited for, though not for ever.
#[test]
fn a_pod_gets_the_address_that_its_object_asks_for_also_when_that_comes_later() {
    let _one = lab::one_at_a_time();
    let cluster = start_with(&["--pod-pool", "gold=+200-201"]);
    let plugin = cluster.lab.nodes[0].plugin();
    let attach = |name: &str| {
        let netns = Netns::create(&format!("{}{name}", cluster.lab.guard().prefix())).expect("a namespace");
        plugin.add(&container(name, netns)).expect("ADD").addresses[0].to_string()
    };
    let annotations = json!({"fairway.dev/pod-pool": "gold"});
    let object = json!({
        "apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": "node-1", "containers": []},
        "metadata": {"name": "late", "namespace": "demo", "annotations": annotations},
    });
    eventually("tables", || is_ready(cluster.lab.nodes[0].netns()).is_ok_and(|text| text == "ok\n"));
    let address = std::thread::scope(|scope| {
        let attached = scope.spawn(|| attach("late"));
        std::thread::sleep(Duration::from_millis(200));
        cluster.api.shared.store().put("/api/v1/pods", object);
        attached.join().expect("it does not panic")
    });
    assert_eq!(address, "10.244.1.200");
    assert_eq!(attach("nobody"), "10.244.1.4", "there is no object of it");
}
