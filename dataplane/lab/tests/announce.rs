//! Addresses of load balancers out of a pool, announced on the link: a client there asks for them by ARP and neighbour
//! discovery, one node answers, and another one does when that node is gone, in both families.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use lab::addressing::host_part;
use lab::fabric::UPLINK;
use lab::fairway::Address;
use lab::netns::Netns;
use lab::shell::Cmd;
use lab::stage::answer_in;
use lab::{Families, Lab, Options, manifests, wait};

const FAMILIES: Families = Families::Dual;
const POOL: &str = "link=172.18.0.200-172.18.0.219,fd00:18::200-fd00:18::219";
/// Services with a backend on node 1, as many with one on node 2, and of policy Local one each.
const EACH: u8 = 6;
/// Within this another node has to have taken over, and requests succeed.
const FAILOVER_MAX: Duration = Duration::from_secs(3);
const START_LIMIT: Duration = Duration::from_secs(30);

fn start() -> Lab {
    let args = ["--load-balancer-pool", POOL, "--announce", "load-balancer"];
    let control_args = args.map(str::to_string).to_vec();
    let mut lab = Lab::start(&Options { families: FAMILIES, control_args, ..Options::default() }).expect("the lab");
    for (name, node) in [("web-1", 0), ("web-2", 1)] {
        lab.add_pod(name, node, &[("app", "web")]).expect("a pod");
    }
    for number in 0..2 * EACH {
        let backend = number % 2 + 1;
        expose(&lab, &format!("any-{backend}-{number}"), 20 + number, backend, "");
    }
    for backend in [1, 2] {
        expose(&lab, &format!("local-{backend}"), 50 + backend, backend, "  externalTrafficPolicy: Local\n");
    }
    lab.settle().expect("all is in force");
    lab
}

/// The pod web-BACKEND behind a load balancer that has no address of its own yet.
fn expose(lab: &Lab, name: &str, number: u8, backend: u8, more: &str) {
    let text = manifests::service(name, &FAMILIES.service(number), ("name", &format!("web-{backend}")));
    let text = text.replace("type: ClusterIP\n", "type: LoadBalancer\n") + more;
    lab.objects().apply(&format!("service-{name}"), &text).expect("an object");
}

fn addresses(lab: &Lab, node: usize) -> Vec<Address> {
    lab.nodes[node].fairway().addresses().expect("addresses")
}

/// Every address has an owner, and the nodes that `of` names agree on it.
fn agreed(lab: &Lab, of: &[usize]) -> Vec<Address> {
    let mut all = Vec::new();
    let agree = || {
        let views: Vec<_> = of.iter().map(|node| addresses(lab, *node)).collect();
        all.clone_from(&views[0]);
        let is_whole = all.len() == 2 * (2 * usize::from(EACH) + 2) && all.iter().all(|a| a.announced_by.is_some());
        is_whole && views.iter().all(|view| *view == all)
    };
    assert!(wait::until(START_LIMIT, agree), "no agreement: {all:?}");
    all
}

fn curl(from: &Netns, to: IpAddr) -> Result<String, String> {
    let url = format!("http://{}:80/", host_part(to));
    let command = Cmd::line("curl -sS --connect-timeout 0.3 --max-time 2").arg(url).netns(from);
    let ran = command.run().expect("curl runs");
    answer_in(&ran.stdout).map(|answer| answer.name).ok_or_else(|| ran.stderr.trim().to_string())
}

/// The Ethernet addresses that answer when somebody asks for this one.
fn answerers(client: &Netns, address: IpAddr) -> BTreeSet<String> {
    let filter = match address {
        IpAddr::V4(_) => format!("arp[6:2]=2 and arp src host {address}"),
        IpAddr::V6(_) => format!("icmp6 and ip6[40]=136 and src host {address}"),
    };
    let script = format!(
        "timeout 2 tcpdump -lnei {UPLINK} '{filter}' 2>/dev/null & sleep 0.7; \
         ip neigh flush dev {UPLINK} >/dev/null 2>&1; curl -s -o /dev/null --max-time 1 http://{}:80/; wait",
        host_part(address)
    );
    let ran = Cmd::new("bash").args(["-c", &script]).netns(client).run().expect("bash runs");
    ran.stdout.lines().filter_map(|line| Some(line.split_whitespace().nth(1)?.to_string())).collect()
}

fn mac(lab: &Lab, node: &str) -> String {
    let node = lab.nodes.iter().find(|n| n.name() == node).expect("a node");
    let shown = node.netns().ip(&format!("-o link show dev {}", node.uplink())).expect("a link").stdout;
    shown.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).expect("its address").to_string()
}

