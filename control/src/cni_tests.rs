use super::*;

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
        netns: None,
        namespace: String::new(),
        pod: String::new(),
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
        (vec![("CNI_COMMAND", Some("GC"))], CONFIGURATION, code::NETWORK_CONFIG),
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
    assert_eq!(value, json!({"cniVersion": "1.0.0", "supportedVersions": ["1.0.0", "1.1.0"]}));
}

#[test]
fn gc_names_what_is_still_valid() {
    let stdin = r#"{"cniVersion":"1.1.0","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]}"#;
    let seen = std::cell::RefCell::new(None);
    let ask = |_: &Configuration, request: Request| {
        seen.replace(Some(request));
        Ok(Value::Null)
    };
    assert_eq!(run(&environment(&[("CNI_COMMAND", Some("GC"))]), stdin, ask).code, 0);
    assert_eq!(seen.take(), Some(Request::CniGc { valid: vec![("a".into(), "eth0".into())] }));
}
