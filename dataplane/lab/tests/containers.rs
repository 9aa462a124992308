//! Real containers of containerd and runc on two nodes, attached by `ctr run --cni`: pods and services and policies between
//! them. The first node has the machine's cgroups, which may be of version 1, the other one those of version 2. Containers of `ctr` are no pods of Kubernetes; a pod of the lab stands between them where labels are asked for.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use lab::agent::serve::HTTP_PORT;
use lab::chain::write_noop;
use lab::cni::PLUGIN;
use lab::process::Process;
use lab::shell::Cmd;
use lab::{Lab, Options, manifests, wait};
use serde_json::{Value, json};

/// Linked statically: all that the image needs.
const BUSYBOX: &str = "/bin/busybox";
/// What Debian's containerd 1.6 and its plugins speak.
const VERSION: &str = "1.0.0";
const START: Duration = Duration::from_secs(20);

/// A node's own containerd, with its files below the lab's.
struct Runtime {
    directory: PathBuf,
    node: usize,
    daemon: Option<Process>,
}

impl Runtime {
    fn start(lab: &Lab, node: usize) -> Result<Runtime> {
        let directory = lab.directory().join(format!("containerd-{node}"));
        fs::create_dir_all(directory.join("net.d"))?;
        fs::create_dir_all(directory.join("bin"))?;
        let mut runtime = Runtime { directory, node, daemon: None };
        runtime.configure(lab)?;
        let daemon = Cmd::line("unshare --mount sh -c").arg(runtime.script()).netns(lab.nodes[node].netns());
        runtime.daemon = Some(Process::spawn(&format!("containerd-{node}"), &daemon, lab.directory())?);
        let is_there = || runtime.ctr("version").run().is_ok_and(|ran| ran.succeeded());
        anyhow::ensure!(wait::until(START, is_there), "containerd does not answer");
        Ok(runtime)
    }

    /// Runs the daemon where it sees its own files instead of the machine's, and nobody else does: `ctr` knows no other
    /// places for networks and plugins, and a shim none for its sockets.
    fn script(&self) -> String {
        let own = self.directory.display();
        format!(
            "set -e; cd {own}; mkdir upper work; \
             mount -t overlay overlay -o lowerdir=/etc,upperdir=upper,workdir=work /etc; \
             mkdir -p /etc/cni/net.d; mount --bind net.d /etc/cni/net.d; \
             mount -t tmpfs tmpfs /opt; mkdir -p /opt/cni/bin; mount --bind bin /opt/cni/bin; \
             mkdir -p /run/containerd; mount -t tmpfs tmpfs /run/containerd; \
             {}exec containerd --config config.toml",
            if self.has_cgroup2() { "mount -t cgroup2 none /sys/fs/cgroup; " } else { "" }
        )
    }

    fn has_cgroup2(&self) -> bool {
        self.node > 0
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn configure(&self, lab: &Lab) -> Result<()> {
        let [root, state, socket] = ["root", "state", "socket"].map(|name| self.file(name).display().to_string());
        let config = format!(
            "version = 2\nroot = \"{root}\"\nstate = \"{state}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \
             \"io.containerd.internal.v1.opt\"]\n[grpc]\naddress = \"{socket}\"\n"
        );
        fs::write(self.file("config.toml"), config)?;
        let run_dir = &lab.nodes[self.node].plugin().run_dir;
        let list = json!({"cniVersion": VERSION, "name": "cluster", "plugins": [
            {"type": PLUGIN, "runDir": run_dir},
            {"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.rp_filter": "2"}},
            {"type": "noop"},
        ]});
        fs::write(self.file("net.d/10-fairway.conflist"), list.to_string())?;
        let bin = self.file("bin");
        symlink(lab.binaries().path(PLUGIN), bin.join(PLUGIN))?;
        symlink("/usr/lib/cni/tuning", bin.join("tuning"))?;
        // `ctr` gives every container a loopback network of its own.
        symlink("/usr/lib/cni/loopback", bin.join("loopback"))?;
        write_noop(&bin, lab.binaries().agent()).map(drop)
    }

    /// As the daemon sees the machine.
    fn ctr(&self, arguments: &str) -> Cmd {
        let pid = self.daemon.as_ref().map_or(0, Process::pid);
        Cmd::line(&format!("nsenter --target {pid} --net --mount ctr --address {}", self.file("socket").display()))
            .args(arguments.split(' '))
    }

    /// What kind of file system runc takes the version of its cgroups from.
    fn cgroup(&self) -> Result<String> {
        let pid = self.daemon.as_ref().map_or(0, Process::pid);
        let kind = Cmd::line(&format!("nsenter --target {pid} --mount stat -f -c %T /sys/fs/cgroup")).ok()?.stdout;
        Ok(kind.trim().to_owned())
    }

    /// Runs a command in a container of its own until it ends.
    fn run(&self, lab: &Lab, name: &str, command: &str) -> Cmd {
        let rootfs = lab.directory().join("image").display().to_string();
        let runc = self.file("runc").display().to_string();
        // Where the machine has the controller in version 1, version 2 has none for shares.
        let shares = if self.has_cgroup2() { "--cpu-shares 0" } else { "--cpu-shares 1024" };
        self.ctr(&format!("run --rm --cni {shares} --runc-root {runc} --rootfs {rootfs} {name} {command}"))
    }
}

