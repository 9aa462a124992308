//! What the CLI tells of policies, on a running lab: what a change would do to the connections that there are, counters by
//! policy, what is odd.

use anyhow::{Context, Result, ensure};
use control::api::{self, Request};
use lab::agent::converse::Conversation;
use lab::process::Process;
use lab::shell::Cmd;
use lab::stage::harvest;
use lab::wait::{now_us, sleep_ms, until};
use lab::{Lab, Options, manifests};
use serde_json::Value;
use std::time::Duration;

const POLICY: &str = "friends-only";
const LIMIT: Duration = Duration::from_secs(5);

/// What `fairway` answers on the first node.
fn ask(lab: &Lab, arguments: &str) -> Result<Vec<Value>> {
    let ran = lab.nodes[0].fairway().run(&format!("{arguments} -o json"))?;
    serde_json::from_str(&ran.stdout).with_context(|| ran.stdout.clone())
}

/// (change, source pod, policy) of the flows that end at the server's echo.
fn diff(lab: &Lab, file: &str) -> Result<Vec<[String; 3]>> {
    diff_by(lab, &format!("-f {file}"))
}

fn diff_by(lab: &Lab, how: &str) -> Result<Vec<[String; 3]>> {
    let text = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_string();
    let rows = ask(lab, &format!("policies diff {how}"))?;
    let to_echo = rows.iter().filter(|row| text(row, "destination").ends_with(":7777"));
    Ok(to_echo.map(|row| ["change", "source_pod", "policy"].map(|field| text(row, field))).collect())
}

fn converse(lab: &Lab, from: &str) -> Result<Process> {
    let command = Cmd::new(lab.binaries().agent()).netns(lab.pod(from)?.netns());
    let to = lab.pod("web")?.echo();
    Process::spawn(&format!("converse-{from}"), &command.args(["converse", "--to", &to]), lab.directory())
}

fn last_echo_us(talk: Process) -> Result<u64> {
    let talk: Conversation = harvest(talk)?;
    Ok(talk.exchanges.last().context("nothing came back")?.echoed_us)
}

#[test]
fn a_change_tells_beforehand_whom_it_cuts_and_whom_it_admits_and_policies_tell_what_they_did() -> Result<()> {
    let _one = lab::one_at_a_time();
    let mut lab = Lab::start(&Options { workers: 2, uplink_queues: 2, ..Options::default() })?;
    lab.add_pod("web", 0, &[("app", "web")])?;
    lab.add_pod("alice", 0, &[("role", "friend")])?;
    lab.add_pod("mallory", 1, &[])?;
    lab.settle()?;
    let (alice, mallory) = (converse(&lab, "alice")?, converse(&lab, "mallory")?);
    sleep_ms(300);
    let new = lab.directory().join("new.yaml");
    std::fs::write(&new, manifests::friends_only(POLICY))?;
    let file = new.display().to_string();
    let name = format!("demo/{POLICY}");
    let is_cut = |rows: &[[String; 3]]| rows == [["cut".to_string(), "demo/mallory".to_string(), name.clone()]];
    let before = diff(&lab, &file)?;
    ensure!(is_cut(&before), "before the change: {before:?}");
    ensure!(ask(&lab, "policies")?.is_empty(), "something was applied");
    let asked_us = now_us();
    sleep_ms(200);
    lab.objects().apply("policy", &manifests::friends_only(POLICY))?;
    let applied_us = now_us();
    sleep_ms(500);
    // It was known, so that it is known what would bring it back.
    lab.objects().apply("policy", &manifests::friends_only(POLICY))?;
    let everybody = manifests::friends_only(POLICY)
        .replace("    - podSelector:\n        matchLabels:\n          role: friend\n", "    - podSelector: {}\n");
    std::fs::write(&new, &everybody)?;
    let admitted = diff(&lab, &file)?;
    ensure!(admitted == [["admitted".to_string(), "demo/mallory".to_string(), name.clone()]], "{admitted:?}");
    let deleted = diff_by(&lab, &format!("--delete {file}"))?;
    // Nothing judges it then, so that no policy is named.
    ensure!(deleted == [["admitted".to_string(), "demo/mallory".to_string(), String::new()]], "{deleted:?}");
    let replaced = diff_by(&lab, &format!("-d {file} -f {file}"))?;
    ensure!(replaced == admitted, "what is applied comes after what is deleted: {replaced:?}");
    counters(&lab)?;
    trial(&lab)?;
    lint(&lab)?;
    let (alice_us, mallory_us) = (last_echo_us(alice)?, last_echo_us(mallory)?);
    assert!(mallory_us > asked_us && mallory_us < applied_us + 100_000, "told, and cut only when it was applied");
    assert!(alice_us > applied_us + 300_000, "whom the change spares goes on");
    Ok(())
}

