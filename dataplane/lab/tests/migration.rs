//! A cluster of Flannel (VXLAN) and kube-proxy becomes one of Fairway, a node after the other: pods reach each other and
//! services, both ways, before, between and after, and who is not on the node that is switched notices nothing.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use lab::flannel::{Flannel, PORT};
use lab::netns::Netns;
use lab::shell::Cmd;
use lab::{Families, Lab, Options, manifests};

const FAMILIES: Families = Families::Ipv4;
const LIMIT: Duration = Duration::from_secs(2);

/// A pod of either kind.
#[derive(Clone, Debug)]
struct Pod {
    name: String,
    netns: Netns,
    address: IpAddr,
}

/// Who answers HTTP there, and whom he saw.
fn ask(from: &Netns, to: IpAddr, port: u16) -> std::io::Result<String> {
    let connect = || TcpStream::connect_timeout(&SocketAddr::new(to, port), LIMIT);
    let mut stream = from.inside(connect).expect("inside")?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default().trim().to_string();
    if body.is_empty() { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(body) }
}

/// Each asks each directly, who is then seen by its own address, and who serves nothing asks the service until both
/// backends answered.
#[track_caller]
fn all_reach_all(pods: &[Pod], service: IpAddr) {
    for from in pods {
        for to in pods.iter().filter(|to| to.name != from.name) {
            let answer = ask(&from.netns, to.address, 8080);
            let wanted = format!("{} saw {}", to.name, from.address);
            assert_eq!(answer.as_deref().ok(), Some(&*wanted), "{} -> {}: {answer:?}", from.name, to.name);
            let ping = Cmd::line(&format!("ping -q -c 1 -W 2 -M do -s 1422 {}", to.address)).netns(&from.netns);
            ping.ok().unwrap_or_else(|error| panic!("{} -> {}: {error:#}", from.name, to.name));
        }
        // A backend of Flannel's kind would need its bridge to send back where frames came from.
        if from.name.starts_with("web") {
            continue;
        }
        let mut met = std::collections::BTreeSet::new();
        for _ in 0..40 {
            let answer = ask(&from.netns, service, 80).unwrap_or_else(|error| panic!("{}: {error}", from.name));
            met.extend(answer.split(' ').next().map(str::to_string));
        }
        assert_eq!(met.len(), 2, "{} met {met:?}", from.name);
    }
}

/// Asks the service again and again, in the background.
struct Asking {
    thread: JoinHandle<(u32, Vec<String>)>,
    over: &'static AtomicBool,
}

