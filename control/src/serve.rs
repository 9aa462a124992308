//! RUN/control.sock: takes requests line by line and passes them on with a place for the reply. It must not answer itself.

use crate::api::{Failure, REQUEST_BYTES_MAX, Reply, Request, code};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

/// How often a client that has more to say while it waits, or nothing any more, is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Where a reply goes. Dropped unanswered, the client is told so. Closed, there is no client any more.
pub type ReplyTo = oneshot::Sender<Reply>;
pub type Requests = mpsc::Sender<(Request, ReplyTo)>;

/// Listens at `path`, in place of what a dead process left there (the caller holds the lock of the run directory). Only
/// root may connect.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

pub async fn run(listener: UnixListener, requests: Requests) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(converse(stream, requests.clone()));
            }
            Err(error) => {
                crate::log(format_args!("cannot accept on control.sock: {error}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, requests: Requests) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let mut bounded = (&mut reader).take(REQUEST_BYTES_MAX as u64);
        if bounded.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let Some(reply) = answer(&line, &requests, reader.get_ref()).await else { return Ok(()) };
        let mut reply = serde_json::to_vec(&reply)?;
        reply.push(b'\n');
        writer.write_all(&reply).await?;
        if !line.ends_with(b"\n") {
            return Ok(());
        }
    }
}

/// None if the client is gone before it is told.
async fn answer(line: &[u8], requests: &Requests, client: &OwnedReadHalf) -> Option<Reply> {
    let request = match serde_json::from_slice::<Request>(line) {
        Ok(request) => request,
        Err(error) => {
            let text = format!(
                "the request cannot be understood ({error}): client and fairway-control are of different builds"
            );
            return Some(Reply::Failed(Failure::new(code::DECODE, text)));
        }
    };
    let (to, mut reply) = oneshot::channel();
    if has_hung_up(client) {
        reply.close();
    }
    let stopping = || Reply::Failed(Failure::new(code::TRY_AGAIN, "fairway-control is stopping"));
    if requests.send((request, to)).await.is_err() {
        return Some(stopping());
    }
    tokio::select! {
        reply = reply => Some(reply.unwrap_or_else(|_| stopping())),
        () = hung_up(client) => None,
    }
}

/// Ends when the client has closed both ways: one that has only said all it wanted to say still listens.
async fn hung_up(client: &OwnedReadHalf) {
    loop {
        let _ = client.readable().await;
        if has_hung_up(client) {
            return;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Asks the kernel, which knows before the runtime does.
fn has_hung_up(client: &OwnedReadHalf) -> bool {
    let mut polled = [PollFd::new(client.as_ref(), PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&at_once)).is_ok_and(|_| polled[0].revents().contains(PollFlags::HUP))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Shutdown;

    const LIMIT: Duration = Duration::from_secs(10);

    /// A client whose request has arrived, and where the reply to it goes.
    async fn asked() -> (std::os::unix::net::UnixStream, ReplyTo, mpsc::Receiver<(Request, ReplyTo)>) {
        let (client, served) = std::os::unix::net::UnixStream::pair().unwrap();
        served.set_nonblocking(true).unwrap();
        let (to, mut requests) = mpsc::channel(1);
        tokio::spawn(converse(UnixStream::from_std(served).unwrap(), to));
        io::Write::write_all(&mut &client, b"{\"ask\":\"status\"}\n").unwrap();
        let (request, reply) = requests.recv().await.unwrap();
        assert_eq!(request, Request::Status);
        (client, reply, requests)
    }

    #[tokio::test]
    async fn a_client_that_is_gone_is_noticed_while_it_waits() {
        let (client, mut reply, _requests) = asked().await;
        assert!(!reply.is_closed());
        drop(client);
        tokio::time::timeout(LIMIT, reply.closed()).await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_has_said_all_hears_the_reply() {
        let (client, reply, _requests) = asked().await;
        client.shutdown(Shutdown::Write).unwrap();
        tokio::time::sleep(3 * LOOK_AGAIN).await;
        assert!(reply.send(Reply::Done("yes".into())).is_ok());
        let read = tokio::task::spawn_blocking(move || io::read_to_string(client).unwrap());
        assert_eq!(tokio::time::timeout(LIMIT, read).await.unwrap().unwrap(), "{\"done\":\"yes\"}\n");
    }
}
