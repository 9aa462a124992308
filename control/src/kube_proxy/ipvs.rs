//! kube-proxy's virtual services in what `ipvsadm --save` prints: those of addresses on its own device, and those of ports
//! that are in its sets of node ports. It must not run anything.

use super::Step;
use super::ipsets::Set;
use std::net::{IpAddr, SocketAddr};

/// Holds all addresses of services.
pub const DEVICE: &str = "kube-ipvs0";

/// `addresses`: as `ip -o address show` prints those of the device.
pub fn steps(saved: &str, addresses: &str, sets: &[Set]) -> Vec<Step> {
    let bound: Vec<IpAddr> = addresses.lines().filter_map(bound).collect();
    let ours = saved.lines().filter_map(service).filter(|(protocol, at)| {
        bound.contains(&at.ip()) || sets.iter().any(|set| is_node_port(set, protocol, at.port()))
    });
    ours.map(|(option, at)| {
        Step::new(format!("IPVS service {at}"), &format!("ipvsadm -D {option} {at}"), String::new())
    })
    .collect()
}

/// `9: kube-ipvs0    inet 10.96.0.1/32 scope global kube-ipvs0 ...`
fn bound(line: &str) -> Option<IpAddr> {
    let words: Vec<&str> = line.split_whitespace().collect();
    words.get(3)?.split('/').next()?.parse().ok()
}

/// `-A -t 10.96.0.1:443 -s rr`
fn service(line: &str) -> Option<(&str, SocketAddr)> {
    let mut words = line.strip_prefix("-A ")?.split(' ');
    Some((words.next()?, words.next()?.parse().ok()?))
}

/// Members are ports, of SCTP `ADDRESS,sctp:PORT`.
fn is_node_port(set: &Set, option: &str, port: u16) -> bool {
    let kind = match option {
        "-t" => "TCP",
        "-u" => "UDP",
        _ => "SCTP-HASH",
    };
    let is_of_kind = set.name.contains("-NODE-PORT-") && set.name.ends_with(kind) && !set.name.contains("HEALTH");
    is_of_kind && set.members.iter().any(|member| member.rsplit(':').next() == Some(&port.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_of_others_stay() {
        let saved = "\
-A -t 10.96.0.1:443 -s rr
-a -t 10.96.0.1:443 -r 172.18.0.2:6443 -m -w 1
-A -t [fd00:96::1]:443 -s rr
-A -u 192.168.0.1:30053 -s rr
-A -t 192.168.0.1:30053 -s rr
-A -t 192.168.0.9:80 -s wlc
-A -f 7 -s wlc
";
        let addresses = "\
9: kube-ipvs0    inet 10.96.0.1/32 scope global kube-ipvs0\\       valid_lft forever preferred_lft forever
9: kube-ipvs0    inet6 fd00:96::1/128 scope global \\       valid_lft forever preferred_lft forever
";
        let set = |name: &str, members: &[&str]| Set {
            name: name.to_owned(),
            members: members.iter().map(|member| member.to_string()).collect(),
        };
        let sets = [set("KUBE-NODE-PORT-UDP", &["30053"]), set("KUBE-HEALTH-CHECK-NODE-PORT", &["80"])];
        let typed: Vec<String> = steps(saved, addresses, &sets).iter().map(Step::typed).collect();
        let wanted = ["-t 10.96.0.1:443", "-t [fd00:96::1]:443", "-u 192.168.0.1:30053"];
        assert_eq!(typed, wanted.map(|service| format!("ipvsadm -D {service}")));
    }
}
