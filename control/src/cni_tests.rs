use super::*;
use crate::bandwidth::{Bandwidth, Rate};
use tables::Protocol;

const CONFIGURATION: &str = r#"{"cniVersion":"1.0.0","name":"fairway","type":"fairway-cni","runDir":"/run/x"}"#;

fn environment(changes: &[(&str, Option<&str>)]) -> Environment {
    let mut environment: Environment = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/pod"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME=web"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    for (name, value) in changes {
        match value {
            Some(value) => environment.insert(name.to_string(), value.to_string()),
            None => environment.remove(*name),
        };
    }
    environment
}

fn attached(_: &Configuration, request: Request) -> Result<Value, Failure> {
    assert!(matches!(request, Request::CniAdd(_)), "{request:?}");
    Ok(json!(CniAttached {
        mac: "02:fa:0a:f4:01:04".into(),
        mtu: 1450,
        addrs: vec!["10.244.1.4".parse().unwrap(), "fd00::4".parse().unwrap()],
        gateways: vec!["10.244.1.1".parse().unwrap(), "fd00::1".parse().unwrap()],
    }))
}

fn nobody(_: &Configuration, request: Request) -> Result<Value, Failure> {
    panic!("nothing should have been asked: {request:?}")
}

fn error_of(outcome: &Outcome) -> (u64, String) {
    assert_eq!(outcome.code, 1, "{outcome:?}");
    let value: Value = serde_json::from_str(&outcome.stdout).unwrap();
    (value["code"].as_u64().unwrap(), value["msg"].as_str().unwrap().to_owned())
}

#[test]
fn an_add_answers_as_the_specification_says() {
    let outcome = run(&environment(&[]), CONFIGURATION, attached);
    assert_eq!(outcome.code, 0);
    let result: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let expected = json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0", "mac": "02:fa:0a:f4:01:04", "sandbox": "/run/netns/pod"}],
        "ips": [
            {"address": "10.244.1.4/32", "gateway": "10.244.1.1", "interface": 0},
            {"address": "fd00::4/128", "gateway": "fd00::1", "interface": 0}
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.244.1.1"}, {"dst": "::/0", "gw": "fd00::1"}],
        "dns": {},
    });
    assert_eq!(result, expected);
}

fn add(version: &str, previous: Option<Value>) -> Value {
    let mut stdin: Value = serde_json::from_str(CONFIGURATION).unwrap();
    stdin["cniVersion"] = json!(version);
    previous.into_iter().for_each(|previous| stdin["prevResult"] = previous);
    let outcome = run(&environment(&[]), &stdin.to_string(), attached);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    serde_json::from_str(&outcome.stdout).unwrap()
}

#[test]
fn each_version_has_its_own_shape() {
    for (version, family, mtu) in
        [("0.3.1", true, false), ("0.4.0", true, false), ("1.0.0", false, false), ("1.1.0", false, true)]
    {
        let result = add(version, None);
        assert_eq!(result["cniVersion"], version);
        let families: Vec<&str> =
            result["ips"].as_array().unwrap().iter().filter_map(|ip| ip["version"].as_str()).collect();
        assert_eq!(families, if family { vec!["4", "6"] } else { vec![] }, "{version}");
        assert_eq!(result["interfaces"][0].get("mtu").is_some(), mtu, "{version}");
    }
}

#[test]
fn inside_a_chain_what_others_made_stays() {
    let previous = json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "br0"}, {"name": "net1", "sandbox": "/run/netns/pod"}],
        "ips": [{"address": "192.0.2.5/24", "interface": 1}],
        "dns": {"nameservers": ["192.0.2.53"]},
    });
    let result = add("1.0.0", Some(previous.clone()));
    assert_eq!(result["dns"], previous["dns"]);
    assert_eq!(result["interfaces"][2]["name"], "eth0");
    assert_eq!(result["ips"][0], previous["ips"][0]);
    assert_eq!(result["ips"][1]["interface"], 2);
    assert_eq!(result["routes"].as_array().unwrap().len(), 2);
}

