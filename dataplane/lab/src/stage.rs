//! What a section works with: the lab, and a place to show what it does.

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use std::time::Duration;

use crate::iperf;
use crate::lab::Lab;
use crate::netns::Netns;
use crate::pod::Pod;
use crate::process::Process;
use crate::report::Report;
use crate::shell::{Cmd, Ran};
use crate::transcript::Transcript;

/// The lab and the transcript.
#[derive(Debug)]
pub struct Stage<'a> {
    pub lab: &'a mut Lab,
    pub show: &'a Transcript,
}

/// Who answered and which address it saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub name: String,
    pub saw: String,
}

/// What `ping` counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping {
    pub sent: u64,
    pub received: u64,
}

impl Stage<'_> {
    /// Runs a section to its end; whatever stops it becomes part of its report.
    pub fn play(&mut self, title: &str, section: fn(&mut Stage, &mut Report) -> Result<()>) -> Report {
        let mut report = Report::new(title);
        self.show.heading(title);
        if let Err(error) = section(self, &mut report) {
            report.stopped_by(&error);
        }
        self.show.report(&report);
        report
    }

    /// Runs a command and shows it.
    pub fn run(&self, command: &Cmd) -> Result<Ran> {
        let ran = command.run()?;
        self.show.ran(&ran);
        Ok(ran)
    }

    /// `curl`, shown; no answer is `None`.
    pub fn curl(&self, from: &Netns, url: &str) -> Result<Option<Answer>> {
        Ok(answer_in(&self.run(&curl(from, url))?.stdout))
    }

    /// `curl` whose answer goes into the report: it must come from `name`, which must have seen one of these.
    pub fn curl_sees(
        &self,
        report: &mut Report,
        what: &str,
        from: &Netns,
        url: &str,
        to: (&str, &[String]),
    ) -> Result<()> {
        let (name, sources) = to;
        let answer = self.curl(from, url)?;
        let measured = answer.as_ref().map_or("no answer".to_string(), |a| format!("{} saw {}", a.name, a.saw));
        let good = answer.is_some_and(|answer| answer.name == name && sources.contains(&answer.saw));
        let expected = format!("{name} to see {}", sources.join(" or "));
        report.check(what, crate::report::Measured::Text(measured), good, expected);
        Ok(())
    }

    /// `curl` from a pod that must get no answer.
    pub fn curl_fails(&self, report: &mut Report, what: &str, from: &Pod, url: &str) -> Result<()> {
        let ran = self.run(&Cmd::line("curl -sS --max-time 0.5").arg(url).netns(from.netns()))?;
        let answer =
            answer_in(&ran.stdout).map_or("no answer".to_string(), |answer| format!("{} answers", answer.name));
        report.equal(what, &answer, "no answer");
        Ok(())
    }

    /// `ping` with these options, shown in short.
    pub fn ping(&self, from: &Netns, options: &str, to: impl ToString) -> Result<Ping> {
        let ran = ping(from, options, to).run()?;
        self.show.typed(&ran.command);
        let counts = ran.stdout.lines().find(|line| line.contains("packets transmitted"));
        self.show.answer(counts.unwrap_or(&ran.stderr));
        Ping::parse(&ran)
    }

    /// One iperf3 run into a pod for some seconds, shown in short.
    pub fn iperf(&self, from: &Netns, to: &Pod, options: &str) -> Result<iperf::Run> {
        let _server = self.iperf_server(to)?;
        let command = iperf_client(from, to, options);
        self.show.typed(&command.typed());
        let ran = command.run()?;
        let run = iperf::Run::parse(&ran.stdout).with_context(|| ran.complaint())?;
        self.show.answer(&run.to_string());
        Ok(run)
    }

    pub fn iperf_server(&self, pod: &Pod) -> Result<Process> {
        let command = Cmd::line("iperf3 -s").netns(pod.netns());
        let server = Process::spawn(&format!("iperf3-{}", pod.name()), &command, self.lab.directory())?;
        let listens = || Cmd::line("ss -Hltn").netns(pod.netns()).ok().is_ok_and(|ran| ran.stdout.contains(":5201 "));
        anyhow::ensure!(crate::wait::until(Duration::from_secs(5), listens), "iperf3: {}", server.log_end());
        Ok(server)
    }

    /// One of the lab's own helper programs, inside a namespace.
    pub fn agent(&self, netns: &Netns, arguments: &str) -> Cmd {
        Cmd::new(self.lab.binaries().agent()).netns(netns).args(arguments.split_whitespace())
    }

    /// The same in the background, shown.
    pub fn spawn_agent(&self, what: &str, netns: &Netns, arguments: &str) -> Result<Process> {
        let command = self.agent(netns, arguments);
        self.show.typed(&format!("{} &", command.typed()));
        Process::spawn(what, &command, self.lab.directory())
    }
}

/// Ends a helper program by closing its input and reads its report.
pub fn harvest<T: DeserializeOwned>(agent: Process) -> Result<T> {
    let text = agent.finish(Duration::from_secs(15))?;
    serde_json::from_str(&text).with_context(|| format!("a helper program reported: {text:.200}"))
}

pub fn curl(from: &Netns, url: &str) -> Cmd {
    Cmd::line("curl -sS --max-time 5").arg(url).netns(from)
}

pub fn ping(from: &Netns, options: &str, to: impl ToString) -> Cmd {
    Cmd::line(&format!("ping -q {options}")).arg(to).netns(from)
}

pub fn iperf_client(from: &Netns, to: &Pod, options: &str) -> Cmd {
    let command = Cmd::line(&format!("iperf3 -J {options} -c")).arg(to.address());
    command.netns(from).limit(Duration::from_secs(40))
}

pub fn answer_in(text: &str) -> Option<Answer> {
    let (name, saw) = crate::traffic::seen(text)?;
    Some(Answer { name: name.to_string(), saw: saw.to_string() })
}

impl Ping {
    fn parse(ran: &Ran) -> Result<Self> {
        Self::in_text(&ran.stdout).with_context(|| ran.complaint())
    }

    /// Reads the counts out of what `ping` printed.
    pub fn in_text(text: &str) -> Result<Self> {
        let line = text.lines().find(|line| line.contains("packets transmitted"));
        let numbers: Vec<u64> =
            line.unwrap_or_default().split_whitespace().filter_map(|word| word.parse().ok()).collect();
        match numbers.as_slice() {
            [sent, received, ..] => Ok(Ping { sent: *sent, received: *received }),
            _ => bail!("ping counted nothing: {text}"),
        }
    }

    pub fn all_came_back(&self) -> bool {
        self.sent > 0 && self.sent == self.received
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ping_counts_are_read() {
        let text =
            "\n--- 10.0.0.1 ping statistics ---\n5 packets transmitted, 4 received, +1 errors, 20% packet loss\n";
        let ran = Cmd::new("printf").args(["%s", text]).run().unwrap();
        assert_eq!(Ping::parse(&ran).unwrap(), Ping { sent: 5, received: 4 });
        assert!(Ping::parse(&Cmd::new("true").run().unwrap()).is_err());
    }

    #[test]
    fn an_answer_names_who_and_whom() {
        let answer = answer_in("web-1 saw 10.244.1.5\n").unwrap();
        assert_eq!((answer.name.as_str(), answer.saw.as_str()), ("web-1", "10.244.1.5"));
        assert_eq!(answer_in("curl: (7) Failed"), None);
    }
}
