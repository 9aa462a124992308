//! What kube-proxy leaves goes, in the shapes that its documentation and its own tests have, and what others have put
//! beside it is afterwards what it was, byte for byte. Nothing of Fairway runs.
//!
//! Of the mode ipvs virtual services are there only where the kernel has IPVS, as in the VM of `make vm-test`.

use lab::netns::Netns;
use lab::shell::Cmd;
use lab::{Lab, Options};

/// As iptables-restore takes them: others' chains, among them the kubelet's and those of plugins with names alike.
const OTHERS: &str = include_str!("kube_proxy/others.rules");
/// The mode iptables.
const IPTABLES: &str = include_str!("kube_proxy/iptables.rules");
/// The mode ipvs.
const IPVS: &str = include_str!("kube_proxy/ipvs.rules");
/// What `nft -f` takes: a foreign table, and those of the mode nftables.
const FOREIGN_TABLE: &str = "table inet mine {
  set kube-proxy {
    type ipv4_addr
    elements = { 192.0.2.1 }
  }
  chain kube-proxy {
    type filter hook input priority 10; policy accept;
    ip saddr @kube-proxy counter accept
  }
}
table ip kube-proxy-not {
  chain services {
  }
}
";
const NFTABLES: &str = "table FAMILY kube-proxy {
  comment \"rules for kube-proxy\"
  map service-ips {
    type FAMILY_addr . inet_proto . inet_service : verdict
    elements = { VIRTUAL . tcp . 80 : goto service-ULMVA6XW-ns1/svc1/tcp/p80 }
  }
  chain filter-prerouting {
    type filter hook prerouting priority -110;
    ct state new jump firewall-check
  }
  chain firewall-check {
  }
  chain nat-prerouting {
    type nat hook prerouting priority -100;
    jump services
  }
  chain services {
    FAMILY daddr . meta l4proto . th dport vmap @service-ips
  }
  chain service-ULMVA6XW-ns1/svc1/tcp/p80 {
    meta l4proto tcp dnat to BACKEND
  }
}
";
const SETS: &str = "create KUBE-CLUSTER-IP hash:ip,port family inet
add KUBE-CLUSTER-IP 10.96.0.1,tcp:443
create KUBE-LOOP-BACK hash:ip,port,ip family inet
create KUBE-6-CLUSTER-IP hash:ip,port family inet6
create KUBE-NODE-PORT-TCP bitmap:port range 0-65535
add KUBE-NODE-PORT-TCP 30080
";
const FOREIGN_SETS: &str = "create KUBE-DST-VBH27M7NWLDOZIE hash:ip family inet
create mine hash:ip family inet
add mine 192.0.2.1
";
const SERVICES: &str = "-A -t 10.96.0.1:443 -s rr
-a -t 10.96.0.1:443 -r 172.18.0.2:6443 -m -w 1
-A -t 172.18.0.11:30080 -s rr
-A -t [fd00:96::1]:443 -s rr
";
const FOREIGN_SERVICES: &str = "-A -t 192.0.2.9:80 -s wlc
-a -t 192.0.2.9:80 -r 192.0.2.10:80 -g -w 1
-A -u 172.18.0.11:30080 -s rr
-A -f 7 -s rr
";
const TOOLS: [&str; 4] = ["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"];

/// Written for IPv4.
fn of_family(rules: &str, is_v4: bool) -> String {
    let replaced = [
        ("FAMILY_addr", "ipv4_addr", "ipv6_addr"),
        ("FAMILY", "ip", "ip6"),
        ("VIRTUAL", "10.96.0.41", "fd00:96::41"),
        ("PODS", "10.244.0.0/16", "fd00:10::/32"),
        ("BACKEND", "10.244.1.4:8080", "[fd00:10::4]:8080"),
        ("POD", "10.244.1.4", "fd00:10::4"),
        ("OUTSIDE", "192.0.2.7", "2001:db8::7"),
        ("LOOPBACK", "127.0.0.0/8", "::1/128"),
        ("SETS", "KUBE", "KUBE-6"),
    ];
    replaced.iter().fold(rules.to_owned(), |text, (name, v4, v6)| text.replace(name, if is_v4 { v4 } else { v6 }))
}

fn feed(netns: &Netns, command: &str, input: &str) {
    Cmd::line(command).netns(netns).stdin(input).ok().unwrap_or_else(|error| panic!("{error:#}\n{input}"));
}

