//! kube-proxy's sets in what `ipset list` prints. It must not run anything.

/// Of the mode ipvs, for IPv4; those of IPv6 begin with `KUBE-6-`.
const SETS: [&str; 17] = [
    "LOOP-BACK",
    "CLUSTER-IP",
    "LOAD-BALANCER",
    "LOAD-BALANCER-FW",
    "LOAD-BALANCER-LOCAL",
    "LOAD-BALANCER-SOURCE-CIDR",
    "LOAD-BALANCER-SOURCE-IP",
    "EXTERNAL-IP",
    "EXTERNAL-IP-LOCAL",
    "NODE-PORT-TCP",
    "NODE-PORT-LOCAL-TCP",
    "NODE-PORT-UDP",
    "NODE-PORT-LOCAL-UDP",
    "NODE-PORT-SCTP-HASH",
    "NODE-PORT-LOCAL-SCTP-HASH",
    "HEALTH-CHECK-NODE-PORT",
    "IPVS-IPS",
];

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    pub name: String,
    pub members: Vec<String>,
}

pub fn read(listed: &str) -> Vec<Set> {
    let all = listed.split("Name: ").skip(1).filter_map(|text| {
        let (name, rest) = text.split_once('\n')?;
        let members = rest.split_once("Members:\n").map_or("", |(_, members)| members);
        let members = members.lines().map(|line| line.split(' ').next().unwrap_or_default().to_owned());
        Some(Set { name: name.to_owned(), members: members.filter(|member| !member.is_empty()).collect() })
    });
    all.filter(|set| is_ours(&set.name)).collect()
}

fn is_ours(name: &str) -> bool {
    let name = name.strip_prefix("KUBE-6-").or_else(|| name.strip_prefix("KUBE-"));
    name.is_some_and(|name| SETS.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_sets_are_read_with_their_members() {
        let listed = "\
Name: KUBE-NODE-PORT-TCP
Type: bitmap:port
Members:
30080
30081 comment \"x\"

Name: KUBE-6-CLUSTER-IP
Type: hash:ip,port
Members:

Name: KUBE-DST-VBH27M7NWLDOZIE
Members:
10.0.0.1
";
        let sets = read(listed);
        let names: Vec<&str> = sets.iter().map(|set| set.name.as_str()).collect();
        assert_eq!(names, ["KUBE-NODE-PORT-TCP", "KUBE-6-CLUSTER-IP"]);
        assert_eq!(sets[0].members, ["30080", "30081"]);
        assert!(sets[1].members.is_empty());
    }
}
