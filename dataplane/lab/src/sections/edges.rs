//! Section 3: the node and its pods, the node and services, the world outside.

use anyhow::Result;

use crate::agent::serve::HTTP_PORT;
use crate::lab;
use crate::report::Report;
use crate::sections::far_service;
use crate::stage::Stage;

pub fn play(stage: &mut Stage, report: &mut Report) -> Result<()> {
    node_and_pods(stage, report)?;
    outside(stage, report)
}

fn node_and_pods(stage: &Stage, report: &mut Report) -> Result<()> {
    let node = &stage.lab.nodes[0];
    let (web, far, alice) = (stage.lab.pod("web-1")?, stage.lab.pod("web-2")?, stage.lab.pod("alice")?);
    // What is no pod enters the pod network with an address that the node keeps for that.
    let reserved: Vec<String> = node.reserved_addresses()?.iter().map(ToString::to_string).collect();
    stage.curl_sees(report, "host -> its own pod", node.netns(), &web.url(), ("web-1", &reserved))?;
    stage.curl_sees(report, "host -> a pod of the other node", node.netns(), &far.url(), ("web-2", &reserved))?;
    let service = format!("http://{}/", far_service());
    let what = "host -> ClusterIP, backend on the other node";
    stage.curl_sees(report, what, node.netns(), &service, ("web-2", &reserved))?;
    let host = format!("http://{}:{HTTP_PORT}/", node.address());
    stage.curl_sees(report, "pod -> host", alice.netns(), &host, ("node-1", &[alice.address().to_string()]))
}

fn outside(stage: &Stage, report: &mut Report) -> Result<()> {
    let (alice, web) = (stage.lab.pod("alice")?, stage.lab.pod("web-1")?);
    let client = lab::client_address().to_string();
    stage.curl_sees(
        report,
        "client outside -> pod",
        stage.lab.client(),
        &web.url(),
        ("web-1", std::slice::from_ref(&client)),
    )?;
    let ping = stage.ping(stage.lab.client(), "-c 5 -i 0.05", web.address())?;
    report.exactly("ping client outside -> pod, answers", ping.received, 5);
    let url = format!("http://{client}:{HTTP_PORT}/");
    let node = stage.lab.nodes[0].address().to_string();
    stage.curl_sees(report, "pod -> client outside, masqueraded", alice.netns(), &url, ("client", &[node]))?;
    let ping = stage.ping(alice.netns(), "-c 5 -i 0.05", client)?;
    report.exactly("ping pod -> client outside, answers", ping.received, 5);
    Ok(())
}
