//! Section 9: bonds as uplinks, on NICs where some are given: everything passes, both members carry what they should, and
//! when one fails, and when it returns and the other fails, connections go on. Few kernels have bonds, so that it is only
//! played when it is asked for.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::addressing::{Families, host_part};
use crate::agent::converse::Conversation;
use crate::agent::serve::ECHO_PORT;
use crate::bond;
use crate::exchange::{self, End, Road};
use crate::lab::{Lab, Nics, Options};
use crate::process::Process;
use crate::report::{Measured, Report};
use crate::sections::BONDS;
use crate::shell::Cmd;
use crate::transcript::Transcript;
use crate::wait;

/// Both members of NICs with two queues, and what the workers hold besides.
const FRAMES: &str = "65536";
/// The kernel looks every 50 ms, and on an emulated machine control and the dataplane take their time to hear of it.
const FAILOVER_MS_MAX: f64 = 1500.0;
const SWITCHED: Duration = Duration::from_secs(10);
const PARTED: Duration = Duration::from_secs(20);

struct Kind {
    mode: &'static str,
    vlan: u16,
    /// Which of the pods' addresses talk at length: 0 for IPv4, 1 for IPv6.
    family: usize,
}

const ON_NICS: [Kind; 2] =
    [Kind { mode: "active-backup", vlan: 0, family: 0 }, Kind { mode: "balance-xor", vlan: 5, family: 1 }];
/// Emulated cables eat what LACP sends.
const ON_VETH: [Kind; 1] = [Kind { mode: "802.3ad", vlan: 0, family: 0 }];

pub fn play(nics: &[Nics], show: &Transcript) -> Report {
    let mut report = Report::new(BONDS.1);
    show.heading(BONDS.1);
    let kinds: &[Kind] = if nics.is_empty() { &ON_VETH } else { &ON_NICS };
    for kind in kinds {
        if let Err(error) = kind.play(nics, show, &mut report) {
            report.stopped_by(&error.context(kind.name()));
        }
    }
    show.report(&report);
    report
}

impl Kind {
    fn name(&self) -> String {
        if self.vlan == 0 { self.mode.to_string() } else { format!("{}, VLAN {} on it", self.mode, self.vlan) }
    }

    fn play(&self, nics: &[Nics], show: &Transcript, report: &mut Report) -> Result<()> {
        show.progress(&format!("a lab whose uplinks are bonds: {} ...", self.name()));
        let options = Options {
            families: Families::Dual,
            bond: Some(self.mode),
            uplink_vlan: self.vlan,
            nics: nics.to_vec(),
            dataplane_args: ["--frames", FRAMES].map(str::to_string).to_vec(),
            ..Options::default()
        };
        let mut lab = Lab::start(&options)?;
        for (name, node) in [("alice", 0), ("bob", 1)] {
            lab.add_pod(name, node, &[])?;
        }
        lab.settle()?;
        self.tell_status(&lab, show, report)?;
        self.talk(&lab, nics, report)?;
        self.fail_over(&lab, nics, report)?;
        self.leave(&mut lab, report)
    }

    fn tell_status(&self, lab: &Lab, show: &Transcript, report: &mut Report) -> Result<()> {
        let status = lab.nodes[0].fairway().status()?;
        let mode = if lab.has_nics() { "zero-copy" } else { "copy" };
        report.equal(format!("{}: AF_XDP", self.name()), status.uplink.mode.as_deref().unwrap_or("-"), mode);
        show.answer(&status.uplink.bond.unwrap_or_default());
        Ok(())
    }

    fn talk(&self, lab: &Lab, nics: &[Nics], report: &mut Report) -> Result<()> {
        let (alice, bob, node) = (lab.pod("alice")?, lab.pod("bob")?, lab.nodes[0].netns());
        let _one = exchange::bulk_server(alice.netns(), lab.directory())?;
        let _other = exchange::bulk_server(bob.netns(), lab.directory())?;
        let members = bond::members(node)?;
        let ends: Vec<String> = members.iter().map(|member| self.port_of(lab, nics, member)).collect();
        let before = received(lab, &ends)?;
        let [near, far] = [alice, bob].map(|pod| {
            let address = pod.addresses()[self.family];
            End { name: pod.name(), netns: pod.netns(), address }
        });
        let road = Road { mtu: 1450, megabits_per_second: 0 };
        let told = exchange::meet(near, far).and_then(|()| exchange::everything(lab.binaries(), near, far, road));
        let (told, good) = told.map_or_else(|error| (format!("{error:#}"), false), |told| (told, true));
        report.check(format!("{}: everything passes", self.name()), Measured::Text(told), good, "no error");
        let ping = Cmd::line("ping -q -c 3 -i 0.05 -W 2").arg(lab.families().client()[0]).netns(alice.netns()).run()?;
        let answers = if ping.stdout.contains(" 3 received") { "3" } else { ping.stdout.trim() };
        report.equal(format!("{}: masqueraded, answers", self.name()), answers, "3");
        let sent: Vec<u64> = received(lab, &ends)?.iter().zip(before).map(|(now, before)| now - before).collect();
        let good = if self.mode == "active-backup" { sent[1] < 20 } else { sent.iter().all(|sent| *sent > 20) };
        let told = format!("{} {}, {} {}", members[0], sent[0], members[1], sent[1]);
        report.check(format!("{}: frames sent by", self.name()), Measured::Text(told), good, "as the mode says");
        Ok(())
    }

