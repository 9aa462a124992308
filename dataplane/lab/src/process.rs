//! A program in the background: its log, its end, its death by signal.
//!
//! Every such program runs inside a namespace of the lab, which is how the guard finds it when
//! nobody else is left to end it.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::shell::{Cmd, exit_code};
use crate::wait;

/// A running program. Ends with SIGKILL when dropped.
#[derive(Debug)]
pub struct Process {
    what: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: PathBuf,
    log: PathBuf,
}

impl Process {
    /// Starts the command; standard output goes to `DIR/WHAT.out`, errors to `DIR/WHAT.log`.
    pub fn spawn(what: &str, command: &Cmd, directory: &Path) -> Result<Self> {
        let stdout = directory.join(format!("{what}.out"));
        let log = directory.join(format!("{what}.log"));
        let mut child = command
            .detached()
            .stdin(Stdio::piped())
            .stdout(File::create(&stdout).with_context(|| format!("cannot write {}", stdout.display()))?)
            .stderr(File::options().create(true).append(true).open(&log)?)
            .spawn()
            .with_context(|| format!("cannot start `{}`", command.typed()))?;
        let stdin = child.stdin.take();
        Ok(Process { what: what.to_string(), child, stdin, stdout, log })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error with the end of its log, if it has ended by itself.
    pub fn still_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {}: {}", self.what, exit_code(status), self.log_end()),
        }
    }

    /// Closes its standard input.
    pub fn end_input(&mut self) {
        self.stdin.take();
    }

    /// One line to its standard input.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let pipe = self.stdin.as_mut().context("its input is closed already")?;
        writeln!(pipe, "{line}").with_context(|| format!("{} does not listen: {}", self.what, self.log_end()))
    }

    /// Closes its input, waits for its end and gives what it wrote to standard output.
    pub fn finish(mut self, limit: Duration) -> Result<String> {
        self.stdin.take();
        self.ended(limit)?;
        std::fs::read_to_string(&self.stdout).with_context(|| format!("cannot read {}", self.stdout.display()))
    }

    /// SIGKILL, which no program can answer.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, then waits for its end; the exit code.
    pub fn terminate(mut self, limit: Duration) -> Result<i32> {
        Cmd::new("kill").args(["-TERM".to_string(), self.pid().to_string()]).ok()?;
        self.ended(limit)
    }

    fn ended(&mut self, limit: Duration) -> Result<i32> {
        let mut code = None;
        let ended = wait::until(limit, || {
            code = self.child.try_wait().ok().flatten().map(exit_code);
            code.is_some()
        });
        match code {
            Some(code) if ended => Ok(code),
            _ => bail!("{} did not end within {limit:?}: {}", self.what, self.log_end()),
        }
    }

    /// The last lines that it logged.
    pub fn log_end(&self) -> String {
        let Ok(file) = File::open(&self.log) else { return "no log".into() };
        let lines: Vec<String> = BufReader::new(file).lines().map_while(Result::ok).collect();
        let from = lines.len().saturating_sub(4);
        if lines.is_empty() { format!("{} is empty", self.log.display()) } else { lines[from..].join(" / ") }
    }

    /// Processor time used so far, user and system, in clock ticks of 10 ms (proc(5), stat 14 and 15).
    pub fn cpu_ticks(&self) -> Result<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        let after_name = stat.rsplit_once(')').context("unexpected /proc/PID/stat")?.1;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
        Ok(ticks(11).context("no utime")? + ticks(12).context("no stime")?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; there is nothing to do about a failure here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
