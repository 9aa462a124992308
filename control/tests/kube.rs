//! The Kubernetes API as the source of objects: the real client against a list/watch server that is written from the API's
//! documentation. Each test ends with what the client said being what the server has.

#[path = "kube/doctor.rs"]
mod doctor;
#[path = "kube/lease.rs"]
mod lease;
#[path = "kube/memory.rs"]
mod memory;
#[path = "kube/secure.rs"]
mod secure;
#[path = "kube/server.rs"]
mod server;
#[path = "kube/single.rs"]
mod single;
#[path = "kube/store.rs"]
mod store;
#[path = "kube/world.rs"]
mod world;

use control::kube::Order;
use control::object::{Kind, Named, Object};
use control::source::Reach;
use serde_json::json;
use std::time::{Duration, Instant};
use world::*;

fn play(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

fn fill(world: &World) {
    let mut store = world.server.store();
    store.put(NODES, node("a", 1));
    store.put(NAMESPACES, namespace("demo"));
    store.put(PODS, pod("web", "10.1.1.5"));
    store.put(SERVICES, service("web", 80));
    store.put(SLICES, slice("web-1", "10.1.1.5"));
    store.put(POLICIES, policy("all", "10.0.0.0/8"));
}

#[test]
fn every_kind_is_read_and_then_followed() {
    play(async {
        let mut world = World::new().await;
        fill(&world);
        world.until_watched().await;
        assert_eq!(world.objects.len(), 6);
        {
            let mut store = world.server.store();
            store.put(SERVICES, service("web", 81));
            store.put(PODS, pod("other", "10.1.1.6"));
            store.delete(POLICIES, "demo/all");
            store.delete(NODES, "/a");
        }
        world.until_same().await;
        assert_eq!(world.deleted.len(), 2);
        world.until_connected().await;
    });
}

#[test]
fn nothing_is_complete_while_one_kind_cannot_be_read() {
    play(async {
        let mut world = World::new().await;
        let forbidden = (403, "Forbidden", "networkpolicies.networking.k8s.io is forbidden: no".to_owned());
        world.server.faults().refuse.insert(POLICIES.to_owned(), vec![forbidden; 10]);
        fill(&world);
        let why = world.until_failing().await;
        assert!(why.contains("NetworkPolicy") && why.contains("is forbidden: no (403)"), "{why}");
        world.until("all but policies", |world| world.objects.len() == 5).await;
        assert!(!world.is_complete);
        world.until_watched().await;
    });
}

#[test]
fn a_list_of_many_pages_is_as_of_one_moment_and_what_changes_meanwhile_comes_after_it() {
    play(async {
        let mut world = World::new().await;
        (10..45).for_each(|i| world.server.store().put(SERVICES, service(&format!("s{i}"), 80)));
        let act = |store: &mut store::Store| {
            store.put(SERVICES, service("s10", 8080));
            store.put(SERVICES, service("s44", 8080));
            store.delete(SERVICES, "demo/s11");
            store.delete(SERVICES, "demo/s43");
            store.put(SERVICES, service("s99", 80));
        };
        world.server.faults().after_page.insert(SERVICES.to_owned(), Box::new(act));
        world.until_watched().await;
        assert_eq!(world.objects.len(), 34);
        let requests = world.server.faults().requests.clone();
        let pages = requests.iter().filter(|r| r.starts_with(SERVICES) && r.contains("limit=10")).count();
        assert_eq!(pages, 4, "{requests:?}");
    });
}

#[test]
fn a_list_that_expires_between_pages_is_read_again_and_takes_nothing_away_early() {
    play(async {
        let mut world = World::new().await;
        (10..45).for_each(|i| world.server.store().put(SERVICES, service(&format!("s{i}"), 80)));
        world.until_watched().await;
        // All watches expire, and so does the list that follows, after its first page.
        let act = |store: &mut store::Store| {
            store.delete(SERVICES, "demo/s10");
            store.compact();
        };
        world.server.faults().after_page.insert(SERVICES.to_owned(), Box::new(act));
        world.server.expire_watches();
        world.until("the one that is gone", |world| !world.deleted.is_empty()).await;
        world.until_same().await;
        assert_eq!(world.deleted, [key(Kind::Service, "demo/s10")]);
        assert_eq!(world.server.lists_begun(SERVICES), 3);
    });
}

#[test]
fn watches_that_end_go_on_where_they_were() {
    play(async {
        let mut world = World::new().await;
        fill(&world);
        world.until_watched().await;
        for round in 0..6 {
            world.server.store().put(PODS, pod("web", &format!("10.1.1.{}", 10 + round)));
            world.server.cut_watches(round % 2 == 0);
            world.server.store().put(SERVICES, service("web", 100 + round));
            world.until_same().await;
        }
        for collection in BUILT_IN {
            assert_eq!(world.server.lists_begun(collection), 1, "{collection}");
        }
        assert_eq!(world.deleted, []);
    });
}

#[test]
fn a_bookmark_saves_a_new_list() {
    play(async {
        for has_bookmark in [true, false] {
            let mut world = World::new().await;
            fill(&world);
            world.until_watched().await;
            // Nodes stay as they are while much else changes.
            (0..20).for_each(|i| world.server.store().put(PODS, pod("web", &format!("10.1.1.{}", 20 + i))));
            world.until_same().await;
            if has_bookmark {
                world.server.bookmark();
                // Seen once something comes after it.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            world.server.store().compact();
            world.server.cut_watches(false);
            world.server.store().put(NODES, node("b", 2));
            world.until_same().await;
            let lists = if has_bookmark { 1 } else { 2 };
            assert_eq!(world.server.lists_begun(NODES), lists, "bookmark {has_bookmark}");
            assert_eq!(world.deleted, []);
        }
    });
}

#[test]
fn a_watch_that_cannot_go_on_lists_again_and_only_what_is_gone_goes() {
    play(async {
        for by_event in [true, false] {
            let mut world = World::new().await;
            world.server.faults().expires_by_event = by_event;
            (10..45).for_each(|i| world.server.store().put(SERVICES, service(&format!("s{i}"), 80)));
            world.until_watched().await;
            world.server.faults().held.insert(SERVICES.to_owned());
            {
                let mut store = world.server.store();
                store.delete(SERVICES, "demo/s20");
                store.put(SERVICES, service("s21", 81));
                store.compact();
            }
            world.server.cut_watches(false);
            world.server.release();
            world.until_same().await;
            assert_eq!(world.deleted, [key(Kind::Service, "demo/s20")], "by event: {by_event}");
            assert_eq!(world.server.lists_begun(SERVICES), 2);
        }
    });
}

#[test]
fn a_server_that_is_gone_is_said_and_changes_nothing_until_it_is_back() {
    play(async {
        let mut world = World::new().await;
        fill(&world);
        world.until_watched().await;
        world.until_connected().await;
        let (before, begun) = (world.objects.clone(), Instant::now());
        world.server.stop().await;
        let is_refused = |why: &str| why.contains("refused");
        world.until("refused", |w| matches!(&w.reach, Some(Reach::Failing { why, .. }) if is_refused(why))).await;
        let Some(Reach::Failing { since, .. }) = world.reach else { panic!() };
        assert!(since >= begun && world.is_complete && world.objects == before && world.deleted.is_empty());
        // Meanwhile one goes, one comes and one changes; the server forgets how.
        {
            let mut store = world.server.store();
            store.delete(SERVICES, "demo/web");
            store.put(SERVICES, service("new", 80));
            store.put(PODS, pod("web", "10.1.1.99"));
            store.compact();
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.server.start_again().await;
        world.until_same().await;
        world.until_connected().await;
        assert_eq!(world.deleted, [key(Kind::Service, "demo/web")]);
    });
}

#[test]
fn a_server_that_is_slow_is_waited_for() {
    play(async {
        let mut world = World::new().await;
        fill(&world);
        world.server.faults().delay = Duration::from_millis(700);
        let why = world.until_failing().await;
        assert!(why.contains("in time"), "{why}");
        world.server.faults().delay = Duration::from_millis(200);
        world.until_complete().await;
        world.until_connected().await;
        world.until_same().await;
    });
}

#[test]
fn kinds_come_in_any_order() {
    play(async {
        let mut world = World::new().await;
        world.until_complete().await;
        world.until_connected().await;
        for held in [[NODES, PODS], [SLICES, SERVICES], [POLICIES, NAMESPACES]] {
            world.server.faults().held.extend(held.map(str::to_owned));
            fill(&world);
            let rest = 4;
            world.until("those that are not held", |world| world.objects.len() >= rest).await;
            world.server.release();
            world.until_same().await;
            for collection in BUILT_IN {
                let names = world.server.store().names(collection);
                names.iter().for_each(|name| world.server.store().delete(collection, name));
            }
            world.until("all gone", |world| world.objects.is_empty()).await;
        }
    });
}

#[test]
fn a_mistake_is_named_by_object_and_field_and_closes_or_changes_nothing() {
    play(async {
        let mut world = World::new().await;
        fill(&world);
        world.until_watched().await;
        let service_key = key(Kind::Service, "demo/web");
        let before = world.objects[&service_key].clone();
        let mut wrong = service("web", 80);
        wrong["spec"]["ports"][0]["port"] = 70000.into();
        world.server.store().put(SERVICES, wrong);
        let mut open = policy("all", "10.0.0.0/8");
        open["spec"]["ingress"][0]["form"] = open["spec"]["ingress"][0]["from"].take();
        world.server.store().put(POLICIES, open);
        world.until("both problems", |world| world.problems.len() == 2).await;
        assert!(world.problems[0].starts_with("Service demo/web: spec.ports[0].port: 70000"), "{:?}", world.problems);
        assert!(world.problems[1].starts_with("NetworkPolicy demo/all: spec.ingress[0].form"), "{:?}", world.problems);
        assert_eq!(world.objects[&service_key], before);
        let Object::NetworkPolicy(closed) = &world.objects[&key(Kind::NetworkPolicy, "demo/all")] else { panic!() };
        assert_eq!(closed.rules, [Some(vec![]), None]);
        // A new list finds the same mistakes, and what is right again is said to be.
        world.server.expire_watches();
        world.server.store().put(SERVICES, service("web", 81));
        world.server.store().delete(POLICIES, "demo/all");
        world.until("no problem", |world| world.problems.is_empty()).await;
        world.until_same().await;
    });
}

#[test]
fn kinds_that_are_installed_later_are_found_and_a_moments_absence_takes_no_policy_away() {
    play(async {
        let mut world = World::new().await;
        fill(&world);
        world.until_complete().await;
        world.server.store().install(CLUSTER_POLICIES);
        world.server.store().put(CLUSTER_POLICIES, cluster_policy("deny"));
        world.until_watched().await;
        // Not to be found for a moment, as while a server starts.
        let absent = (404, "NotFound", "the server could not find the requested resource".to_owned());
        world.server.faults().refuse.insert(CLUSTER_POLICIES.to_owned(), vec![absent; 2]);
        world.server.cut_watches(false);
        world.until_failing().await;
        world.until_connected().await;
        assert_eq!(world.deleted, []);
        world.server.store().uninstall(CLUSTER_POLICIES);
        world.server.cut_watches(false);
        world.until_same().await;
        assert_eq!(world.deleted.len(), 1);
        world.until_connected().await;
    });
}

/// A server that breaks in every way at once, and still says the truth in the end.
#[test]
fn whatever_goes_wrong_the_end_is_the_same() {
    play(async {
        let mut world = World::new().await;
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for _ in 0..60 {
            for _ in 0..random.below(12) {
                change(&world, &mut random);
            }
            break_something(&mut world, &mut random).await;
            if random.below(4) == 0 {
                world.until_same().await;
            }
        }
        world.server.faults().refuse.clear();
        world.server.release();
        world.until_complete().await;
        world.until_connected().await;
        world.until_same().await;
        let alive = world.truth();
        assert!(!alive.is_empty());
    });
}

#[test]
fn a_start_without_the_server_takes_the_last_state_and_what_went_meanwhile_goes_later() {
    play(async {
        let mut world = World::new().await;
        fill(&world);
        world.until_watched().await;
        world.server.store().put(SERVICES, service("second", 80));
        world.until_same().await;
        world.server.stop().await;
        let before = world.objects.clone();
        let mut world = world.restart();
        world.until_complete().await;
        assert_eq!(world.objects, before);
        world.until_failing().await;
        assert!(world.problems[0].contains("objects.jsonl"), "{:?}", world.problems);
        {
            let mut store = world.server.store();
            store.delete(SERVICES, "demo/web");
            store.delete(POLICIES, "demo/all");
            store.put(PODS, pod("web", "10.1.1.77"));
        }
        world.server.start_again().await;
        world.until_watched().await;
        world.until_connected().await;
        assert_eq!((world.deleted.len(), world.problems.len()), (2, 0), "{:?}", world.problems);
        // A server that answers is believed from the start, even if it is slow to say everything.
        world.server.store().delete(SERVICES, "demo/second");
        world.until_same().await;
        let forbidden = (403, "Forbidden", "no".to_owned());
        world.server.faults().refuse.insert(PODS.to_owned(), vec![forbidden; 8]);
        let mut world = world.restart();
        world.until_complete().await;
        world.until_same().await;
        assert_eq!(world.deleted, []);
    });
}

#[test]
fn what_is_written_back_stands_there_and_leaves_the_rest_as_it_was() {
    play(async {
        let mut world = World::new().await;
        fill(&world);
        let mut tainted = node("a", 1);
        let other = json!({ "key": "other", "effect": "NoSchedule" });
        tainted["spec"]["taints"] =
            json!([{ "key": "node.kubernetes.io/network-unavailable", "effect": "NoSchedule" }, other]);
        tainted["status"]["conditions"] = json!([{ "type": "Ready", "status": "True" },
            { "type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated" }]);
        let mut balanced = service("web", 80);
        balanced["spec"]["type"] = json!("LoadBalancer");
        world.server.store().put(NODES, tainted);
        world.server.store().put(SERVICES, balanced);
        world.until_watched().await;
        let writer = world.cluster.writer().clone();

        let addr: tables::Addr = "198.51.100.7".parse().unwrap();
        let statuses = ["web", "gone"].map(|name| (Named::new("demo", name), vec![addr]));
        writer.write(Order::Statuses(statuses.to_vec())).await.unwrap();
        world.until_same().await;
        let Object::Service(web) = &world.objects[&key(Kind::Service, "demo/web")] else { panic!() };
        assert_eq!((&web.load_balancer_ips, web.ports[0].port), (&vec![addr], 80));
        writer.write(Order::Statuses(vec![(Named::new("demo", "web"), vec![])])).await.unwrap();
        world.until_same().await;
        let Object::Service(web) = &world.objects[&key(Kind::Service, "demo/web")] else { panic!() };
        assert_eq!(web.load_balancer_ips, []);

        let networked = || Order::Networked { node: "a".to_owned() };
        writer.write(networked()).await.unwrap();
        let (said, version) = {
            let store = world.server.store();
            (store.get(NODES, "/a").unwrap().clone(), store.version)
        };
        assert_eq!(said["spec"]["taints"], json!([other]));
        let conditions = said["status"]["conditions"].as_array().unwrap();
        assert_eq!((conditions.len(), &conditions[0]["type"]), (2, &json!("Ready")));
        assert_eq!(conditions[1]["status"], "False");
        assert!(said["status"]["addresses"].is_array() && said["spec"]["podCIDRs"].is_array());
        // What stands there already is not written again.
        writer.write(networked()).await.unwrap();
        assert_eq!(world.server.store().version, version);
        let why = writer.write(Order::Networked { node: "none".to_owned() }).await.unwrap_err();
        assert!(why.contains("not found (404)"), "{why}");
    });
}

struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

fn change(world: &World, random: &mut Random) {
    let (name, number) = (format!("x{}", random.below(30)), random.below(200) as u8 + 1);
    let mut store = world.server.store();
    let namespaced = format!("demo/{name}");
    match random.below(8) {
        0 => store.put(PODS, pod(&name, &format!("10.1.1.{number}"))),
        1 | 2 => store.put(SERVICES, service(&name, number.into())),
        3 => store.put(SLICES, slice(&name, &format!("10.1.1.{number}"))),
        4 => store.put(POLICIES, policy(&name, &format!("10.{number}.0.0/16"))),
        5 => store.put(NODES, node(&name, number)),
        6 => store.delete(SERVICES, &namespaced),
        _ => store.delete(PODS, &namespaced),
    }
}

async fn break_something(world: &mut World, random: &mut Random) {
    match random.below(8) {
        0 => world.server.cut_watches(true),
        1 => world.server.cut_watches(false),
        2 => world.server.expire_watches(),
        3 => world.server.store().compact(),
        4 => world.server.bookmark(),
        5 => {
            let busy = (429, "TooManyRequests", "later".to_owned());
            let broken = (500, "InternalError", "etcdserver: leader changed".to_owned());
            world.server.faults().refuse.insert(SERVICES.to_owned(), vec![busy, broken]);
            world.server.cut_watches(false);
        }
        6 => {
            world.server.faults().after_page.insert(SERVICES.to_owned(), Box::new(|store| store.compact()));
            world.server.expire_watches();
        }
        _ => {
            world.server.stop().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            world.server.start_again().await;
        }
    }
}

#[test]
fn ten_thousand_services_are_read_in_good_time() {
    play(async {
        let mut world = World::new().await;
        (0..10_000).for_each(|i| world.server.store().put(SERVICES, service(&format!("s{i}"), 80)));
        let World { server, .. } = world;
        let begun = Instant::now();
        world = World::of(server, control::kube::Timing::default());
        world.until_complete().await;
        let took = begun.elapsed();
        println!("10,000 services in {took:?}, {} updates' puts", world.puts);
        assert_eq!(world.objects.len(), 10_000);
        assert!(took < Duration::from_secs(20), "{took:?}");
        world.until_watched().await;
        // Listed again: the same, and nothing goes.
        world.server.expire_watches();
        world.server.store().put(SERVICES, service("s1", 81));
        world.until_same().await;
        assert_eq!(world.deleted, []);
    });
}
