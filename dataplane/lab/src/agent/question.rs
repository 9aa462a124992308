//! Connections to witnesses ([`super::witness`]), many at a time, and what came of each. It judges nothing.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::io::Errno;
use rustix::net::connect;
use serde::{Deserialize, Serialize};

use super::raw_sctp;
use super::transport::{Transport, read_testimony};

/// A datagram that is not answered is sent again after this long: the first to a new neighbour may have to wait.
const AGAIN: Duration = Duration::from_millis(500);

/// What to ask, how often, each time from another port.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Question {
    pub from: IpAddr,
    pub to: SocketAddr,
    pub transport: Transport,
    pub count: usize,
    /// When a connection counts as not answered.
    pub limit_ms: u64,
}

/// What came of one connection.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Answered {
        by: SocketAddr,
        saw: IpAddr,
    },
    /// By a TCP reset or a port unreachable, at once.
    Refused,
    Silence,
    Failed(String),
}

/// Reads questions from standard input and prints the outcomes of each, both as JSON.
pub fn run() -> Result<()> {
    let questions: Vec<Question> = serde_json::from_reader(std::io::stdin().lock())?;
    let outcomes: Vec<Vec<Outcome>> = std::thread::scope(|scope| {
        let asking: Vec<_> = questions.iter().map(|question| scope.spawn(|| ask_all(question))).collect();
        asking.into_iter().map(|asked| asked.join().unwrap_or_default()).collect()
    });
    println!("{}", serde_json::to_string(&outcomes)?);
    Ok(())
}

/// After two that were not answered no more are sent: they would take long and tell nothing new.
fn ask_all(question: &Question) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    for _ in 0..question.count {
        outcomes.push(ask(question).unwrap_or_else(|error| error));
        if outcomes.iter().filter(|outcome| !matches!(outcome, Outcome::Answered { .. })).count() >= 2 {
            break;
        }
    }
    outcomes
}

fn ask(question: &Question) -> Result<Outcome, Outcome> {
    let limit = Duration::from_millis(question.limit_ms);
    let of_socket = |error: anyhow::Error| Outcome::Failed(format!("{error:#}"));
    let text = match question.transport {
        Transport::Udp => {
            let socket = question.transport.client(question.from, limit.min(AGAIN)).map_err(of_socket)?;
            ask_by_datagrams(&socket.into(), question.to, limit)?
        }
        Transport::Sctp if !question.transport.is_here() => {
            raw_sctp::ask(question.from, question.to, limit).map_err(|error| outcome(&error))?
        }
        Transport::Tcp | Transport::Sctp => {
            let socket = question.transport.client(question.from, limit).map_err(of_socket)?;
            connect(&socket, &question.to).map_err(|errno| outcome(&errno.into()))?;
            let mut text = String::new();
            TcpStream::from(socket).read_to_string(&mut text).map_err(|error| outcome(&error))?;
            text
        }
    };
    let (by, saw) = read_testimony(&text).ok_or_else(|| Outcome::Failed(format!("answered {text:?}")))?;
    Ok(Outcome::Answered { by, saw })
}

fn ask_by_datagrams(socket: &UdpSocket, to: SocketAddr, limit: Duration) -> Result<String, Outcome> {
    let started = Instant::now();
    let mut answer = [0; 128];
    socket.connect(to).map_err(|error| outcome(&error))?;
    loop {
        socket.send(b"who?").map_err(|error| outcome(&error))?;
        match socket.recv(&mut answer) {
            Ok(size) => return Ok(String::from_utf8_lossy(&answer[..size]).into_owned()),
            Err(error) if outcome(&error) == Outcome::Silence && started.elapsed() < limit => {}
            Err(error) => return Err(outcome(&error)),
        }
    }
}

fn outcome(error: &std::io::Error) -> Outcome {
    // What a connect says that ran into its limit.
    let is_under_way = error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error());
    match error.kind() {
        ErrorKind::ConnectionRefused => Outcome::Refused,
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Outcome::Silence,
        _ if is_under_way => Outcome::Silence,
        _ => Outcome::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

    fn question(to: SocketAddr, transport: Transport) -> Question {
        Question { from: to.ip(), to, transport, count: 3, limit_ms: 1000 }
    }

    #[test]
    fn answers_and_refusals_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            (0..3).for_each(|_| listener.accept().unwrap().0.write_all(b"10.0.0.1:80 saw 10.0.0.2\n").unwrap());
        });
        let answered = Outcome::Answered { by: "10.0.0.1:80".parse().unwrap(), saw: "10.0.0.2".parse().unwrap() };
        assert_eq!(ask_all(&question(to, Transport::Tcp)), vec![answered; 3]);
        server.join().unwrap();
        assert_eq!(ask_all(&question(to, Transport::Tcp)), [Outcome::Refused, Outcome::Refused]);
        assert_eq!(ask_all(&question(to, Transport::Udp)), [Outcome::Refused, Outcome::Refused]);
    }
}