/// One address of each family that `owner` announces and whose backend is elsewhere.
fn pair(all: &[Address], owner: &str) -> [IpAddr; 2] {
    let backend = if owner.ends_with('1') { "any-2" } else { "any-1" };
    let fits = |a: &&Address| a.announced_by.as_deref() == Some(owner) && a.name.starts_with(backend);
    let of = |v4: bool| all.iter().filter(fits).find(|a| a.addr.is_ipv4() == v4).map(|a| a.addr);
    [true, false].map(|v4| of(v4).unwrap_or_else(|| panic!("{owner} has none of each family: {all:?}")))
}

/// How long after `begun` each is served again.
fn served(client: &Netns, pair: [IpAddr; 2], begun: Instant) -> [Duration; 2] {
    let wait = |address: IpAddr| {
        let mut last = String::new();
        while begun.elapsed() < 2 * FAILOVER_MAX {
            match curl(client, address) {
                Ok(_) => return begun.elapsed(),
                Err(why) => last = why,
            }
        }
        panic!("{address} is not served again: {last}");
    };
    std::thread::scope(|scope| {
        let both = pair.map(|address| scope.spawn(move || wait(address)));
        both.map(|thread| thread.join().expect("served again"))
    })
}

#[track_caller]
fn fails_over(what: &str, lab: &mut Lab, node: usize, kill: impl FnOnce(&mut lab::node::Node)) {
    let before = agreed(lab, &[0, 1]);
    let name = lab.nodes[node].name().to_string();
    let pair = pair(&before, &name);
    pair.iter().for_each(|address| assert!(curl(lab.client(), *address).is_ok(), "{address} before {what}"));
    let begun = Instant::now();
    kill(&mut lab.nodes[node]);
    let took = served(lab.client(), pair, begun);
    println!("{what}: IPv4 served after {:?}, IPv6 after {:?}", took[0], took[1]);
    assert!(took.iter().all(|took| *took <= FAILOVER_MAX), "{what}: {took:?}");
    let other = lab.nodes[1 - node].name().to_string();
    let taken = || agreed_but_local(lab, 1 - node).values().all(|owner| *owner == other);
    let limit = FAILOVER_MAX.saturating_sub(begun.elapsed());
    assert!(wait::until(limit, taken), "{:?}", agreed_but_local(lab, 1 - node));
    println!("{what}: all taken over after {:?}", begun.elapsed());
    for _ in 0..10 {
        pair.iter().for_each(|address| assert!(curl(lab.client(), *address).is_ok(), "{address} after {what}"));
    }
}

/// Owners of what every node may announce, as one node sees them.
fn agreed_but_local(lab: &Lab, node: usize) -> BTreeMap<IpAddr, String> {
    let any = addresses(lab, node).into_iter().filter(|a| a.name.starts_with("any"));
    any.filter_map(|a| Some((a.addr, a.announced_by?))).collect()
}

/// It takes back what was its own, once, and nothing else moves.
fn comes_back(lab: &mut Lab, node: usize, before: &[Address]) {
    lab.nodes[node].wait_connected().expect("it is back");
    let pair = pair(before, lab.nodes[node].name());
    let mut owners: Vec<Option<String>> = Vec::new();
    let (mut asked, mut failed) = (0, 0);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(12) && addresses(lab, 0) != before {
        for address in pair {
            asked += 1;
            failed += usize::from(curl(lab.client(), address).is_err());
            let now = addresses(lab, 1 - node).into_iter().find(|a| a.addr == address).and_then(|a| a.announced_by);
            if address.is_ipv4() && owners.last() != Some(&now) {
                owners.push(now);
            }
        }
    }
    println!("back after {:?}: {failed} of {asked} requests failed meanwhile; owners {owners:?}", begun.elapsed());
    assert_eq!(agreed(lab, &[0, 1]), before);
    assert!(owners.len() <= 2, "it moved more than once: {owners:?}");
    assert!(failed * 10 <= asked, "{failed} of {asked} requests failed while it came back");
}

#[test]
fn one_node_answers_for_each_address_and_another_one_when_it_is_gone() {
    let _one = lab::one_at_a_time();
    let mut lab = start();
    let all = agreed(&lab, &[0, 1]);
    all_are_given_and_written(&lab, &all);
    all_are_answered(&lab, &all);

    fails_over("dataplane killed", &mut lab, 0, |node| node.kill_dataplane().expect("it runs"));
    lab.nodes[0].start_dataplane().expect("a dataplane");
    comes_back(&mut lab, 0, &all);

    fails_over("control and dataplane killed", &mut lab, 1, |node| {
        node.kill_control().expect("it runs");
        node.kill_dataplane().expect("it runs");
    });
    lab.nodes[1].start().expect("a node");
    comes_back(&mut lab, 1, &all);

    fails_over("control killed", &mut lab, 0, |node| node.kill_control().expect("it runs"));
    lab.nodes[0].start_control().expect("control");
    comes_back(&mut lab, 0, &all);

    fails_over("stopped", &mut lab, 1, |node| node.stop().expect("it ends"));
    nothing_is_left(&lab, 1);
}

