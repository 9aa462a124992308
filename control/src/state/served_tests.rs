use super::*;

fn name(text: &str) -> Named {
    Named::new("a", text)
}

fn service(id: &str) -> Service {
    Service { id: name(id).into(), ..Service::default() }
}

fn slice(id: &str, service: &str) -> EndpointSlice {
    EndpointSlice { id: name(id).into(), service: Some(service.to_owned()), ports: Vec::new(), endpoints: Vec::new() }
}

fn slices(services: &Services, service: &str) -> Vec<String> {
    let number = services.number(&name(service)).unwrap();
    services.at(number).slices.iter().map(|slice| slice.id.name.clone()).collect()
}

#[test]
fn a_number_is_given_anew_only_once_all_of_its_service_is_gone_and_forgotten() {
    let mut services = Services::default();
    let web = services.put(service("web"));
    assert_eq!(services.put_slice(slice("web-1", "web")), [None, Some(web)]);
    assert_eq!(services.remove(&name("web")), Some(web));
    assert_eq!(services.take_gone(), [] as [Number; 0], "its slice is there");
    assert_eq!(services.remove_slice(&name("web-1")), Some(web));
    let gone = services.take_gone();
    assert_ne!(services.put(service("api")), web, "those who have to know do not yet");
    services.forget(gone);
    assert_eq!(services.number(&name("web")), None);
    assert_eq!(services.put(service("db")), web);
    assert_eq!(services.len(), 2);
}

#[test]
fn a_service_that_is_back_keeps_its_number() {
    let mut services = Services::default();
    let web = services.put(service("web"));
    services.remove(&name("web"));
    services.put(service("web"));
    let gone = services.take_gone();
    services.forget(gone);
    assert_eq!(services.number(&name("web")), Some(web));
    assert_ne!(services.put(service("api")), web);
}

#[test]
fn slices_stay_in_the_order_in_which_they_came() {
    let mut services = Services::default();
    for id in ["x", "y", "z"] {
        services.put_slice(slice(id, "web"));
    }
    services.put_slice(EndpointSlice { ports: Vec::new(), ..slice("y", "web") });
    assert_eq!(slices(&services, "web"), ["x", "y", "z"]);
    let [before, after] = services.put_slice(slice("x", "api"));
    assert_eq!((before, after), (services.number(&name("web")), services.number(&name("api"))));
    assert_eq!((slices(&services, "web"), slices(&services, "api")), (vec!["y".into(), "z".into()], vec!["x".into()]));
    assert_eq!(services.slices_len(), 3);
}
