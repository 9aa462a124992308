//! The connection to the dataplane: connects, reads what it says of itself, and asks it things. It must not know why.

use crate::sys;
use rustix::event::{PollFd, PollFlags, Timespec};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;
use tables::channel::{Channel, ChannelError};
use tables::layout::LAYOUT_VERSION;
use tables::message::{Answer, FromDataplane, InterfaceInfo, ToDataplane};
use tables::owner::{SnatPorts, Worker};
use tables::status::{Status, StatusError};
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

/// A dataplane that answers nothing for so long is taken for stuck. Registering all its memory takes the longest.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(
        "the dataplane speaks layout version {theirs}, this process {ours}: packets keep flowing by the tables that it has, and nothing changes until the older of the two is restarted as the build of the other"
    )]
    Version { theirs: u64, ours: u64 },
    #[error("the dataplane did not answer within {} s: see its log, or restart it", ANSWER_LIMIT.as_secs())]
    Silent,
    #[error(
        "the dataplane sent {what} with {got} descriptors instead of {wanted}: the two processes are of different builds"
    )]
    Descriptors { what: &'static str, got: usize, wanted: usize },
    #[error("the dataplane began with another message than Hello: the two processes are of different builds")]
    Hello,
    #[error(transparent)]
    Status(#[from] StatusError),
}

/// What the dataplane said of itself when the connection was made.
pub struct Greeting {
    pub fresh: bool,
    pub pid: u32,
    pub workers: Worker,
    pub snat: SnatPorts,
    pub polling: String,
    pub flows_max: u64,
    pub status: Status,
    /// Rings when a neighbour is asked for.
    pub bell: OwnedFd,
    pub interfaces: Vec<(InterfaceInfo, Vec<OwnedFd>)>,
    pub flows: Vec<(Worker, OwnedFd)>,
}

/// What comes without having been asked for.
pub enum News {
    Flows(Worker, OwnedFd),
    /// An interface is otherwise than it was said before: the uplink once it is bound.
    Interface(InterfaceInfo),
    InterfaceGone(u32),
}

/// A living connection.
pub struct Link {
    channel: Channel,
    /// A copy of the channel's descriptor, to wait by.
    ready: AsyncFd<OwnedFd>,
    last_id: u64,
    news: VecDeque<News>,
}

impl Link {
    /// None while nobody listens there.
    pub async fn connect(path: &Path) -> Result<Option<(Link, Greeting)>, LinkError> {
        let channel = match Channel::connect(path, true) {
            Ok(channel) => channel,
            Err(_) => return Ok(None),
        };
        let copy = channel.as_fd().try_clone_to_owned().map_err(ChannelError::Io)?;
        let ready = sys::watched(copy).map_err(ChannelError::Io)?;
        let mut link = Link { channel, ready, last_id: 0, news: VecDeque::new() };
        let greeting = timeout(ANSWER_LIMIT, link.greeting()).await.map_err(|_| LinkError::Silent)??;
        Ok(Some((link, greeting)))
    }

    async fn greeting(&mut self) -> Result<Greeting, LinkError> {
        let (message, fds) = self.receive().await?;
        let mut greeting = hello(message, fds)?;
        loop {
            match self.receive().await? {
                (FromDataplane::Interface(info), fds) => greeting.interfaces.push((info, fds)),
                (FromDataplane::Flows { worker }, fds) => greeting.flows.push((worker, only("Flows", fds)?)),
                (FromDataplane::Synced, _) => return Ok(greeting),
                (other, fds) => self.keep_news(other, fds)?,
            }
        }
    }

    async fn receive<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), ChannelError> {
        loop {
            let mut ready = self.ready.readable().await?;
            match self.channel.receive() {
                Err(ChannelError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                other => return other,
            }
        }
    }

    fn keep_news(&mut self, message: FromDataplane, fds: Vec<OwnedFd>) -> Result<(), LinkError> {
        match message {
            FromDataplane::Flows { worker } => self.news.push_back(News::Flows(worker, only("Flows", fds)?)),
            FromDataplane::Interface(info) => self.news.push_back(News::Interface(info)),
            FromDataplane::InterfaceGone { interface } => self.news.push_back(News::InterfaceGone(interface)),
            // An answer that came too late, or a repetition: nobody waits for it.
            _ => {}
        }
        Ok(())
    }

    /// The next thing that was not asked for; an error is the end of the connection. May be dropped while it waits.
    pub async fn news(&mut self) -> Result<News, LinkError> {
        loop {
            if let Some(news) = self.news.pop_front() {
                return Ok(news);
            }
            let (message, fds) = self.receive().await?;
            self.keep_news(message, fds)?;
        }
    }

    /// Sends what `make` builds around a new id and waits for its answer.
    pub async fn ask(
        &mut self,
        make: impl FnOnce(u64) -> ToDataplane,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Answer, LinkError> {
        self.last_id += 1;
        let id = self.last_id;
        self.send(&make(id), fds)?;
        timeout(ANSWER_LIMIT, self.answer(id)).await.map_err(|_| LinkError::Silent)?
    }

    async fn answer(&mut self, wanted: u64) -> Result<Answer, LinkError> {
        loop {
            match self.receive().await? {
                (FromDataplane::Answer { id, answer }, _) if id == wanted => return Ok(answer),
                (other, fds) => self.keep_news(other, fds)?,
            }
        }
    }

    /// Requests are few and small: the socket has room, or the other side is stuck.
    fn send(&self, message: &ToDataplane, fds: &[BorrowedFd<'_>]) -> Result<(), LinkError> {
        loop {
            match self.channel.send(message, fds) {
                Err(ChannelError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return Ok(other?),
            }
            let mut poll = [PollFd::new(&self.channel, PollFlags::OUT)];
            let limit = Timespec { tv_sec: 1, tv_nsec: 0 };
            if rustix::event::poll(&mut poll, Some(&limit)).map_err(|errno| ChannelError::Io(errno.into()))? == 0 {
                return Err(LinkError::Silent);
            }
        }
    }
}

/// The version is looked at before all else: of another one the rest may say what is not known here.
fn hello(message: Value, fds: Vec<OwnedFd>) -> Result<Greeting, LinkError> {
    let theirs = message["layoutVersion"].as_u64().filter(|_| message["say"] == "hello").ok_or(LinkError::Hello)?;
    if theirs != LAYOUT_VERSION {
        return Err(LinkError::Version { theirs, ours: LAYOUT_VERSION });
    }
    let message = serde_json::from_value(message).map_err(ChannelError::Json)?;
    let FromDataplane::Hello { pid, workers, snat, fresh, polling, flows_max, .. } = message else {
        return Err(LinkError::Hello);
    };
    let got = fds.len();
    let [status, bell] =
        <[OwnedFd; 2]>::try_from(fds).map_err(|_| LinkError::Descriptors { what: "Hello", got, wanted: 2 })?;
    let status = Status::attach(status)?;
    let (interfaces, flows) = (Vec::new(), Vec::new());
    Ok(Greeting { fresh, pid, workers, snat, polling, flows_max, status, bell, interfaces, flows })
}

fn only(what: &'static str, fds: Vec<OwnedFd>) -> Result<OwnedFd, LinkError> {
    let got = fds.len();
    let [fd] = <[OwnedFd; 1]>::try_from(fds).map_err(|_| LinkError::Descriptors { what, got, wanted: 1 })?;
    Ok(fd)
}

/// Descriptors as they are passed.
pub fn borrowed(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}
