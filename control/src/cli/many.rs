//! `fairway explain --file`: one flow a line, as they would be typed, and a row for each. It must not judge.

use super::source::{Source, SourceError};
use super::table::Row;
use super::{Destination, parse_destination};
use crate::api::{QUESTIONS_MAX, Question, Request};
use crate::listing::ExplainView;
use serde::Serialize;
use std::io::{self, Read};
use std::path::Path;

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read {path}: {source}")]
    Read { path: String, source: io::Error },
    #[error("{path}:{line}: {message}")]
    Line { path: String, line: usize, message: String },
}

/// A flow and what would become of its first packet.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExplainRow {
    pub source: String,
    pub destination: String,
    #[serde(flatten)]
    pub told: ExplainView,
}

/// The questions of a file; `-` is standard input. Empty lines and those that begin with `#` say nothing.
pub fn read(path: &Path, source_port: u16, from: Option<&str>) -> Result<Vec<Question>, FileError> {
    let name = || path.display().to_string();
    let mut text = String::new();
    let read = match path.to_str() {
        Some("-") => io::stdin().read_to_string(&mut text).map(drop),
        _ => std::fs::read_to_string(path).map(|read| text = read),
    };
    read.map_err(|source| FileError::Read { path: name(), source })?;
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
    let flows = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let question = |(line, text): (usize, &str)| {
        let (src, to) = parse(text).map_err(|message| FileError::Line { path: name(), line, message })?;
        let Destination { addr: dst, port, protocol } = to;
        Ok(Question { src, dst, port, protocol, src_port: source_port, from: from.map(str::to_owned) })
    };
    flows.map(question).collect()
}

fn parse(text: &str) -> Result<(String, Destination), String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [source, destination] = words[..] else {
        return Err("SOURCE ADDRESS:PORT/PROTOCOL is expected".to_owned());
    };
    Ok((source.to_owned(), parse_destination(destination)?))
}

/// What would become of each.
pub fn explain(source: &Source, questions: &[Question]) -> Result<Vec<ExplainRow>, SourceError> {
    let mut rows = Vec::new();
    for some in questions.chunks(QUESTIONS_MAX) {
        let told: Vec<ExplainView> = match source {
            Source::Node(_) => source.ask(&Request::ExplainAll { questions: some.to_vec() })?,
            Source::Bundle(_) => some.iter().map(|question| source.explain(question)).collect::<Result<_, _>>()?,
        };
        rows.extend(some.iter().zip(told).map(|(question, told)| row(question, told)));
    }
    Ok(rows)
}

fn row(question: &Question, told: ExplainView) -> ExplainRow {
    let Question { src, dst, port, protocol, .. } = question;
    let destination =
        if protocol.starts_with("icmp") { format!("{dst}/{protocol}") } else { format!("{dst}:{port}/{protocol}") };
    ExplainRow { source: src.clone(), destination, told }
}

impl Row for ExplainRow {
    fn header(_: bool) -> Vec<&'static str> {
        vec!["SOURCE", "DESTINATION", "VERDICT", "REASON", "POLICY", "RULE", "SERVICE"]
    }

    fn cells(&self, _: bool) -> Vec<String> {
        let told = &self.told;
        let optional =
            [&told.reason, &told.policy, &told.rule, &told.service].map(|text| text.clone().unwrap_or("-".to_owned()));
        [self.source.clone(), self.destination.clone(), told.verdict.clone()].into_iter().chain(optional).collect()
    }
}