/// Every service has an address of each family out of the pool, and the objects' directory says so.
fn all_are_given_and_written(lab: &Lab, all: &[Address]) {
    let distinct: BTreeSet<IpAddr> = all.iter().map(|a| a.addr).collect();
    assert_eq!(distinct.len(), all.len(), "{all:?}");
    assert!(all.iter().all(|a| a.pool.as_deref() == Some("link")), "{all:?}");
    for a in all {
        let path = lab.objects().directory().join(format!("status/{}.{}.json", a.namespace, a.name));
        let says = || std::fs::read_to_string(&path).is_ok_and(|text| text.contains(&format!("\"{}\"", a.addr)));
        assert!(wait::until(START_LIMIT, says), "{} does not say {}", path.display(), a.addr);
    }
    for node in &lab.nodes {
        let problems = node.fairway().status().expect("status").problems;
        assert!(problems.is_empty(), "{problems:?}");
    }
}

fn all_are_answered(lab: &Lab, all: &[Address]) {
    let mut counts = BTreeMap::<&str, usize>::new();
    for a in all {
        let owner = a.announced_by.as_deref().expect("an owner");
        *counts.entry(owner).or_default() += 1;
        let pod = a.name.split('-').nth(1).expect("a backend");
        assert_eq!(curl(lab.client(), a.addr), Ok(format!("web-{pod}")), "{a:?}");
        if a.name.starts_with("local") {
            assert_eq!(owner, format!("node-{pod}"), "only the node of its endpoint competes");
        }
    }
    println!("addresses by node: {counts:?}");
    for name in ["any-1-0", "any-2-1", "local-1"] {
        for a in all.iter().filter(|a| a.name == name) {
            let owner = mac(lab, a.announced_by.as_deref().expect("an owner"));
            assert_eq!(answerers(lab.client(), a.addr), [owner].into(), "{a:?}");
        }
    }
}

fn nothing_is_left(lab: &Lab, node: usize) {
    let netns = lab.nodes[node].netns();
    let joined = netns.ip("maddress show").expect("groups").stdout;
    assert!(!joined.contains("224.0.0.254") && !joined.contains("ff02::114"), "{joined}");
    let sockets = Cmd::line("ss -Hanu0").netns(netns).ok().expect("ss").stdout;
    assert!(!sockets.contains("9912") && !sockets.contains("p_raw"), "{sockets}");
    let routes = netns.ip("route").expect("routes").stdout;
    assert!(!routes.contains("172.18.0.2"), "{routes}");
}

#[test]
fn wishes_classes_and_a_full_pool_are_said() {
    let _one = lab::one_at_a_time();
    let args = ["--load-balancer-pool", "tiny=172.18.0.200-172.18.0.201"];
    let control_args = args.map(str::to_string).to_vec();
    let lab = Lab::start(&Options { families: Families::Ipv4, control_args, ..Options::default() }).expect("the lab");
    let put = |name: &str, number: u8, more: &str| {
        let text = manifests::service(name, &Families::Ipv4.service(number), ("app", "web"));
        let text = text.replace("type: ClusterIP\n", "type: LoadBalancer\n") + more;
        lab.objects().apply(&format!("service-{name}"), &text).expect("an object");
    };
    let given = || -> BTreeMap<String, String> {
        addresses(&lab, 0).into_iter().map(|a| (a.name, a.addr.to_string())).collect()
    };
    let problems = || lab.nodes[0].fairway().status().expect("status").problems.join("\n");
    put("second", 31, "  loadBalancerIP: 172.18.0.201\n");
    put("other", 32, "  loadBalancerClass: example.com/other\n");
    put("third", 33, "");
    let two = BTreeMap::from([("second", "172.18.0.201"), ("third", "172.18.0.200")]);
    let two: BTreeMap<String, String> = two.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
    assert!(wait::until(START_LIMIT, || given() == two), "{:?}", given());
    // By name it would come first: what the others have stays theirs.
    put("first", 34, "");
    put("greedy", 35, "  loadBalancerIP: 172.18.0.201\n");
    put("lost", 36, "  loadBalancerIP: 203.0.113.1\n");
    let told = ["first gets no IPv4 address", "greedy asks for 172.18.0.201", "lost asks for 203.0.113.1"];
    let all_told = || told.iter().all(|text| problems().contains(text));
    assert!(wait::until(START_LIMIT, all_told), "{}", problems());
    assert_eq!(given(), two);
    lab.objects().delete("service-second").expect("an object");
    let moved = || given().get("greedy").is_some_and(|addr| addr == "172.18.0.201");
    assert!(wait::until(START_LIMIT, moved), "{:?}", given());
    let gone = lab.objects().directory().join("status/demo.second.json");
    assert!(wait::until(START_LIMIT, || !gone.exists()), "its status stays");
}
