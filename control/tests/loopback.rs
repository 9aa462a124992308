//! The plugin `loopback` as a runtime calls it, in a namespace made for it. Needs root and iproute2.

use control::cni::loopback::NAME;
use control::install::CniPlaces;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A namespace and a node's directories, gone at the end of the test.
struct World {
    name: String,
    root: PathBuf,
}

impl World {
    fn new(name: &str) -> World {
        let name = format!("fairway-loopback-{name}-{}", std::process::id());
        let root = std::env::temp_dir().join(&name);
        fs::create_dir_all(root.join("bin")).unwrap();
        assert!(ip(&["netns", "add", &name]).status.success(), "this test makes a network namespace: run it as root");
        World { name, root }
    }

    fn places(&self) -> CniPlaces {
        CniPlaces { cni_bin_dir: self.root.join("bin"), cni_conf_dir: self.root.join("conf") }
    }

    fn install(&self) {
        let places = self.places();
        let mut command = Command::new(env!("CARGO_BIN_EXE_fairway"));
        command.args(["install-cni", "--cni-bin-dir"]).arg(&places.cni_bin_dir);
        assert!(command.arg("--cni-conf-dir").arg(&places.cni_conf_dir).status().unwrap().success());
    }

    fn plugin(&self) -> PathBuf {
        self.root.join("bin").join(NAME)
    }

    /// As containerd's own configuration for it says.
    fn call(&self, command: &str) -> Result<Value, Value> {
        let netns = Path::new("/run/netns").join(&self.name);
        let mut call = Command::new(self.plugin());
        call.env("CNI_COMMAND", command).env("CNI_CONTAINERID", "c1").env("CNI_IFNAME", "lo").env("CNI_NETNS", netns);
        let mut child = call.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let text = json!({"cniVersion": "1.0.0", "name": "cni-loopback", "type": NAME}).to_string();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let answer = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if output.status.success() { Ok(answer) } else { Err(answer) }
    }

    fn is_up(&self) -> bool {
        String::from_utf8(ip(&["-n", &self.name, "address", "show", "lo"]).stdout).unwrap().contains("127.0.0.1/8")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        ip(&["netns", "del", &self.name]);
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn ip(arguments: &[&str]) -> Output {
    Command::new("ip").args(arguments).output().unwrap()
}

#[test]
fn where_there_is_no_such_plugin_ours_brings_the_loopback_up() {
    let world = World::new("ours");
    world.install();
    assert!(!world.is_up());
    assert_eq!(world.call("VERSION").unwrap()["supportedVersions"][0], "0.3.1");
    assert_eq!(world.call("CHECK").unwrap_err()["code"], 100);
    let result = world.call("ADD").unwrap();
    assert!(world.is_up());
    assert_eq!((&result["cniVersion"], &result["interfaces"][0]["name"]), (&json!("1.0.0"), &json!("lo")));
    assert_eq!(
        (&result["ips"][0]["address"], &result["ips"][1]["address"]),
        (&json!("127.0.0.1/8"), &json!("::1/128"))
    );
    for command in ["ADD", "CHECK", "DEL"] {
        world.call(command).unwrap();
    }
    world.install();
    world.places().remove().unwrap();
    assert!(fs::read_dir(world.root.join("bin")).unwrap().next().is_none(), "something is left");
}

#[test]
fn anothers_plugin_stays_as_it_is() {
    let world = World::new("theirs");
    fs::write(world.plugin(), "theirs").unwrap();
    world.install();
    world.places().remove().unwrap();
    assert_eq!(fs::read(world.plugin()).unwrap(), b"theirs");
}
