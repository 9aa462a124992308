//! RUN/control.sock: takes requests line by line and passes them on with a place for the reply. It must not answer itself.

use crate::api::{Failure, REQUEST_BYTES_MAX, Reply, Request, code};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

/// Where a reply goes. Dropped unanswered, the client is told so.
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
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
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
        let mut reply = serde_json::to_vec(&answer(&line, &requests).await)?;
        reply.push(b'\n');
        writer.write_all(&reply).await?;
        if !line.ends_with(b"\n") {
            return Ok(());
        }
    }
}

async fn answer(line: &[u8], requests: &Requests) -> Reply {
    let request = match serde_json::from_slice::<Request>(line) {
        Ok(request) => request,
        Err(error) => {
            let text = format!(
                "the request cannot be understood ({error}): client and fairway-control are of different builds"
            );
            return Reply::Failed(Failure::new(code::DECODE, text));
        }
    };
    let (to, reply) = oneshot::channel();
    let stopping = || Reply::Failed(Failure::new(code::TRY_AGAIN, "fairway-control is stopping"));
    match requests.send((request, to)).await {
        Ok(()) => reply.await.unwrap_or_else(|_| stopping()),
        Err(_) => stopping(),
    }
}