#[test]
fn a_check_compares_with_what_the_runtime_remembers() {
    let made = add("1.0.0", None);
    let check = |previous: Option<Value>| {
        let mut stdin: Value = serde_json::from_str(CONFIGURATION).unwrap();
        previous.into_iter().for_each(|previous| stdin["prevResult"] = previous);
        let ask = |configuration: &Configuration, request: Request| match request {
            Request::CniCheck(pod) => attached(configuration, Request::CniAdd(pod)),
            other => panic!("{other:?}"),
        };
        run(&environment(&[("CNI_COMMAND", Some("CHECK"))]), &stdin.to_string(), ask)
    };
    assert_eq!(check(Some(made.clone())), Outcome { stdout: String::new(), code: 0 });
    assert_eq!(error_of(&check(None)).0, code::NETWORK_CONFIG as u64);
    for (pointer, other) in [
        ("/interfaces/0/mac", json!("02:00:00:00:00:01")),
        ("/interfaces/0/name", json!("eth1")),
        ("/interfaces/0/sandbox", json!("/run/netns/other")),
        ("/ips/1/address", json!("fd00::5/128")),
    ] {
        let mut changed = made.clone();
        *changed.pointer_mut(pointer).unwrap() = other;
        assert_eq!(error_of(&check(Some(changed))).0, code::NOT_AS_MADE as u64, "{pointer}");
    }
}

#[test]
fn what_a_runtime_asks_for_one_interface_is_passed_on() {
    let stdin = r#"{"cniVersion":"1.0.0","runtimeConfig":{
        "ips":["10.244.1.9/24","fd00::9"],"mac":"02:00:00:00:00:0a",
        "portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"UDP","hostIP":"192.0.2.1"},
                        {"hostPort":8081,"containerPort":81,"hostIP":"0.0.0.0"},{"hostPort":0,"containerPort":82},
                        {"HostPort":8083,"ContainerPort":83,"Protocol":"tcp","HostIP":""}],
        "bandwidth":{"ingressRate":1000000,"ingressBurst":2000,"EgressRate":3000000,"egressBurst":0}}}"#;
    let seen = std::cell::RefCell::new(None);
    let ask = |configuration: &Configuration, request: Request| {
        seen.replace(Some(request.clone()));
        attached(configuration, request)
    };
    let nobody = environment(&[("CNI_ARGS", None)]);
    assert_eq!(run(&nobody, stdin, ask).code, 0);
    let Some(Request::CniAdd(pod)) = seen.take() else { panic!("it asks to ADD") };
    assert!(pod.namespace.is_empty() && pod.pod.is_empty());
    assert_eq!(pod.wants.addrs, ["10.244.1.9", "fd00::9"].map(|text| text.parse().unwrap()));
    assert_eq!(pod.wants.mac, Some(tables::Mac([2, 0, 0, 0, 0, 10])));
    let ports: Vec<_> =
        pod.wants.ports.iter().map(|p| (p.addr.is_some(), p.port, p.protocol, p.container_port)).collect();
    let tcp = |port| (false, 8000 + port, Protocol::TCP, port);
    assert_eq!(ports, [(true, 8080, Protocol::UDP, 80), tcp(81), tcp(83)]);
    let rate = |bits_per_s, burst_bits| Some(Rate { bits_per_s, burst_bits });
    assert_eq!(pod.wants.bandwidth, Bandwidth { ingress: rate(1_000_000, 2_000), egress: rate(3_000_000, 0) });
}

#[test]
fn an_empty_list_may_be_null() {
    let stdin =
        r#"{"cniVersion":"1.0.0","runtimeConfig":{"ips":null,"portMappings":null,"mac":null,"bandwidth":null}}"#;
    assert_eq!(run(&environment(&[]), stdin, attached).code, 0);
}

#[test]
fn a_node_without_control_is_not_available() {
    let stdin = r#"{"cniVersion":"1.1.0","runDir":"/run/x"}"#;
    let outcome = run(&environment(&[("CNI_COMMAND", Some("STATUS"))]), stdin, ask);
    assert_eq!(error_of(&outcome).0, code::NOT_AVAILABLE as u64);
}

#[test]
fn the_pod_is_passed_on_as_named() {
    let seen = std::cell::RefCell::new(None);
    let ask = |configuration: &Configuration, request: Request| {
        seen.replace(Some((configuration.run_dir.clone(), request)));
        Ok(Value::Null)
    };
    let gone = environment(&[("CNI_COMMAND", Some("DEL")), ("CNI_NETNS", None), ("CNI_ARGS", None)]);
    assert_eq!(run(&gone, CONFIGURATION, ask), Outcome { stdout: String::new(), code: 0 });
    let pod = CniPod {
        container: "c1".into(),
        ifname: "eth0".into(),
        network: "fairway".into(),
        netns: None,
        namespace: String::new(),
        pod: String::new(),
        wants: CniWants::default(),
    };
    assert_eq!(seen.take(), Some(("/run/x".into(), Request::CniDel(pod))));
}