/// A root file system of busybox alone, and a page that says whose it is.
fn image(directory: &Path) -> Result<()> {
    let root = directory.join("image");
    for part in ["bin", "etc", "proc", "sys", "dev", "tmp", "www"] {
        fs::create_dir_all(root.join(part))?;
    }
    fs::copy(BUSYBOX, root.join("bin/busybox")).context("busybox-static is missing")?;
    fs::set_permissions(root.join("bin/busybox"), fs::Permissions::from_mode(0o755))?;
    for name in ["sh", "httpd", "nc", "printf", "sleep"] {
        symlink("busybox", root.join("bin").join(name))?;
    }
    // Names are looked up by what a static program does not have.
    let fetch = "#!/bin/sh\nprintf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 $1 $2\n";
    fs::write(root.join("bin/fetch"), fetch)?;
    fs::set_permissions(root.join("bin/fetch"), fs::Permissions::from_mode(0o755))?;
    Ok(fs::write(root.join("www/index.html"), "from a container\n")?)
}

/// The address of the only container of a node whose id begins so.
fn address(lab: &Lab, node: usize, name: &str) -> Option<IpAddr> {
    let files = fs::read_dir(lab.nodes[node].directory().join("state/attachments")).ok()?;
    files.flatten().find_map(|file| {
        let text = fs::read_to_string(file.path()).ok()?;
        let attachment: Value = serde_json::from_str(&text).ok()?;
        let is_it = attachment["container"].as_str()?.ends_with(name);
        is_it.then(|| attachment["addrs"][0].as_str()?.parse().ok()).flatten()
    })
}

fn wait_address(lab: &Lab, node: usize, name: &str) -> Result<IpAddr> {
    wait::until(START, || address(lab, node, name).is_some());
    address(lab, node, name).with_context(|| format!("container {name} got no address"))
}

fn gets(command: Cmd) -> bool {
    let ran = command.limit(START).run();
    println!("{}", ran.as_ref().map_or_else(|error| error.to_string(), |ran| ran.stderr.clone()));
    ran.is_ok_and(|ran| ran.stdout.contains("from a container"))
}

#[test]
fn containers_of_two_nodes_speak_and_policies_know_their_addresses() -> Result<()> {
    let _one = lab::one_at_a_time();
    let mut lab = Lab::start(&Options::default())?;
    image(lab.directory())?;
    let [here, there] = [Runtime::start(&lab, 0)?, Runtime::start(&lab, 1)?];
    let serve = format!("/bin/httpd -f -p {HTTP_PORT} -h /www");
    let server = Process::spawn("server", &here.run(&lab, "server", &serve), lab.directory())?;
    let address_of_server = wait_address(&lab, 0, "server").with_context(|| server.log_end())?;
    for runtime in [&here, &there] {
        assert!(!runtime.has_cgroup2() || runtime.cgroup()? == "cgroup2fs", "runc sees {}", runtime.cgroup()?);
    }
    let direct = format!("/bin/fetch {address_of_server} {HTTP_PORT}");
    assert!(gets(here.run(&lab, "near", &direct)), "on one node");
    assert!(gets(there.run(&lab, "far", &direct)), "across nodes");

    let service: IpAddr = "10.96.0.77".parse()?;
    let objects = [
        manifests::service("containers", &[service], ("nobody", "selected")),
        manifests::endpoint_slice("containers-1", "containers", &[address_of_server]),
    ];
    lab.objects().apply("containers", &objects.join("---\n"))?;
    let by_service = || gets(there.run(&lab, "asks", &format!("/bin/fetch {service} 80")));
    assert!(wait::until(START, by_service), "by a service");

    lab.add_pod("guarded", 1, &[("app", "guarded")])?;
    let caller = Process::spawn("caller", &here.run(&lab, "caller", "/bin/sleep 600"), lab.directory())?;
    let allowed = wait_address(&lab, 0, "caller")?;
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "guarded", "namespace": manifests::NAMESPACE},
        "spec": {
            "podSelector": {"matchLabels": {"app": "guarded"}},
            "ingress": [{"from": [{"ipBlock": {"cidr": format!("{allowed}/32")}}]}],
        },
    });
    lab.objects().apply("guarded-policy", &policy.to_string())?;
    lab.settle()?;
    let fetch = format!("/bin/fetch {} {HTTP_PORT}", lab.pod("guarded")?.address());
    let inside = format!("tasks exec --exec-id e1 caller {fetch}");
    let ran = here.ctr(&inside).run()?;
    assert!(ran.stdout.contains("guarded"), "the policy allows its address: {} {}", ran.stdout, ran.stderr);
    let other = here.run(&lab, "other", &fetch).limit(START).run()?;
    assert!(!other.stdout.contains("guarded"), "the policy allows no other: {}", other.stdout);

    for (name, process) in [("server", server), ("caller", caller)] {
        here.ctr(&format!("tasks kill --signal SIGKILL {name}")).run()?;
        drop(process.finish(START));
    }
    let is_clean = || address(&lab, 0, "server").is_none() && address(&lab, 0, "caller").is_none();
    assert!(wait::until(START, is_clean), "ctr's DEL left an attachment");
    for runtime in [here, there] {
        runtime.daemon.context("it runs")?.terminate(START)?;
    }
    // Only if it was made for this, and is empty.
    drop(fs::remove_dir("/run/containerd"));
    Ok(())
}