    /// First the one that sends, then, with it back, the other.
    fn fail_over(&self, lab: &Lab, nics: &[Nics], report: &mut Report) -> Result<()> {
        let members = bond::members(lab.nodes[0].netns())?;
        let talk = self.converse(lab)?;
        wait::sleep_ms(500);
        for (failing, going_on) in [(0, 1), (1, 0)] {
            self.set(lab, nics, &members[failing], "down")?;
            self.wait_until_it_sends_by(lab, &members[going_on])?;
            wait::sleep_ms(1500);
            self.set(lab, nics, &members[failing], "up")?;
            if self.mode != "active-backup" {
                self.wait_until_it_sends_by(lab, &members[failing])?;
            }
            wait::sleep_ms(1000);
        }
        let told: Conversation = serde_json::from_str(&talk.finish(PARTED)?)?;
        let gap = told.exchanges.iter().map(|exchange| exchange.echoed_us - exchange.sent_us).max().unwrap_or(u64::MAX);
        report.within_ms(
            format!("{}: members fail, longest wait for an echo", self.name()),
            gap as f64 / 1e3,
            FAILOVER_MS_MAX,
        );
        report.equal(format!("{}: the connection broke", self.name()), told.broken.as_deref().unwrap_or("no"), "no");
        Ok(())
    }

    fn converse(&self, lab: &Lab) -> Result<Process> {
        let (alice, bob) = (lab.pod("alice")?, lab.pod("bob")?);
        let to = format!("{}:{ECHO_PORT}", host_part(bob.addresses()[1 - self.family]));
        let command = Cmd::new(lab.binaries().agent()).args(["converse", "--pause-ms", "10", "--to", &to]);
        Process::spawn("converse", &command.netns(alice.netns()), lab.directory())
    }

    /// The other end of a member of the first node's.
    fn port_of(&self, lab: &Lab, nics: &[Nics], member: &str) -> String {
        let nic = nics.iter().find(|nics| nics.uplink == member);
        nic.map_or_else(|| bond::port(lab.nodes[0].name(), member), |nics| nics.port.clone())
    }

    /// The other end of a veth pair takes the link away. An emulated cable has its links whatever its ends do: both are put
    /// down, as by who pulls it out.
    fn set(&self, lab: &Lab, nics: &[Nics], member: &str, state: &str) -> Result<()> {
        lab.fabric().netns().ip(&format!("link set {} {state}", self.port_of(lab, nics, member)))?;
        if lab.has_nics() {
            lab.nodes[0].netns().ip(&format!("link set {member} {state}"))?;
        }
        Ok(())
    }

    fn wait_until_it_sends_by(&self, lab: &Lab, member: &str) -> Result<()> {
        let fairway = lab.nodes[0].fairway();
        let line = || fairway.status().ok().and_then(|status| status.uplink.bond).unwrap_or_default();
        let sends = |line: &str| {
            let sending = line.split(" sends by ").nth(1).and_then(|rest| rest.split(';').next()).unwrap_or("");
            sending.split(", ").any(|name| name == member)
        };
        ensure!(wait::until(SWITCHED, || sends(&line())), "{member} does not send: {}", line());
        Ok(())
    }

    /// The members are as they were before.
    fn leave(&self, lab: &mut Lab, report: &mut Report) -> Result<()> {
        lab.nodes[0].stop()?;
        let told = lab.nodes[0].netns().ip("-d link show")?.stdout;
        let left = told.lines().find(|line| line.contains("prog/xdp")).unwrap_or("nothing");
        report.equal(format!("{}: left on its members at exit", self.name()), left.trim(), "nothing");
        Ok(())
    }
}

fn received(lab: &Lab, ends: &[String]) -> Result<Vec<u64>> {
    ends.iter().map(|end| bond::received(lab.fabric().netns(), end)).collect()
}