#[test]
fn each_mistake_has_its_reserved_code() {
    for (changes, stdin, expected) in [
        (vec![("CNI_COMMAND", None)], CONFIGURATION, code::ENVIRONMENT),
        (vec![("CNI_COMMAND", Some("MOVE"))], CONFIGURATION, code::ENVIRONMENT),
        (vec![("CNI_CONTAINERID", Some("../etc"))], CONFIGURATION, code::ENVIRONMENT),
        (vec![("CNI_IFNAME", Some("a-name-of-sixteen"))], CONFIGURATION, code::ENVIRONMENT),
        (vec![("CNI_NETNS", None)], CONFIGURATION, code::ENVIRONMENT),
        (vec![("CNI_ARGS", Some("K8S_POD_NAME=web"))], CONFIGURATION, code::ENVIRONMENT),
        (vec![], "{", code::DECODE),
        (vec![], r#"{"cniVersion":"0.2.0"}"#, code::VERSION),
        (vec![("CNI_COMMAND", Some("GC"))], r#"{"cniVersion":"1.1.0"}"#, code::NETWORK_CONFIG),
        (vec![("CNI_COMMAND", Some("GC"))], CONFIGURATION, code::VERSION),
        (vec![("CNI_COMMAND", Some("STATUS"))], CONFIGURATION, code::VERSION),
        (vec![("CNI_COMMAND", Some("CHECK"))], r#"{"cniVersion":"0.3.1"}"#, code::VERSION),
        (vec![], r#"{"cniVersion":"1.0.0","runtimeConfig":{"ips":["10.0.0.x/24"]}}"#, code::NETWORK_CONFIG),
        (vec![], r#"{"cniVersion":"1.0.0","runtimeConfig":{"mac":"01:00:5e:00:00:01"}}"#, code::NETWORK_CONFIG),
        (vec![], r#"{"cniVersion":"1.0.0","runtimeConfig":{"mac":"02:00:5e:00:00"}}"#, code::NETWORK_CONFIG),
        (vec![], r#"{"cniVersion":"1.0.0","runtimeConfig":{"bandwidth":{"egressBurst":1000}}}"#, code::NETWORK_CONFIG),
        (
            vec![],
            r#"{"cniVersion":"1.0.0","runtimeConfig":{"portMappings":[{"hostPort":1,"containerPort":0}]}}"#,
            code::NETWORK_CONFIG,
        ),
    ] {
        let (code, message) = error_of(&run(&environment(&changes), stdin, nobody));
        assert_eq!(code, expected as u64, "{changes:?} {stdin}: {message}");
        assert!(!message.is_empty());
    }
}

#[test]
fn a_refusal_is_passed_on_and_a_missing_control_is_to_be_tried_again() {
    let refuse = |_: &Configuration, _| Err(Failure::new(code::ALREADY_ATTACHED, "twice"));
    assert_eq!(error_of(&run(&environment(&[]), CONFIGURATION, refuse)), (101, "twice".into()));
    let (code, message) = error_of(&run(&environment(&[]), CONFIGURATION, ask));
    assert_eq!(code, code::TRY_AGAIN as u64);
    assert!(message.contains("/run/x/control.sock") && message.contains("start it"), "{message}");
}

#[test]
fn version_answers_in_the_version_it_was_asked_in() {
    let outcome = run(&environment(&[("CNI_COMMAND", Some("VERSION"))]), r#"{"cniVersion":"1.0.0"}"#, nobody);
    let value: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(value, json!({"cniVersion": "1.0.0", "supportedVersions": VERSIONS}));
}

#[test]
fn gc_names_what_is_still_valid() {
    let stdin =
        r#"{"cniVersion":"1.1.0","name":"net","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]}"#;
    let seen = std::cell::RefCell::new(None);
    let ask = |_: &Configuration, request: Request| {
        seen.replace(Some(request));
        Ok(Value::Null)
    };
    assert_eq!(run(&environment(&[("CNI_COMMAND", Some("GC"))]), stdin, ask).code, 0);
    assert_eq!(seen.take(), Some(Request::CniGc { network: "net".into(), valid: vec![("a".into(), "eth0".into())] }));
}
