//! The CNI plugin as runtimes call it: in chains with Debian's plugins and one that does nothing, in every version, with
//! what runtimes ask for one interface; and callers and control that are killed at any moment.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use lab::agent::serve::HTTP_PORT;
use lab::chain::{Chain, Sandbox, code_of, write_noop};
use lab::cni::{PLUGIN, POD_INTERFACE};
use lab::netns::Netns;
use lab::process::Process;
use lab::shell::Cmd;
use lab::{Families, Lab, Options, wait};
use serde_json::{Value, json};

/// Where Debian's containernetworking-plugins are.
const DEBIAN: &str = "/usr/lib/cni";
/// These speak up to this version.
const DEBIAN_VERSION: &str = "1.0.0";
const START: Duration = Duration::from_secs(10);

struct World {
    lab: Lab,
    chain: Chain,
    calls: PathBuf,
}

impl World {
    fn start() -> Result<World> {
        let lab = Lab::start(&Options { families: Families::Dual, ..Options::default() })?;
        let calls = write_noop(lab.directory(), lab.binaries().agent())?;
        let node = &lab.nodes[0];
        let able = json!({"ips": true, "mac": true, "portMappings": true});
        let fairway = json!({"type": PLUGIN, "runDir": node.plugin().run_dir, "capabilities": able});
        let chain = Chain {
            name: "cluster".into(),
            version: DEBIAN_VERSION.into(),
            plugins: vec![fairway],
            path: vec![lab.binaries().directory().into(), lab.directory().into(), DEBIAN.into()],
            netns: node.netns().clone(),
        };
        Ok(World { lab, chain, calls })
    }

    fn sandbox(&self, name: &str) -> Result<(Netns, Sandbox)> {
        let netns = Netns::create(&format!("{}{name}", self.lab.guard().prefix()))?;
        let sandbox = Sandbox::plain(&netns);
        Ok((netns, sandbox))
    }

    fn followed_by(&self, plugins: Vec<Value>) -> Chain {
        Chain { plugins: [self.chain.plugins.clone(), plugins].concat(), ..self.chain.clone() }
    }

    /// An ADD that goes on by itself.
    fn begin_add(&self, sandbox: &Sandbox, what: &str) -> Result<Process> {
        let stdin = self.chain.stdin(&self.chain.plugins[0], sandbox, None);
        let add = self.chain.command("ADD", PLUGIN, Some(sandbox))?;
        let mut caller = Process::spawn(what, &add, self.lab.directory())?;
        caller.tell(&stdin.to_string())?;
        caller.end_input();
        Ok(caller)
    }

    fn flows(&self) -> Result<u64> {
        let status = self.lab.nodes[0].fairway().status()?;
        Ok(status.workers.iter().map(|worker| worker.flows).sum())
    }

    fn attachments(&self) -> Result<usize> {
        Ok(fs::read_dir(self.lab.nodes[0].directory().join("state/attachments"))?.count())
    }

    /// Addresses that are given out, and devices that the dataplane serves for pods.
    fn held(&self) -> Result<(usize, usize)> {
        let attachments = self.attachments()?;
        let interfaces = self.lab.nodes[0].fairway().interfaces()?;
        Ok((attachments, interfaces.iter().filter(|interface| interface.kind == "pod").count()))
    }
}

fn address(result: &Value, number: usize) -> IpAddr {
    let text = result["ips"][number]["address"].as_str().expect("an address");
    text.split('/').next().and_then(|text| text.parse().ok()).expect("an address and its length")
}

/// Outside of the cluster.
fn client() -> IpAddr {
    Families::Dual.client()[0]
}

fn reaches(netns: &Netns, to: IpAddr) -> bool {
    Cmd::line("ping -n -c 1 -W 2").arg(to).netns(netns).run().is_ok_and(|ran| ran.succeeded())
}

