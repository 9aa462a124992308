//! Section 10: what `fairway doctor nic` says of real NICs on which something was made wrong. Each fault is found, its
//! command is named, `--apply` runs that, and its end undoes it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::binaries::Binaries;
use crate::guard::Guard;
use crate::lab::Nics;
use crate::netns::Netns;
use crate::process::Process;
use crate::report::{Measured, Report};
use crate::sections::DOCTOR;
use crate::shell::Cmd;
use crate::transcript::Transcript;
use crate::wait;

const LIMIT: Duration = Duration::from_secs(20);
/// Links of emulated NICs come up after a while.
const LINK_LIMIT: Duration = Duration::from_secs(15);

/// What is made wrong, `{0}` and `{1}` being NICs, and what is said of it.
struct Fault {
    what: &'static str,
    make: &'static [&'static str],
    /// The device to be looked at.
    device: &'static str,
    says: &'static str,
    command: &'static str,
    /// Whether the command is run by `--apply`.
    applied: bool,
    unmake: &'static [&'static str],
}

const FAULTS: [Fault; 7] = [
    Fault {
        what: "it is down",
        make: &["ip link set {0} down"],
        device: "{0}",
        says: "{0} is down",
        command: "ip link set {0} up",
        applied: true,
        unmake: &["ip link set {0} up"],
    },
    Fault {
        what: "an MTU that is too small",
        make: &["ip link set {0} mtu 1300"],
        device: "{0}",
        says: "{0} has an MTU of 1300",
        command: "ip link set {0} mtu 1500",
        applied: true,
        unmake: &["ip link set {0} mtu 1500"],
    },
    Fault {
        what: "fewer queues than workers",
        make: &["ethtool -L {0} combined 1"],
        device: "{0}",
        says: "{0} has 1 queues in use for 2 workers",
        command: "ethtool -L {0} combined 2",
        applied: true,
        unmake: &["ethtool -L {0} combined 2"],
    },
    Fault {
        what: "UDP is spread by addresses alone",
        make: &["ethtool -N {0} rx-flow-hash udp4 sd"],
        device: "{0}",
        says: "{0} spreads udp4 by outer addresses alone",
        command: "ethtool -N {0} rx-flow-hash udp4 sdfn",
        applied: true,
        unmake: &[],
    },
    Fault {
        what: "a bond that does not look at its links",
        make: &[
            "ip link add bond0 type bond mode active-backup miimon 0",
            "ip link set {0} down",
            "ip link set {0} master bond0",
            "ip link set {1} down",
            "ip link set {1} master bond0",
            "ip link set bond0 up",
        ],
        device: "bond0",
        says: "bond0 never looks at its links",
        command: "ip link set bond0 type bond miimon 100",
        applied: true,
        unmake: &["ip link set bond0 type bond miimon 100"],
    },
    Fault {
        what: "members of a bond with other numbers of queues",
        make: &["ethtool -L {1} combined 1"],
        device: "bond0",
        says: "{0} has 2 queues, and another member of bond0 1",
        command: "ethtool -L {0} combined 1",
        applied: true,
        unmake: &["ethtool -L {1} combined 2"],
    },
    Fault {
        what: "a bond that sends each packet by all members",
        // The mode of one that is up, or that has members, stays.
        make: &[
            "ip link set {0} nomaster",
            "ip link set {1} nomaster",
            "ip link set bond0 down",
            "ip link set bond0 type bond mode broadcast",
        ],
        device: "bond0",
        says: "bond0 is a bond of mode broadcast",
        command: "mode active-backup miimon 100",
        applied: false,
        unmake: &["ip link del bond0"],
    },
];

/// Needs two NICs, which need not be joined.
pub fn play(nics: &[Nics], show: &Transcript) -> Report {
    let mut report = Report::new(DOCTOR.1);
    show.heading(DOCTOR.1);
    if let Err(error) = Clinic::open(nics).and_then(|clinic| clinic.play(show, &mut report)) {
        report.stopped_by(&error);
    }
    show.report(&report);
    report
}

struct Clinic {
    netns: Netns,
    nics: [String; 2],
    binaries: Binaries,
    // Last: it removes what the others were made of.
    guard: Guard,
}

