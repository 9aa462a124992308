//! Commands that mend what was found, each with the one that undoes it; done for `--apply`, and undone when that ends.

use serde::{Serialize, Serializer};
use std::io;
use std::process::Command;

#[derive(Debug, thiserror::Error)]
pub enum FixError {
    #[error("cannot run `{command}`: {source}")]
    Run { command: String, source: io::Error },
    #[error("`{command}` failed: {said}")]
    Failed { command: String, said: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fix {
    #[serde(serialize_with = "line")]
    pub command: Vec<String>,
    #[serde(serialize_with = "line")]
    pub undo: Vec<String>,
}

fn line<S: Serializer>(words: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&words.join(" "))
}

impl Fix {
    /// As one would type them.
    pub fn new(command: String, undo: String) -> Fix {
        let words = |line: String| line.split(' ').map(str::to_owned).collect();
        Fix { command: words(command), undo: words(undo) }
    }
}

fn run(words: &[String]) -> Result<(), FixError> {
    let command = words.join(" ");
    let output = Command::new(&words[0]).args(&words[1..]).output();
    let output = output.map_err(|source| FixError::Run { command: command.clone(), source })?;
    if output.status.success() {
        return Ok(());
    }
    Err(FixError::Failed { command, said: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
}

/// What was done, until it is undone.
pub struct Applied(Vec<Fix>);

/// All or none.
pub fn apply(fixes: &[Fix]) -> Result<Applied, FixError> {
    let mut applied = Applied(Vec::new());
    for fix in fixes {
        if let Err(error) = run(&fix.command) {
            let _ = applied.undo();
            return Err(error);
        }
        applied.0.push(fix.clone());
    }
    Ok(applied)
}

impl Applied {
    /// The last one first; one that fails does not keep the others from it.
    pub fn undo(self) -> Result<(), FixError> {
        let outcomes: Vec<_> = self.0.iter().rev().map(|fix| run(&fix.undo)).collect();
        outcomes.into_iter().collect()
    }
}
