//! What `fairway doctor` asks of an API server: quiet where all is well, and each fault by its name.

use super::world::{World, node};
use super::{fill, play};
use control::doctor::{Diagnosis, api};
use control::kube;

async fn ask(world: &World) -> (Diagnosis, usize) {
    let at = kube::Server::plain(format!("http://{}", world.server.addr).parse().unwrap());
    let mut diagnosis = Diagnosis::default();
    let nodes = api::check(&at, &mut diagnosis).await;
    (diagnosis, nodes.len())
}

fn one(diagnosis: &Diagnosis) -> (&'static str, &str) {
    assert_eq!(diagnosis.findings.len(), 1, "{:?}", diagnosis.findings);
    (diagnosis.findings[0].check, &diagnosis.findings[0].what)
}

#[test]
fn a_server_that_is_well_is_reported_and_every_permission_is_asked_for() {
    play(async {
        let world = World::new().await;
        fill(&world);
        let (diagnosis, nodes) = ask(&world).await;
        assert_eq!((diagnosis.findings.as_slice(), nodes), (&[][..], 1));
        assert!(diagnosis.facts[0].what.contains("v1.0.0-tests"), "{:?}", diagnosis.facts);
        let reviews = world.server.faults().reviews.clone();
        assert_eq!(reviews.len(), api::permissions().len());
        for review in ["watch pods", "patch services/status", "get nodes", "update leases"] {
            assert!(reviews.iter().any(|asked| asked == review), "{review} in {reviews:?}");
        }
    });
}

#[test]
fn permissions_that_lack_are_named() {
    play(async {
        let world = World::new().await;
        fill(&world);
        world.server.faults().denied.extend(["watch pods", "patch services/status"].map(str::to_owned));
        let (diagnosis, _) = ask(&world).await;
        assert_eq!(
            one(&diagnosis),
            ("permissions", "the API server does not allow: watch pods, patch services/status")
        );
    });
}

#[test]
fn clocks_that_differ_are_told() {
    play(async {
        let world = World::new().await;
        world.server.store().put(super::NODES, node("a", 1));
        world.server.faults().date = Some("Sun, 01 Mar 2020 12:00:00 GMT".to_owned());
        let (diagnosis, _) = ask(&world).await;
        let (check, what) = one(&diagnosis);
        assert!(check == "clock" && what.contains("ahead of the API server's"), "{what}");
    });
}

#[test]
fn a_server_that_is_not_there_is_told_with_the_reason() {
    play(async {
        let mut world = World::new().await;
        world.server.stop().await;
        let (diagnosis, nodes) = ask(&world).await;
        let (check, what) = one(&diagnosis);
        assert!(check == "api" && what.contains("refused") && nodes == 0, "{what}");
    });
}
