//! Open vSwitch in a namespace, all of it in user space: its database, its switch, its sockets and files in the lab's
//! directory. Both run in the foreground inside the namespace, so that the guard finds them like all others.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::netns::Netns;
use crate::process::Process;
use crate::shell::{Cmd, Ran};
use crate::wait;

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const START_LIMIT: Duration = Duration::from_secs(10);

/// A running switch without bridges.
#[derive(Debug)]
pub struct Ovs {
    directory: PathBuf,
    _switch: Process,
    _database: Process,
}

impl Ovs {
    pub fn start(netns: &Netns, lab: &Path) -> Result<Self> {
        let directory = lab.join(format!("ovs-{}", netns.name()));
        std::fs::create_dir(&directory)?;
        let file = |name: &str| directory.join(name).display().to_string();
        at_home(Cmd::new("ovsdb-tool").args(["create", &file("conf.db"), SCHEMA]), &directory).ok()?;
        let listen = [format!("--remote=punix:{}", file("db.sock")), format!("--unixctl={}", file("db.ctl"))];
        let database = Cmd::new("ovsdb-server").arg(file("conf.db")).args(listen).netns(netns);
        let database = Process::spawn("ovsdb-server", &at_home(database, &directory), lab)?;
        let there = wait::until(START_LIMIT, || directory.join("db.sock").exists());
        ensure!(there, "ovsdb-server does not listen: {}", database.log_end());
        let ask = [format!("unix:{}", file("db.sock")), format!("--unixctl={}", file("switch.ctl"))];
        let switch = Cmd::new("ovs-vswitchd").args(ask).netns(netns);
        let switch = Process::spawn("ovs-vswitchd", &at_home(switch, &directory), lab)?;
        Ok(Ovs { directory, _switch: switch, _database: database })
    }

    /// Changes the configuration, and waits until it is in force.
    pub fn configure(&self, what: &str) -> Result<Ran> {
        let database = format!("--db=unix:{}", self.directory.join("db.sock").display());
        at_home(Cmd::new("ovs-vsctl").arg(database).arg("--timeout=10").args(what.split_whitespace()), &self.directory)
            .ok()
    }

    /// OpenFlow to one of its bridges.
    pub fn openflow(&self, verb: &str, bridge: &str, what: &str) -> Result<Ran> {
        let bridge = format!("unix:{}", self.directory.join(format!("{bridge}.mgmt")).display());
        at_home(Cmd::new("ovs-ofctl").args([verb, &bridge]).args(what.split_whitespace()), &self.directory).ok()
    }
}

/// Everything that these programs write goes here.
fn at_home(command: Cmd, directory: &Path) -> Cmd {
    let variables = ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"];
    variables.iter().fold(command, |command, variable| command.env(variable, directory.display()))
}