#[test]
fn every_version_works_first_in_a_chain() -> Result<()> {
    let _one = lab::one_at_a_time();
    let world = World::start()?;
    let tuning = json!({"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.rp_filter": "2"}});
    let noop = json!({"type": "noop"});
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let is_debians = version <= DEBIAN_VERSION;
        let others = if is_debians { vec![tuning.clone(), noop.clone()] } else { vec![noop.clone()] };
        let chain = Chain { version: version.into(), ..world.followed_by(others) };
        let (netns, sandbox) = world.sandbox(&format!("v{}", version.replace('.', "")))?;
        fs::write(&world.calls, "")?;
        let result = chain.add(&sandbox)?;
        assert_eq!(result["cniVersion"], version);
        assert!(reaches(&netns, client()), "{version}: no way out");
        let filter = Cmd::line("cat /proc/sys/net/ipv4/conf/eth0/rp_filter").netns(&netns).ok()?.stdout;
        assert!(!is_debians || filter.trim() == "2", "{version}: {filter}");
        let has_check = version != "0.3.1";
        if has_check {
            chain.check(&sandbox, &result)?;
            netns.ip("route del default dev eth0")?;
            let missing = chain.check(&sandbox, &result).expect_err("a route is missing").to_string();
            assert!(missing.contains("the route to 0.0.0.0/0"), "{missing}");
        }
        chain.del(&sandbox, Some(&result))?;
        chain.del(&sandbox, Some(&result))?;
        chain.del(&sandbox.gone(), None)?;
        assert!(netns.ip("link show eth0").is_err(), "{version}: eth0 is left");
        let calls = fs::read_to_string(&world.calls)?;
        let expected = if has_check { "ADD\nCHECK\nDEL\nDEL\nDEL\n" } else { "ADD\nDEL\nDEL\nDEL\n" };
        assert_eq!(calls, expected, "{version}: the plugin after it is called each time");
    }
    assert_eq!(world.held()?, (0, 0));
    Ok(())
}

#[test]
fn what_cannot_be_added_leaves_nothing() -> Result<()> {
    let _one = lab::one_at_a_time();
    let world = World::start()?;
    let (netns, sandbox) = world.sandbox("taken")?;
    netns.ip("link add eth0 type veth peer name other")?;
    assert_eq!(code_of(world.chain.add(&sandbox)), Some(101), "the interface is there already");
    assert!(netns.ip("-d link show eth0")?.stdout.contains("veth"), "it is not ours to take away");
    netns.ip("link del eth0")?;
    let result = world.chain.add(&sandbox)?;
    assert_eq!(code_of(world.chain.add(&sandbox)), Some(101), "it is attached already");
    world.chain.check(&sandbox, &result)?;
    let nowhere = Sandbox { id: "nowhere".into(), netns: "/run/netns/fairway-nobody".into(), ..Sandbox::default() };
    assert_eq!(code_of(world.chain.add(&nowhere)), Some(3), "the container is unknown");
    assert_eq!(world.held()?, (1, 1));
    world.chain.del(&sandbox, Some(&result))
}

