//! `fairway policies`: with what each kept away; what is odd about them; what a change would do. It must not judge.

use super::source::Source;
use super::table::Row;
use super::{Cli, Failed, absolute, asks, list};
use crate::api::Request;
use crate::listing::{FlowChange, LintView, PolicyView};
use clap::{Args, Subcommand};
use std::io::Write;
use std::path::PathBuf;

#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Policies {
    /// What their authors may not have meant: policies that select nobody, rules that are never reached, ports that no pod
    /// has.
    #[arg(long)]
    pub lint: bool,
    #[command(subcommand)]
    pub command: Option<PoliciesCommand>,
}

#[derive(Clone, Debug, Subcommand)]
pub enum PoliciesCommand {
    /// Which of the flows that are there now a change would cut, or admit again; nothing is applied.
    Diff {
        /// Objects as they would be applied: policies, or namespaces and pods with other labels.
        #[arg(short, long, required_unless_present = "delete")]
        file: Option<PathBuf>,
        /// Objects that would be deleted; only kind, namespace and name count. What is to be applied comes after.
        #[arg(short, long, value_name = "FILE")]
        delete: Option<PathBuf>,
    },
}

pub fn run(cli: &Cli, source: &Source, policies: &Policies, out: &mut dyn Write) -> Result<(), Failed> {
    match &policies.command {
        Some(PoliciesCommand::Diff { file, delete }) => {
            let [file, delete] = [file, delete].map(|path| path.as_deref().map(absolute).transpose());
            let request = Request::PoliciesDiff { file: file?, delete: delete? };
            list::<FlowChange>(cli, out, asks(source, request))
        }
        None if policies.lint => list::<LintView>(cli, out, asks(source, Request::PoliciesLint)),
        None => list::<PolicyView>(cli, out, asks(source, Request::Policies)),
    }
}

fn or_dash(text: &Option<String>) -> String {
    text.clone().unwrap_or_else(|| "-".to_owned())
}

impl Row for FlowChange {
    fn header(_: bool) -> Vec<&'static str> {
        vec!["CHANGE", "PROTOCOL", "SOURCE", "POD", "DESTINATION", "POD", "BY", "POLICY", "RULE", "PACKETS"]
    }

    fn cells(&self, _: bool) -> Vec<String> {
        vec![
            self.change.clone(),
            self.protocol.clone(),
            self.source.clone(),
            or_dash(&self.source_pod),
            self.destination.clone(),
            or_dash(&self.destination_pod),
            self.direction.clone(),
            or_dash(&self.policy),
            or_dash(&self.rule),
            self.packets.to_string(),
        ]
    }
}

impl Row for LintView {
    fn header(_: bool) -> Vec<&'static str> {
        vec!["NAMESPACE", "NAME", "KIND", "RULE", "FINDING"]
    }

    fn cells(&self, _: bool) -> Vec<String> {
        let namespace = if self.namespace.is_empty() { "-".to_owned() } else { self.namespace.clone() };
        vec![namespace, self.name.clone(), self.kind.clone(), or_dash(&self.rule), self.finding.clone()]
    }

    fn namespace(&self) -> Option<&str> {
        (!self.namespace.is_empty()).then_some(&self.namespace)
    }
}
