//! Runs one program to its end, under a time limit, and keeps what it said.
//!
//! The text of a command is what a user would type for the same effect. Nothing here decides
//! whether an outcome is good: that is the caller's.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::netns::Netns;

/// What `timeout` answers when it had to end the program.
const TIMED_OUT: i32 = 124;

/// A program with its arguments, and where to run it.
#[derive(Clone, Debug)]
pub struct Cmd {
    argv: Vec<String>,
    netns: Option<String>,
    envs: Vec<(String, String)>,
    stdin: Option<String>,
    limit: Duration,
}

/// What came of a program.
#[derive(Clone, Debug)]
pub struct Ran {
    /// As a user would type it.
    pub command: String,
    /// Exit code; 128 + signal as a shell says it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Cmd {
    pub fn new(program: impl AsRef<Path>) -> Self {
        Cmd {
            argv: vec![program.as_ref().display().to_string()],
            netns: None,
            envs: Vec::new(),
            stdin: None,
            limit: Duration::from_secs(20),
        }
    }

    /// A command line without quotes: split at white space.
    pub fn line(line: &str) -> Self {
        let mut words = line.split_whitespace();
        Cmd::new(words.next().unwrap_or("true")).args(words)
    }

    pub fn arg(mut self, arg: impl ToString) -> Self {
        self.argv.push(arg.to_string());
        self
    }

    pub fn args<T: ToString>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.argv.extend(args.into_iter().map(|arg| arg.to_string()));
        self
    }

    /// Runs inside the namespace (its network only: the file system stays the machine's).
    pub fn netns(mut self, netns: &Netns) -> Self {
        self.netns = Some(netns.path());
        self
    }

    pub fn env(mut self, key: &str, value: impl ToString) -> Self {
        self.envs.push((key.to_string(), value.to_string()));
        self
    }

    pub fn stdin(mut self, text: impl ToString) -> Self {
        self.stdin = Some(text.to_string());
        self
    }

    /// The program is ended after this long.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// As a user would type it.
    pub fn typed(&self) -> String {
        let words: Vec<String> = self.enter().into_iter().chain(self.argv.clone()).collect();
        words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
    }

    fn enter(&self) -> Vec<String> {
        match &self.netns {
            Some(path) => vec!["nsenter".into(), format!("--net={path}")],
            None => Vec::new(),
        }
    }

    /// The command for the background: no time limit, a session of its own.
    pub(crate) fn detached(&self) -> Command {
        self.command(vec!["setsid".into()], Vec::new())
    }

    fn limited(&self) -> Command {
        let seconds = format!("{:.3}", self.limit.as_secs_f64());
        self.command(Vec::new(), vec!["timeout".into(), "-k1".into(), seconds])
    }

    fn command(&self, before: Vec<String>, inside: Vec<String>) -> Command {
        let mut words = before.into_iter().chain(self.enter()).chain(inside).chain(self.argv.clone());
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).envs(self.envs.iter().map(|(k, v)| (k, v)));
        command
    }

    /// Runs to the end. An exit code other than 0 is not an error here: see [`Ran::ok`].
    pub fn run(&self) -> Result<Ran> {
        let started = Instant::now();
        let mut child = self
            .limited()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{}`", self.typed()))?;
        if let (Some(mut pipe), Some(text)) = (child.stdin.take(), &self.stdin) {
            // A program that does not read its input is judged by what it answers.
            let _ = pipe.write_all(text.as_bytes());
        }
        let output = child.wait_with_output()?;
        Ok(Ran {
            command: self.typed(),
            code: exit_code(output.status),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: started.elapsed(),
        })
    }

    /// Runs to the end and insists on exit code 0.
    pub fn ok(&self) -> Result<Ran> {
        self.run()?.ok()
    }
}

impl Ran {
    pub fn succeeded(&self) -> bool {
        self.code == 0
    }

    /// An error that names the command and what it said, unless it exited with 0.
    pub fn ok(self) -> Result<Ran> {
        if self.succeeded() { Ok(self) } else { bail!("{}", self.complaint()) }
    }

    /// One sentence about a failure.
    pub fn complaint(&self) -> String {
        let said = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        let said: Vec<&str> = said.trim().lines().rev().take(3).collect();
        let said = said.into_iter().rev().collect::<Vec<_>>().join(" / ");
        match self.code {
            TIMED_OUT => format!("`{}` did not end within {:.1} s", self.command, self.took.as_secs_f64()),
            code => format!("`{}` exited with {code}: {said}", self.command),
        }
    }
}

/// The exit code as a shell would say it.
pub fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_reads_as_it_would_be_typed() {
        let typed = Cmd::new("curl").arg("http://10.96.0.10/?n=[1-9]").typed();
        assert_eq!(typed, "curl 'http://10.96.0.10/?n=[1-9]'");
        assert_eq!(Cmd::new("echo").arg("it's").typed(), r"echo 'it'\''s'");
    }

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let error = Cmd::new("sh").args(["-c", "echo broken >&2; exit 3"]).ok().unwrap_err();
        assert!(error.to_string().contains("exited with 3: broken"), "{error}");
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let ran = Cmd::line("sleep 30").limit(Duration::from_millis(100)).run().unwrap();
        assert_eq!(ran.code, TIMED_OUT);
        assert!(ran.complaint().contains("did not end"), "{}", ran.complaint());
    }

    #[test]
    fn input_reaches_the_program() {
        assert_eq!(Cmd::new("cat").stdin("hello").ok().unwrap().stdout, "hello");
    }
}