#[test]
fn a_runtime_gets_the_addresses_mac_and_ports_it_asks_for() -> Result<()> {
    let _one = lab::one_at_a_time();
    let mut world = World::start()?;
    let (netns, sandbox) = world.sandbox("asks")?;
    let asked = json!({
        "ips": ["10.244.1.99/24", "fd00:10:244:1::99"],
        "mac": "02:00:00:00:00:99",
        "portMappings": [
            // One of those that Fairway else translates to.
            {"hostPort": 54323, "containerPort": HTTP_PORT, "protocol": "tcp"},
            {"hostPort": 8098, "containerPort": HTTP_PORT, "protocol": "tcp", "hostIP": "127.0.0.1"},
        ],
    });
    let sandbox = Sandbox { capabilities: asked, ..sandbox };
    let result = world.chain.add(&sandbox)?;
    assert_eq!([address(&result, 0), address(&result, 1)].map(|a| a.to_string()), ["10.244.1.99", "fd00:10:244:1::99"]);
    assert!(netns.ip("link show eth0")?.stdout.contains("02:00:00:00:00:99"));
    let (_other, again) = world.sandbox("again")?;
    let again = Sandbox { capabilities: json!({"ips": ["10.244.1.99"]}), ..again };
    assert_eq!(code_of(world.chain.add(&again)), Some(11), "somebody has it: it may be free later");
    let beyond = Sandbox { capabilities: json!({"ips": ["10.244.2.9"]}), ..again };
    assert_eq!(code_of(world.chain.add(&beyond)), Some(7), "it is another node's");

    world.lab.serve("asks", &netns)?;
    for node in world.lab.nodes[0].addresses() {
        let url = format!("http://{}/", std::net::SocketAddr::new(*node, 54323));
        let is_there = || {
            let ran = Cmd::line("curl -sS --max-time 2").arg(&url).netns(world.lab.client()).run();
            ran.is_ok_and(|ran| ran.stdout.contains("asks"))
        };
        assert!(wait::until(START, is_there), "the node's port does not lead to it: {url}");
    }
    let from_node = |more: &str, to: &str| {
        let ran = Cmd::line(&format!("curl -sS --max-time 2 {more} http://{to}:8098/"))
            .netns(world.lab.nodes[0].netns())
            .run();
        ran.is_ok_and(|ran| ran.stdout.contains("asks"))
    };
    let own = world.lab.nodes[0].address().to_string();
    assert!(from_node("", "127.0.0.1") && from_node(&format!("--interface {own}"), "127.0.0.1"));
    assert!(!from_node("", &own), "it asked for the loopback's port alone");
    world.chain.check(&sandbox, &result)?;
    let node = &mut world.lab.nodes[0];
    node.kill_control()?;
    node.start_control()?;
    node.wait_connected()?;
    assert!(reaches(&netns, client()), "control forgot a container that is no pod");
    world.chain.del(&sandbox, Some(&result))?;
    assert_eq!(world.held()?, (0, 0));
    Ok(())
}

#[test]
fn garbage_is_collected_by_network_and_the_state_is_told() -> Result<()> {
    let _one = lab::one_at_a_time();
    let mut world = World::start()?;
    let ours = Chain { version: "1.1.0".into(), ..world.chain.clone() };
    let others = Chain { name: "another".into(), ..ours.clone() };
    ours.status()?;
    let [(kept_in, kept), (left_in, left), (_, foreign)] =
        [world.sandbox("kept")?, world.sandbox("left")?, world.sandbox("foreign")?];
    let result = ours.add(&kept)?;
    ours.add(&left)?;
    let foreign_result = others.add(&foreign)?;
    ours.gc(&[&kept])?;
    assert!(wait::until(START, || world.held().is_ok_and(|held| held == (2, 2))), "{:?}", world.held());
    assert!(left_in.ip("link show eth0").is_err() && kept_in.ip("link show eth0").is_ok());
    ours.check(&kept, &result)?;
    others.check(&foreign, &foreign_result)?;
    let old = Chain { version: "1.0.0".into(), ..ours.clone() };
    assert_eq!(code_of(old.gc(&[])), Some(1), "version 1.0.0 has no GC");
    world.lab.nodes[0].kill_dataplane()?;
    world.lab.nodes[0].wait_dataplane_gone()?;
    assert_eq!(code_of(ours.status()), Some(51), "nobody has a connection");
    world.lab.nodes[0].kill_control()?;
    assert_eq!(code_of(ours.status()), Some(50), "nobody could be attached");
    Ok(())
}