impl Clinic {
    fn open(nics: &[Nics]) -> Result<Clinic> {
        let Nics { uplink, port } = nics.first().context("name two NICs by --nics")?.clone();
        let guard = Guard::claim(None)?;
        let netns = Netns::create(&format!("{}clinic", guard.prefix()))?;
        for nic in [&uplink, &port] {
            Cmd::line(&format!("ip link set {nic} netns {}", netns.name())).ok()?;
            netns.ip(&format!("link set {nic} up"))?;
        }
        Ok(Clinic { netns, nics: [uplink, port], binaries: Binaries::find()?, guard })
    }

    fn play(&self, show: &Transcript, report: &mut Report) -> Result<()> {
        for nic in &self.nics {
            let up = || self.netns.ip(&format!("link show {nic}")).is_ok_and(|ran| ran.stdout.contains("LOWER_UP"));
            ensure!(wait::until(LINK_LIMIT, up), "{nic} has no link");
        }
        show.ran(&self.doctor(&self.nics[0], false).run()?);
        for fault in &FAULTS {
            let told = self.try_fault(fault).with_context(|| fault.what)?;
            let (told, good) = told.map_or_else(|why| (why, false), |told| (told, true));
            report.check(fault.what, Measured::Text(told), good, "found, mended, undone");
        }
        Ok(())
    }

    fn named(&self, text: &str) -> String {
        text.replace("{0}", &self.nics[0]).replace("{1}", &self.nics[1])
    }

    fn does(&self, lines: &[&str]) -> Result<()> {
        lines.iter().try_for_each(|line| Cmd::line(&self.named(line)).netns(&self.netns).ok().map(|_| ()))
    }

    fn doctor(&self, device: &str, apply: bool) -> Cmd {
        let doctor = Cmd::new(self.binaries.path("fairway")).netns(&self.netns);
        doctor.args(["doctor", "nic", device, "--cpus", "0,1"]).args(apply.then_some("--apply"))
    }

    /// The command that it named, or what is not as it should be.
    fn try_fault(&self, fault: &Fault) -> Result<std::result::Result<String, String>> {
        self.does(fault.make)?;
        let outcome = self.judge(fault)?;
        self.does(fault.unmake)?;
        Ok(outcome)
    }

    fn judge(&self, fault: &Fault) -> Result<std::result::Result<String, String>> {
        let (device, says, command) = (self.named(fault.device), self.named(fault.says), self.named(fault.command));
        let look = || Ok::<_, anyhow::Error>(self.doctor(&device, false).run()?.stdout);
        let before = look()?;
        if !before.contains(&says) || !before.contains(&command) {
            return Ok(Err(format!("it did not say {says:?} and `{command}`: {before}")));
        }
        if !fault.applied {
            return Ok(Ok(command));
        }
        let mended = self.apply(&device, &says, self.guard.directory())?;
        if let Err(why) = mended {
            return Ok(Err(why));
        }
        let after = look()?;
        Ok(if after.contains(&says) { Ok(command) } else { Err(format!("it was not undone: {after}")) })
    }

    /// Runs `--apply`, sees that the fault is gone, and ends it.
    fn apply(&self, device: &str, says: &str, directory: &Path) -> Result<std::result::Result<(), String>> {
        let mut applying = Process::spawn("doctor", &self.doctor(device, true), directory)?;
        let out = directory.join("doctor.out");
        let written = || std::fs::read_to_string(&out).unwrap_or_default();
        let left =
            || written().split_once("What is left:").map(|(_, left)| left.to_string()).filter(|left| !left.is_empty());
        let there = wait::until(LIMIT, || left().is_some() || applying.still_running().is_err());
        // It prints line by line.
        wait::sleep_ms(300);
        let left = left().filter(|_| there);
        applying.still_running().with_context(written)?;
        let code = applying.terminate(LIMIT)?;
        Ok(match left {
            Some(left) if left.contains(says) => Err(format!("--apply left it: {left}")),
            Some(_) if code == 0 => Ok(()),
            Some(_) => Err(format!("it ended with {code}")),
            None => Err(format!("--apply did not say what is left: {}", written())),
        })
    }
}
