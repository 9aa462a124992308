//! Pages and objects as servers write them.

use super::*;
use serde_json::json;

#[test]
fn a_page_is_read_object_by_object_and_says_where_it_goes_on() {
    let pod = |name: &str| json!({ "metadata": { "namespace": "n", "name": name, "managedFields": [{ "x": [1] }] } });
    let list = json!({ "kind": "PodList", "metadata": { "resourceVersion": "7", "continue": "c" },
        "items": [pod("a"), pod("b")] });
    let page = page(Kind::Pod, &list.to_string()).unwrap();
    let names: Vec<String> = page.items.iter().map(|item| item.key.to_string()).collect();
    assert_eq!(
        (names, page.resource_version.as_str(), page.next.as_str()),
        (vec!["Pod n/a".into(), "Pod n/b".into()], "7", "c")
    );
    assert!(page.items.iter().all(|item| item.object.is_some() && item.problem.is_none()));
}

#[test]
fn lists_without_items_are_lists() {
    for text in [r#"{"items": null, "metadata": {"resourceVersion": "1"}}"#, r#"{"metadata": {}, "items": []}"#] {
        let page = page(Kind::Pod, text).unwrap();
        assert!(page.items.is_empty() && page.next.is_empty());
    }
    assert!(page(Kind::Pod, r#"{"items": {}}"#).is_err() && page(Kind::Pod, "oops").is_err());
}

#[test]
fn fields_of_a_newer_api_are_no_mistake_but_in_policies() {
    let newer = json!({ "metadata": { "namespace": "n", "name": "a" }, "spec": { "newer": 1 } });
    assert_eq!(item(Kind::Pod, &newer).unwrap().problem, None);
    let closed = item(Kind::NetworkPolicy, &newer).unwrap();
    assert!(closed.object.is_some());
    let told = closed.problem.unwrap();
    assert!(told.starts_with("NetworkPolicy n/a: spec.newer: is no field"), "{told}");
}

#[test]
fn what_cannot_be_read_is_named_and_what_has_no_name_is_nothing() {
    let wrong = json!({ "metadata": { "namespace": "n", "name": "a" }, "status": { "podIP": "nine" } });
    let Item { object, problem, .. } = item(Kind::Pod, &wrong).unwrap();
    assert_eq!(object, None);
    assert!(problem.unwrap().starts_with("Pod n/a: status.podIP: \"nine\""));
    assert!(item(Kind::Pod, &json!({ "metadata": { "name": "a" } })).is_none());
    assert_eq!(key(Kind::Node, &json!({ "metadata": { "name": "a" } })).unwrap().to_string(), "Node a");
}
