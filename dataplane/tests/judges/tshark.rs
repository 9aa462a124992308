//! tshark as a judge of captures: what it takes each packet for, and what it finds wrong with it.

use std::path::Path;
use std::process::Command;

/// Of one packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Its protocols from the outside in, joined by colons: `eth:ip:udp:vxlan:eth:ip:tcp:data`.
    pub stack: String,
    pub complaints: Vec<String>,
}

/// Checksums are looked at in every layer, also those inside tunnels.
const SETTINGS: [&str; 6] = [
    "ip.check_checksum:TRUE",
    "tcp.check_checksum:TRUE",
    "udp.check_checksum:TRUE",
    // RFC 6935: tunnels may leave it out over IPv6.
    "udp.ignore_ipv6_zero_checksum:TRUE",
    "sctp.checksum:CRC-32c",
    // The same connection may be seen in several tunnels.
    "tcp.analyze_sequence_numbers:FALSE",
];
/// Fields with a status: 0 is bad, 1 good, 2 unknown, 3 not there.
const STATUS: [&str; 6] = ["ip", "tcp", "udp", "icmp", "icmpv6", "sctp"];
const BAD: &str = "0";
/// Severity of tshark's own remarks: errors.
const ERROR: &str = "8388608";

pub fn judge(capture: &Path) -> Vec<Verdict> {
    let mut command = Command::new("tshark");
    command
        .args(["-n", "-T", "fields", "-E", "separator=|", "-E", "occurrence=a", "-E", "aggregator=,", "-r"])
        .arg(capture);
    let fields = ["frame.protocols", "_ws.malformed", "_ws.expert.severity"].map(str::to_owned);
    let status = STATUS.map(|protocol| format!("{protocol}.checksum.status"));
    // Would guess a protocol from any bytes.
    command.args(["--disable-protocol", "hcrt"]);
    command.args(SETTINGS.iter().flat_map(|setting| ["-o", setting]));
    command.args(fields.iter().chain(&status).flat_map(|field| ["-e", field]));
    let output = command.output().unwrap_or_else(|error| panic!("tshark: {error} (`make judges` installs it)"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(verdict).collect()
}

fn verdict(line: &str) -> Verdict {
    let fields: Vec<&str> = line.split('|').collect();
    let [stack, malformed, severity, status @ ..] = &fields[..] else { panic!("{line}") };
    let mut complaints = Vec::new();
    if !malformed.is_empty() {
        complaints.push("malformed".to_owned());
    }
    if severity.split(',').any(|severity| severity == ERROR) {
        complaints.push("an error".to_owned());
    }
    for (protocol, status) in STATUS.iter().zip(status) {
        if status.split(',').any(|status| status == BAD) {
            complaints.push(format!("{protocol} checksum"));
        }
    }
    let stack: Vec<&str> = stack.split(':').filter(|layer| *layer != "ethertype").collect();
    Verdict { stack: stack.join(":"), complaints }
}