/// Cycles of ADD with somebody killed; `CYCLES=1000` for the long run.
fn cycles() -> u32 {
    std::env::var("CYCLES").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

/// A few numbers that look drawn (xorshift), the same for the same seed.
struct Drawn(u64);

impl Drawn {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Its request may even be read after the DEL that cleans up behind it.
#[test]
fn an_add_whose_caller_is_gone_is_undone() -> Result<()> {
    let _one = lab::one_at_a_time();
    let mut world = World::start()?;
    let socket = world.lab.nodes[0].directory().join("run/control.sock");
    let call = |world: &World, sandbox: &Sandbox| -> Result<UnixStream> {
        let asked = json!({
            "ask": "cni-add", "container": sandbox.id, "ifname": POD_INTERFACE, "network": world.chain.name,
            "netns": sandbox.netns, "namespace": "", "pod": "", "wants": {"addrs": [], "mac": null, "ports": []},
        });
        let mut caller = UnixStream::connect(&socket)?;
        writeln!(caller, "{asked}")?;
        Ok(caller)
    };
    let (netns, sandbox) = world.sandbox("unheard")?;
    drop(call(&world, &sandbox)?);
    // As long as a runtime takes to find that out and to call DEL, which then finds nothing.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(world.held()?, (0, 0));
    assert!(netns.ip("link show eth0").is_err(), "eth0 is left");

    // Without a dataplane the answer waits for tables, so the caller dies when all is made.
    world.lab.nodes[0].kill_dataplane()?;
    world.lab.nodes[0].wait_dataplane_gone()?;
    let caller = call(&world, &sandbox)?;
    let is_made = || netns.ip("link show eth0").is_ok();
    assert!(wait::until(START, is_made), "the interface was never made");
    drop(caller);
    let is_undone = || world.attachments().is_ok_and(|count| count == 0) && netns.ip("link show eth0").is_err();
    assert!(wait::until(START, is_undone), "left: {:?}", world.attachments());
    Ok(())
}

#[test]
fn whoever_is_killed_while_it_attaches_nothing_is_left() -> Result<()> {
    let _one = lab::one_at_a_time();
    let mut world = World::start()?;
    let seed = std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_nanos() as u64 | 1;
    let mut drawn = Drawn(seed);
    let (mut whole, mut callers, mut controls, mut flows) = (0, 0, 0, 0);
    for cycle in 0..cycles() {
        let (netns, sandbox) = world.sandbox(&format!("c{cycle}"))?;
        let caller = world.begin_add(&sandbox, &format!("add-{cycle}"))?;
        if drawn.below(4) == 0 {
            caller.finish(START)?;
            assert!(reaches(&netns, client()), "seed {seed}, cycle {cycle}: no way out");
            whole += 1;
            flows = flows.max(world.flows()?);
        } else {
            std::thread::sleep(Duration::from_micros(drawn.below(25_000)));
            if drawn.below(4) == 0 {
                world.lab.nodes[0].kill_control()?;
                drop(caller.kill());
                world.lab.nodes[0].start_control()?;
                world.lab.nodes[0].wait_connected()?;
                controls += 1;
            } else {
                drop(caller.kill());
                callers += 1;
            }
        }
        // The runtime cleans up what it began; now and then it has forgotten, and collects garbage later.
        if drawn.below(8) > 0 {
            let is_gone = || world.chain.del(&sandbox, None).is_ok();
            assert!(wait::until(START, is_gone), "seed {seed}, cycle {cycle}: DEL fails");
            assert!(netns.ip("link show eth0").is_err(), "seed {seed}, cycle {cycle}: eth0 is left");
        }
        netns.remove()?;
    }
    let collector = Chain { version: "1.1.0".into(), ..world.chain.clone() };
    let left = || world.held().and_then(|held| Ok((held, world.flows()?)));
    let is_clean = || collector.gc(&[]).is_ok() && left().is_ok_and(|left| left == ((0, 0), 0));
    assert!(wait::until(START, is_clean), "seed {seed}: left ((attachments, interfaces), flows): {:?}", left());
    assert!(whole == 0 || flows > 0, "those that were attached whole had no flows to leave");
    println!("{whole} whole, {callers} callers and {controls} controls were killed; nothing was left");
    Ok(())
}