impl Asking {
    fn start(from: &Netns, service: IpAddr) -> Asking {
        let (from, over): (Netns, &'static AtomicBool) = (from.clone(), Box::leak(Box::default()));
        let thread = std::thread::spawn(move || {
            let (mut asked, mut failed) = (0, Vec::new());
            while !over.load(Ordering::Relaxed) {
                asked += 1;
                failed.extend(ask(&from, service, 80).err().map(|error| error.to_string()));
                lab::wait::sleep_ms(20);
            }
            (asked, failed)
        });
        Asking { thread, over }
    }

    #[track_caller]
    fn expect_no_failure(self) {
        self.over.store(true, Ordering::Relaxed);
        let (asked, failed) = self.thread.join().expect("it does not panic");
        println!("{asked} requests while the other node was switched, {} failed", failed.len());
        assert!(asked > 50 && failed.is_empty(), "of {asked} failed {failed:?}");
    }
}

fn flannel_pods(lab: &mut Lab, flannel: &Flannel, names: [&str; 2]) -> Vec<Pod> {
    let labels = [[("app", "web")], [("app", "client")]];
    let made = names.iter().zip(labels).zip([10, 11]).map(|((name, labels), place)| {
        let pod = flannel.add_pod(lab, name, place, &labels).expect("a pod");
        Pod { name: pod.name, netns: pod.netns, address: pod.address }
    });
    made.collect()
}

fn fairway_pods(lab: &mut Lab, node: usize, names: [&str; 2]) -> Vec<Pod> {
    for (name, label) in names.iter().zip(["web", "client"]) {
        lab.add_pod(name, node, &[("app", label)]).expect("a pod");
    }
    names.map(|name| lab.pod(name).expect("a pod")).map(pod).into()
}

fn pod(pod: &lab::pod::Pod) -> Pod {
    Pod { name: pod.name().to_string(), netns: pod.netns().clone(), address: pod.address() }
}

/// What README has a person do, after the node was drained and Flannel and kube-proxy were kept from it.
fn switch(lab: &mut Lab, flannel: Flannel, node: usize) {
    flannel.remove().expect("no devices of Flannel");
    let cleanup = Cmd::new(lab.binaries().path("fairway")).arg("kube-proxy-cleanup").netns(lab.nodes[node].netns());
    let done = cleanup.ok().expect("kube-proxy's rules go").stdout;
    assert!(done.contains("table ip kube-proxy"), "{done}");
    lab.nodes[node].start().expect("Fairway starts");
}

/// As `kubectl drain`: pods are to end and get nothing new, then their objects go, and then they. Where the first step is
/// left out, a connection of the moment is reset.
fn drain(lab: &Lab, pods: &[Pod]) {
    let name = |pod: &Pod| format!("pod-{}", pod.name);
    for pod in pods {
        let object = std::fs::read_to_string(lab.objects().file(&name(pod))).expect("an object");
        lab.objects().apply(&name(pod), &manifests::terminating(&object)).expect("an object");
    }
    lab::wait::sleep_ms(500);
    for pod in pods {
        lab.objects().delete(&name(pod)).expect("an object");
    }
    // What follows the objects has time to, before the pods themselves go.
    lab::wait::sleep_ms(500);
    pods.iter().for_each(|pod| drop(pod.netns.ip("link delete eth0").expect("its interface goes")));
}

#[test]
fn nodes_are_switched_one_by_one_and_pods_and_services_are_reached_all_along() {
    let _one = lab::one_at_a_time();
    let control_args = ["--tunnel-port", &PORT.to_string()].map(str::to_string).to_vec();
    let options = Options { families: FAMILIES, control_args, ..Options::default() };
    let mut lab = Lab::wire(&options).expect("the lab is wired");
    let service = FAMILIES.service(20)[0];
    let object = manifests::service("web", &[service], ("app", "web"));
    lab.objects().apply("service-web", &object).expect("a service");

    let flannels = [0, 1].map(|node| Flannel::start(&lab, node).expect("a node of Flannel"));
    flannels[0].learn(&flannels[1]).and_then(|()| flannels[1].learn(&flannels[0])).expect("routes");
    let [one, two] = flannels;
    let old_1 = flannel_pods(&mut lab, &one, ["web-1", "alice"]);
    let old_2 = flannel_pods(&mut lab, &two, ["web-2", "bob"]);
    for flannel in [&one, &two] {
        flannel.serve(service, &[old_1[0].address, old_2[0].address]).expect("rules");
    }
    all_reach_all(&[&old_1[..], &old_2].concat(), service);

    let asking = Asking::start(&old_2[1].netns, service);
    two.serve(service, &[old_2[0].address]).expect("rules");
    drain(&lab, &old_1);
    switch(&mut lab, one, 0);
    let new_1 = fairway_pods(&mut lab, 0, ["web-3", "carol"]);
    lab::wait::sleep_ms(500);
    lab.nodes[0].wait_connected().expect("tables in force");
    two.serve(service, &[new_1[0].address, old_2[0].address]).expect("rules");
    all_reach_all(&[&new_1[..], &old_2].concat(), service);
    asking.expect_no_failure();

    let asking = Asking::start(&new_1[1].netns, service);
    drain(&lab, &old_2);
    switch(&mut lab, two, 1);
    let new_2 = fairway_pods(&mut lab, 1, ["web-4", "dave"]);
    lab.settle().expect("tables in force");
    all_reach_all(&[&new_1[..], &new_2].concat(), service);
    asking.expect_no_failure();
}
