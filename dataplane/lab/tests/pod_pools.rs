//! Addresses that pods ask for by annotations: fixed ones, and out of named pools, by themselves or for a whole namespace.

use std::net::IpAddr;

use anyhow::Result;
use control::api::{self as questions, Request};
use control::listing::StatusView;
use lab::chain::code_of;
use lab::cni::{Attachment, Container};
use lab::netns::Netns;
use lab::shell::Cmd;
use lab::{Families, Lab, Options, wait};
use serde_json::{Value, json};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

struct World {
    lab: Lab,
    /// That there are objects of.
    pods: usize,
}

impl World {
    /// The pool has two addresses of each family on every node, and the namespace `gilded` asks for them.
    fn start() -> Result<World> {
        let control_args = ["--pod-pool", "gold=+4,+33", "--pod-pool", "far=10.250.0.0/24"].map(str::to_owned).to_vec();
        let lab = Lab::start(&Options { families: Families::Dual, control_args, ..Options::default() })?;
        let world = World { lab, pods: 0 };
        world.apply("Namespace", "", "gilded", json!({"fairway.dev/pod-pool": "gold"}))?;
        Ok(world)
    }

    fn apply(&self, kind: &str, namespace: &str, name: &str, annotations: Value) -> Result<()> {
        let metadata = json!({"name": name, "namespace": namespace, "annotations": annotations});
        let spec = json!({"nodeName": "node-1", "containers": []});
        let object = json!({"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": spec});
        self.lab.objects().apply(&format!("{kind}-{namespace}-{name}"), &object.to_string()).map(drop)
    }

    /// How many namespaces (one is of the lab) and pods control knows.
    fn known(&self) -> (usize, usize) {
        let run_dir = self.lab.nodes[0].directory().join("run");
        let status = questions::ask::<StatusView>(&run_dir, &Request::Status);
        let count = |kind: &str| status.as_ref().ok().and_then(|status| status.objects.get(kind).copied()).unwrap_or(0);
        (count("Namespace"), count("Pod"))
    }

    /// Its object first, as a kubelet has it.
    fn attach(&mut self, namespace: &str, name: &str, annotations: Value) -> Result<(Container, Attachment)> {
        self.apply("Pod", namespace, name, annotations)?;
        self.pods += 1;
        assert!(wait::until(PATIENCE, || self.known() == (2, self.pods)), "{:?} are known", self.known());
        let netns = Netns::create(&format!("{}{name}", self.lab.guard().prefix()))?;
        let container = Container { namespace: namespace.into(), name: name.into(), netns };
        let attached = self.lab.nodes[0].plugin().add(&container)?;
        Ok((container, attached))
    }
}

fn texts(attached: &Attachment) -> Vec<String> {
    attached.addresses.iter().map(IpAddr::to_string).collect()
}

fn reaches(netns: &Netns, to: IpAddr) -> bool {
    Cmd::line("ping -n -c 1 -W 2").arg(to).netns(netns).run().is_ok_and(|ran| ran.succeeded())
}

#[test]
fn pods_get_what_they_ask_for_and_others_do_not() -> Result<()> {
    let _one = lab::one_at_a_time();
    let mut world = World::start()?;
    let (_, plain) = world.attach("demo", "plain", json!({}))?;
    assert_eq!(texts(&plain), ["10.244.1.5", "fd00:10:244:1::5"], "the first address is the pool's");
    let (one, first) = world.attach("gilded", "one", json!({}))?;
    assert_eq!(texts(&first), ["10.244.1.4", "fd00:10:244:1::4"]);
    let (_, second) = world.attach("demo", "two", json!({"fairway.dev/pod-pool": "gold"}))?;
    assert_eq!(texts(&second), ["10.244.1.33", "fd00:10:244:1::21"]);
    let (fixed, asked) =
        world.attach("demo", "fixed", json!({"fairway.dev/pod-ips": "10.244.1.77, fd00:10:244:1::77"}))?;
    assert_eq!(texts(&asked), ["10.244.1.77", "fd00:10:244:1::77"]);
    for client in Families::Dual.client() {
        for pod in [&one, &fixed] {
            assert!(wait::until(PATIENCE, || reaches(&pod.netns, client)), "{} does not reach {client}", pod.name);
        }
    }
    for (name, annotations, code, told) in [
        (
            "three",
            json!({"fairway.dev/pod-pool": "gold"}),
            11,
            "pod demo/three: all 2 addresses of the pool \"gold\" in 10.244.1.0/24 are in use",
        ),
        ("typo", json!({"fairway.dev/pod-pool": "golf"}), 7, "pod demo/typo: there is no pool \"golf\""),
        (
            "far",
            json!({"fairway.dev/pod-pool": "far"}),
            7,
            "the pool \"far\" has no pod address in this node's pod ranges (10.244.1.0/24, fd00:10:244:1::/64)",
        ),
        (
            "again",
            json!({"fairway.dev/pod-ips": "10.244.1.77"}),
            11,
            "address 10.244.1.77 cannot be given: another pod has it",
        ),
        ("beyond", json!({"fairway.dev/pod-ips": "10.244.2.77"}), 7, "10.244.2.77"),
        (
            "word",
            json!({"fairway.dev/pod-ips": "web"}),
            7,
            "pod demo/word: annotation fairway.dev/pod-ips: \"web\" is no address",
        ),
    ] {
        let refused = world.attach("demo", name, annotations);
        let sentence = refused.as_ref().map(|_| ()).expect_err(name).to_string();
        assert!(sentence.contains(told), "{sentence}");
        assert_eq!(code_of(refused), Some(code), "{name}");
    }
    // What was given is known after a restart, and given back after a DEL.
    let node = &mut world.lab.nodes[0];
    node.kill_control()?;
    node.start_control()?;
    node.wait_connected()?;
    assert_eq!(code_of(world.attach("gilded", "four", json!({}))), Some(11));
    world.lab.nodes[0].plugin().del(&one, Some(&first.result))?;
    let (_, third) = world.attach("gilded", "five", json!({}))?;
    assert_eq!(texts(&third), texts(&first));
    Ok(())
}