/// Everything names kind, namespace and name.
fn counters(lab: &Lab) -> Result<()> {
    let is_counted = || {
        let rows = ask(lab, "policies").unwrap_or_default();
        rows.iter().any(|row| row["name"] == POLICY && row["drops"].as_u64() > Some(0))
    };
    ensure!(until(LIMIT, is_counted), "no drops of the policy are listed");
    let ran = Cmd::line("curl -sS --max-time 2").arg(lab.pod("web")?.url()).netns(lab.pod("alice")?.netns()).ok()?;
    ensure!(ran.stdout.contains("web saw"), "{}", ran.stdout);
    let rows = ask(lab, "policies")?;
    ensure!(rows[0]["flows"].as_u64() > Some(0), "no flow was let in: {rows:?}");
    let text: String = api::ask(&lab.nodes[0].directory().join("run"), &Request::Metrics)?;
    for metric in ["policy_drops_total", "policy_flows_total"] {
        let line = format!(r#"fairway_{metric}{{kind="NetworkPolicy",namespace="demo",name="{POLICY}"}} "#);
        ensure!(text.contains(&line), "{line} is no metric");
    }
    let explained = lab.nodes[0].fairway().explain("demo/alice", &format!("{}:80/tcp", lab.pod("web")?.address()))?;
    ensure!(explained.policy.as_deref() == Some(&format!("demo/{POLICY}")), "{explained:?}");
    ensure!(explained.rule.as_deref() == Some("ingress[0]"), "{explained:?}");
    Ok(())
}

/// A policy that is only being tried cuts nothing, counts and says what it would.
fn trial(lab: &Lab) -> Result<()> {
    let tried = manifests::friends_only("tried")
        .replace("  name: tried\n", "  name: tried\n  annotations:\n    fairway.dev/policy-audit: \"true\"\n")
        .replace("role: friend", "role: nobody")
        .replace("app: web", "role: friend");
    lab.objects().apply("policy-tried", &tried)?;
    let url = lab.pod("alice")?.url();
    let is_counted = || {
        let ran = Cmd::line("curl -sS --max-time 2").arg(&url).netns(lab.pod("mallory").expect("a pod").netns()).run();
        let is_let_in = ran.is_ok_and(|ran| ran.stdout.contains("alice saw"));
        let rows = ask(lab, "policies").unwrap_or_default();
        is_let_in && rows.iter().any(|row| row["name"] == "tried" && row["audited"].as_u64() > Some(0))
    };
    ensure!(until(LIMIT, is_counted), "what a policy on trial would keep away is not counted");
    let explained = lab.nodes[0].fairway().explain(&lab.pod("mallory")?.address().to_string(), "demo/alice:80/tcp")?;
    ensure!(
        (explained.verdict.as_str(), explained.policy.as_deref()) == ("forward", Some("demo/tried")),
        "{explained:?}"
    );
    ensure!(explained.reason.as_deref() == Some("PolicyAudit"), "{explained:?}");
    let log = lab.nodes[0].directory().join("control.log");
    let is_said = || {
        std::fs::read_to_string(&log)
            .is_ok_and(|text| text.contains("policy on trial: demo/tried would have kept away"))
    };
    ensure!(until(2 * LIMIT, is_said), "the log does not say it");
    lab.objects().delete("policy-tried").map(drop)
}

fn lint(lab: &Lab) -> Result<()> {
    let is_clean = || ask(lab, "policies --lint").is_ok_and(|rows| rows.is_empty());
    ensure!(until(LIMIT, is_clean), "{:?}", ask(lab, "policies --lint")?);
    lab.objects().apply("policy-ghost", &manifests::friends_only("ghost").replace("app: web", "app: ghost"))?;
    let is_found = || {
        let rows = ask(lab, "policies --lint").unwrap_or_default();
        rows.len() == 1 && rows[0]["name"] == "ghost" && rows[0]["finding"] == "selects no pod"
    };
    ensure!(until(LIMIT, is_found), "a policy that selects nobody is not pointed out");
    Ok(())
}
