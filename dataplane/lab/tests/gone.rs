//! Flows of pods that are gone, with real sockets: who gets the address next does not get what its predecessor was to be
//! answered, and nothing is left of them long before their timeouts.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use anyhow::Result;
use control::api::{self as questions, Request};
use control::listing::StatusView;
use lab::cni::{Attachment, Container};
use lab::manifests::NAMESPACE;
use lab::netns::Netns;
use lab::pod::container;
use lab::{Lab, Options, wait};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(10);
/// An answer that takes longer does not come.
const ANSWER: Duration = Duration::from_millis(200);
const ADDRESS: &str = "10.244.1.99";
/// Of the first pod, and of who answers it.
const PORT: u16 = 5000;
const FAR_PORT: u16 = 6000;

/// Two pods that ask for the same address, one after the other; the second lets nobody in.
fn apply(lab: &Lab) -> Result<()> {
    for name in ["old", "new"] {
        let metadata = json!({
            "name": name, "namespace": NAMESPACE, "labels": {"app": name}, "annotations": {"fairway.dev/pod-ips": ADDRESS},
        });
        let spec = json!({"nodeName": "node-1", "containers": []});
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        lab.objects().apply(&format!("pod-{name}"), &object.to_string())?;
    }
    let spec = json!({"podSelector": {"matchLabels": {"app": "new"}}, "policyTypes": ["Ingress"]});
    let metadata = json!({"name": "closed", "namespace": NAMESPACE});
    let policy =
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec});
    lab.objects().apply("policy-closed", &policy.to_string())?;
    let run_dir = lab.nodes[0].directory().join("run");
    let known = || questions::ask::<StatusView>(&run_dir, &Request::Status).map(|status| status.objects);
    let all = || known().is_ok_and(|objects| (objects["Pod"], objects["NetworkPolicy"]) == (3, 1));
    assert!(wait::until(PATIENCE, all), "{:?}", known());
    Ok(())
}

fn attach(lab: &Lab, name: &str) -> Result<(Container, Attachment)> {
    let netns = Netns::create(&format!("{}{name}", lab.guard().prefix()))?;
    let container = container(name, netns);
    let attached = lab.nodes[0].plugin().add(&container)?;
    assert_eq!(attached.addresses, [ADDRESS.parse::<IpAddr>()?]);
    Ok((container, attached))
}

fn socket(netns: &Netns, at: IpAddr, port: u16) -> Result<UdpSocket> {
    let socket = netns.inside(|| UdpSocket::bind((at, port)))??;
    socket.set_read_timeout(Some(ANSWER))?;
    Ok(socket)
}

/// It sends, and is answered.
fn is_answered(asking: &UdpSocket, far: &UdpSocket) -> bool {
    let mut bytes = [0; 16];
    let to = far.local_addr().expect("it is bound");
    let asked = asking.send_to(b"ask", to).and_then(|_| far.recv_from(&mut bytes));
    let answered = asked.and_then(|(_, from)| far.send_to(b"answer", from)).and_then(|_| asking.recv(&mut bytes));
    answered.is_ok()
}

#[test]
fn nobody_inherits_the_flows_of_a_pod_that_is_gone() -> Result<()> {
    let _one = lab::one_at_a_time();
    let mut lab = Lab::start(&Options { workers: 2, uplink_queues: 2, ..Options::default() })?;
    lab.add_pod("far", 1, &[])?;
    apply(&lab)?;
    let far = socket(lab.pod("far")?.netns(), lab.pod("far")?.address(), FAR_PORT)?;
    let (old, attached) = attach(&lab, "old")?;
    let asking = socket(&old.netns, ADDRESS.parse()?, PORT)?;
    assert!(wait::until(PATIENCE, || is_answered(&asking, &far)), "the first pod is not answered");
    lab.nodes[0].plugin().del(&old, Some(&attached.result))?;

    let (new, attached) = attach(&lab, "new")?;
    let (heir, other) = (socket(&new.netns, ADDRESS.parse()?, PORT)?, socket(&new.netns, ADDRESS.parse()?, PORT + 1)?);
    assert!(wait::until(PATIENCE, || is_answered(&other, &far)), "the second pod is not answered");
    for _ in 0..5 {
        far.send_to(b"more", (ADDRESS, PORT))?;
        assert!(heir.recv(&mut [0; 16]).is_err(), "what the first pod was to be answered reaches the second");
    }
    let flows = || lab.nodes[0].fairway().run("flows").map(|ran| ran.stdout).unwrap_or_default();
    assert!(flows().contains(ADDRESS), "{}", flows());
    lab.nodes[0].plugin().del(&new, Some(&attached.result))?;
    // A UDP flow that was answered has two minutes.
    assert!(wait::until(PATIENCE, || !flows().contains(ADDRESS)), "{}", flows());
    Ok(())
}
