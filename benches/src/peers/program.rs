//! A peer that is a program of its own (benches/peers): started, asked for one run after the other, ended. The lines it
//! speaks are described in benches/peers/peer.h. Must not know what it looks up.

use crate::case::{Case, Cost};
use anyhow::{Context, Result, anyhow, ensure};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// Longest wait for an answer: the biggest structure is built in some seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running program.
pub struct Program {
    name: String,
    child: Child,
    requests: ChildStdin,
    answers: Receiver<String>,
    bytes: u64,
    /// Of all its answers.
    pub sum: u64,
}

/// Where `make bench` puts the programs.
fn folder() -> PathBuf {
    std::env::var_os("FAIRWAY_PEERS").map_or_else(|| crate::program::out().join("peers"), PathBuf::from)
}

impl Program {
    /// Starts `name` and waits until it is ready.
    pub fn start(name: &str, arguments: &[String]) -> Result<Program> {
        let path = folder().join(name);
        let mut child = Command::new(&path)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| {
                let path = path.display();
                format!(
                    "{path} does not start: `make bench` builds it (it needs libdpdk-dev), FAIRWAY_PEERS says where"
                )
            })?;
        let requests = child.stdin.take().context("no pipe to the program")?;
        let answers = lines(child.stdout.take().context("no pipe from the program")?);
        let name = format!("{name} {}", arguments.join(" "));
        let mut program = Program { name, child, requests, answers, bytes: 0, sum: 0 };
        let [bytes, sum] = program.numbers("ready ")?;
        (program.bytes, program.sum) = (bytes, sum);
        Ok(program)
    }

    /// The next line: two numbers after `prefix`.
    fn numbers<T: std::str::FromStr>(&mut self, prefix: &str) -> Result<[T; 2]> {
        let Ok(line) = self.answers.recv_timeout(PATIENCE) else { return Err(self.failed()) };
        let mut numbers = line.strip_prefix(prefix).into_iter().flat_map(str::split_whitespace).map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(one)), Some(Ok(other))) => Ok([one, other]),
            _ => Err(anyhow!("{} said {line:?} instead of two numbers: rebuild it with `make bench`", self.name)),
        }
    }

    /// Why there is no answer, as it said itself.
    fn failed(&mut self) -> anyhow::Error {
        let ended = matches!(self.child.try_wait(), Ok(Some(_)));
        // Only ours, and only now: its stderr ends with it.
        let _ = self.child.kill();
        let status = self.child.wait().map_or("lost".to_owned(), |status| status.to_string());
        let mut said = String::new();
        let _ = self.child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut said));
        let said = said.lines().next_back().unwrap_or("it said nothing").to_owned();
        let what = if ended { format!("ended, {status}") } else { format!("gave no answer in {PATIENCE:?}") };
        anyhow!("{} {what}: {said}", self.name)
    }
}

fn lines(stdout: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    receiver
}

impl Case for Program {
    fn run(&mut self) -> Result<Cost> {
        if writeln!(self.requests, "run").and_then(|()| self.requests.flush()).is_err() {
            return Err(self.failed());
        }
        let [ns, ticks] = self.numbers("")?;
        ensure!(ns > 0.0, "{} says that an operation took no time", self.name);
        Ok(Cost { ns, ticks })
    }

    fn bytes(&self) -> Option<u64> {
        Some(self.bytes)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The system's shell stands for the program.
    fn shell(script: &str) -> Result<Program> {
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (requests, answers) = (child.stdin.take().unwrap(), lines(child.stdout.take().unwrap()));
        Ok(Program { name: "sh".into(), child, requests, answers, bytes: 0, sum: 0 })
    }

    #[test]
    fn a_program_is_asked_once_for_each_run() {
        let mut program = shell("n=1; while read line; do echo $n.5 $n; n=$((n+1)); done").unwrap();
        assert_eq!(program.run().unwrap(), Cost { ns: 1.5, ticks: 1.0 });
        assert_eq!(program.run().unwrap(), Cost { ns: 2.5, ticks: 2.0 });
    }

    #[test]
    fn what_it_said_last_is_the_reason() {
        let mut program = shell("echo first >&2; echo no huge pages >&2; exit 3").unwrap();
        let error = program.run().unwrap_err().to_string();
        assert!(error.contains("no huge pages"), "{error}");
    }

    #[test]
    fn nonsense_is_no_figure() {
        let mut program = shell("read line; echo EAL: hello").unwrap();
        assert!(program.run().unwrap_err().to_string().contains("instead of two numbers"));
    }
}