fn restore(netns: &Netns, rules: &str) {
    for tool in TOOLS {
        feed(netns, &format!("{tool}-restore --noflush"), &of_family(rules, tool.starts_with("iptables")));
    }
}

/// All that any of these tools shows, without the times at which it did.
fn snapshot(netns: &Netns) -> String {
    let ipvs = has_ipvs(netns).then(|| "ipvsadm --save --numeric".to_owned());
    let saves = TOOLS.iter().map(|tool| format!("{tool}-save --counters"));
    let others =
        ["nft list table inet mine", "nft list table ip kube-proxy-not", "nft list tables", "ipset save", "ip -o link"];
    let mut all = String::new();
    for command in saves.chain(others.map(str::to_owned)).chain(ipvs) {
        let said = Cmd::line(&command).netns(netns).ok().expect("it answers").stdout;
        all += &format!("== {command}\n");
        said.lines().filter(|line| !line.starts_with('#')).for_each(|line| all += &format!("{line}\n"));
    }
    all
}

#[track_caller]
fn expect_same(before: &str, after: &str) {
    let differ = |one: &str, other: &str| -> Vec<String> {
        one.lines().filter(|line| !other.lines().any(|there| there == *line)).map(str::to_owned).collect()
    };
    let (gone, new) = (differ(before, after), differ(after, before));
    assert!(before == after, "gone: {gone:#?}, new: {new:#?}");
}

fn has_ipvs(netns: &Netns) -> bool {
    Cmd::line("ipvsadm --save --numeric").netns(netns).run().is_ok_and(|ran| ran.succeeded())
}

fn cleanup(lab: &Lab, netns: &Netns, more: &str) -> String {
    let command = Cmd::new(lab.binaries().path("fairway")).arg("kube-proxy-cleanup").netns(netns);
    command.args(more.split_whitespace()).ok().expect("it ends well").stdout
}

fn goes(name: &str, leave: fn(&Netns)) {
    let _one = lab::one_at_a_time();
    let lab = Lab::wire(&Options::default()).expect("the lab is wired");
    let netns = Netns::create(&format!("{}{name}", lab.guard().prefix())).expect("a namespace");
    feed(&netns, "ipset restore", FOREIGN_SETS);
    feed(&netns, "nft -f -", FOREIGN_TABLE);
    restore(&netns, OTHERS);
    if has_ipvs(&netns) {
        feed(&netns, "ipvsadm --restore", FOREIGN_SERVICES);
    }
    let before = snapshot(&netns);
    assert_eq!(cleanup(&lab, &netns, ""), "", "there is nothing of kube-proxy's");
    expect_same(&before, &snapshot(&netns));

    leave(&netns);
    let full = snapshot(&netns);
    assert_ne!(full, before);
    let printed = cleanup(&lab, &netns, "--dry-run");
    expect_same(&full, &snapshot(&netns));
    let done = cleanup(&lab, &netns, "");
    println!("{done}");
    expect_same(&before, &snapshot(&netns));
    assert_eq!(cleanup(&lab, &netns, ""), "");

    // What was printed does the same.
    leave(&netns);
    assert_ne!(snapshot(&netns), before);
    feed(&netns, "sh -e", &printed);
    expect_same(&before, &snapshot(&netns));
}

#[test]
fn the_rules_of_the_mode_iptables_go_and_no_others() {
    goes("iptables", |netns| restore(netns, IPTABLES));
}

#[test]
fn the_tables_of_the_mode_nftables_go_and_no_others() {
    goes("nftables", |netns| {
        [true, false].iter().for_each(|&is_v4| feed(netns, "nft -f -", &of_family(NFTABLES, is_v4)));
    });
}

#[test]
fn the_chains_sets_and_device_of_the_mode_ipvs_go_and_no_others() {
    goes("ipvs", |netns| {
        feed(netns, "ipset restore", SETS);
        restore(netns, IPVS);
        // Its type is of no account, and not every kernel has this one.
        let dummy = netns.ip("link add kube-ipvs0 type dummy");
        dummy.or_else(|_| netns.ip("link add kube-ipvs0 type bridge")).expect("a device");
        for address in ["10.96.0.1/32", "fd00:96::1/128"] {
            netns.ip(&format!("address add {address} dev kube-ipvs0")).expect("an address");
        }
        if has_ipvs(netns) {
            println!("with virtual services");
            feed(netns, "ipvsadm --restore", SERVICES);
        }
    });
}
