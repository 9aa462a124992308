//! What an ADD prints, in the shape of each version, and what CHECK compares of it.
//!
//! Sources: CNI specification 0.3.1, 0.4.0, 1.0.0 and 1.1.0, "Result" and "Section 5: Result Types": up to 0.4.0 each address
//! names its family, from 1.1.0 on an interface has its MTU.

use crate::api::{CniAttached, CniPod, Failure, code};
use serde_json::{Value, json};
use tables::Addr;

/// The result of an ADD, joined to that of the plugins before.
pub fn of(version: &str, pod: &CniPod, attached: &CniAttached, previous: Option<&Value>) -> Value {
    let mut result = previous.cloned().filter(Value::is_object).unwrap_or_else(|| json!({"dns": {}}));
    result["cniVersion"] = json!(version);
    let at = result["interfaces"].as_array().map_or(0, Vec::len);
    extend(&mut result, "interfaces", [interface(version, pod, attached)]);
    extend(&mut result, "ips", attached.addrs.iter().map(|addr| ip(version, addr, attached, at)));
    extend(&mut result, "routes", attached.gateways.iter().map(route));
    result
}

fn extend(result: &mut Value, list: &str, more: impl IntoIterator<Item = Value>) {
    if !result[list].is_array() {
        result[list] = json!([]);
    }
    if let Some(list) = result[list].as_array_mut() {
        list.extend(more);
    }
}

fn interface(version: &str, pod: &CniPod, attached: &CniAttached) -> Value {
    let mut interface = json!({"name": pod.ifname, "mac": attached.mac, "sandbox": pod.netns});
    if version == "1.1.0" {
        interface["mtu"] = json!(attached.mtu);
    }
    interface
}

fn ip(version: &str, addr: &Addr, attached: &CniAttached, interface: usize) -> Value {
    let length = if addr.is_v4() { 32 } else { 128 };
    let mut ip = json!({"address": format!("{addr}/{length}"), "interface": interface});
    if version.starts_with("0.") {
        ip["version"] = json!(if addr.is_v4() { "4" } else { "6" });
    }
    if let Some(gateway) = attached.gateways.iter().find(|gateway| gateway.is_v4() == addr.is_v4()) {
        ip["gateway"] = json!(gateway);
    }
    ip
}

fn route(gateway: &Addr) -> Value {
    json!({"dst": if gateway.is_v4() { "0.0.0.0/0" } else { "::/0" }, "gw": gateway})
}

/// Whether the runtime's result of all plugins still has what this one made.
pub fn check(previous: Option<&Value>, pod: &CniPod, attached: &CniAttached) -> Result<(), Failure> {
    let previous =
        previous.ok_or_else(|| Failure::new(code::NETWORK_CONFIG, "CHECK needs `prevResult` in its configuration"))?;
    let differs = |what: String| Failure::new(code::NOT_AS_MADE, format!("prevResult is not as it was made: {what}"));
    let none = Vec::new();
    let list = |name: &str| previous[name].as_array().unwrap_or(&none);
    let is_ours = |one: &&Value| one["name"] == pod.ifname.as_str() && one["sandbox"] == json!(pod.netns);
    let at = list("interfaces").iter().position(|one| is_ours(&one));
    let at = at.ok_or_else(|| differs(format!("it has no interface {} in this container", pod.ifname)))?;
    let mac = &list("interfaces")[at]["mac"];
    if mac.as_str().is_some_and(|mac| !mac.eq_ignore_ascii_case(&attached.mac)) {
        return Err(differs(format!("{} has the Ethernet address {mac}, not {}", pod.ifname, attached.mac)));
    }
    let listed = |addr: &&Addr| {
        let is_it = |ip: &Value| ip["address"].as_str().is_some_and(|text| is_address(text, addr));
        list("ips").iter().any(is_it)
    };
    match attached.addrs.iter().find(|addr| !listed(addr)) {
        Some(missing) => Err(differs(format!("it does not have the address {missing}"))),
        None => Ok(()),
    }
}

fn is_address(text: &str, addr: &Addr) -> bool {
    text.split('/').next().and_then(|text| text.parse().ok()) == Some(*addr)
}
