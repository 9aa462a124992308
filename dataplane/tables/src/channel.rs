//! The control socket: unix SOCK_SEQPACKET, one JSON message a datagram, descriptors beside it. Both sides use this
//! file; it must not know what the messages mean.

use crate::message::{MESSAGE_BYTES_MAX, MESSAGE_FDS_MAX};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("control socket: {0}")]
    Io(#[from] io::Error),
    #[error("the other process closed the control socket")]
    Closed,
    #[error("a message of over {MESSAGE_BYTES_MAX} bytes, or with over {MESSAGE_FDS_MAX} descriptors, was refused")]
    TooLarge,
    #[error("a message on the control socket could not be understood ({0}): the two processes are of different builds")]
    Json(#[from] serde_json::Error),
}

impl From<Errno> for ChannelError {
    fn from(errno: Errno) -> ChannelError {
        match errno {
            Errno::CONNRESET | Errno::PIPE => ChannelError::Closed,
            other => ChannelError::Io(other.into()),
        }
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
}

const ANCILLARY_BYTES: usize = rustix::cmsg_space!(ScmRights(MESSAGE_FDS_MAX));

impl Channel {
    /// Connects to a listening dataplane; non-blocking from then on if asked.
    pub fn connect(path: &Path, nonblocking: bool) -> io::Result<Channel> {
        let flags = SocketFlags::CLOEXEC | if nonblocking { SocketFlags::NONBLOCK } else { SocketFlags::empty() };
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Channel { socket })
    }

    /// Sends one message. The datagram arrives whole or not at all.
    pub fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MESSAGE_BYTES_MAX || fds.len() > MESSAGE_FDS_MAX {
            return Err(ChannelError::TooLarge);
        }
        let mut space = [MaybeUninit::uninit(); ANCILLARY_BYTES];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        let flags = SendFlags::NOSIGNAL;
        rustix::net::sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut ancillary, flags)?;
        Ok(())
    }

    /// Receives one message; waits if the socket blocks, else `WouldBlock` comes back as an I/O error.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), ChannelError> {
        let mut bytes = vec![0; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); ANCILLARY_BYTES];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = rustix::net::recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)?;
        let mut fds = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if got.bytes == 0 {
            return Err(ChannelError::Closed);
        }
        if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(ChannelError::TooLarge);
        }
        Ok((serde_json::from_slice(&bytes[..got.bytes])?, fds))
    }
}

impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Channel {
        Channel { socket }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Of the file beside the dataplane's socket that says whether it lives.
pub const LOCK_EXTENSION: &str = "lock";

/// The dataplane's listening end.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    /// Beside the socket, until the process has ended: then its rings and memory are free, too.
    _lock: File,
}

impl Listener {
    /// Listens at `path`. A file left by a dead process is replaced; a living one's is an error (`AddrInUse`).
    pub fn bind(path: &Path) -> io::Result<Listener> {
        let lock = crate::lock::take(&path.with_extension(LOCK_EXTENSION))?;
        let Some(_lock) = lock.filter(|_| Channel::connect(path, true).is_err()) else {
            let text = format!("another dataplane listens at {}: stop it, or give another --socket", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&socket, 4)?;
        Ok(Listener { socket, _lock })
    }

    /// A new connection (blocking sends and receives), or `WouldBlock`.
    pub fn accept(&self) -> io::Result<Channel> {
        let socket = rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC)?;
        Ok(Channel { socket })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn socket_path(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("fairway-channel-{name}-{}", std::process::id()))
    }

    fn remove(path: &Path) {
        std::fs::remove_file(path).unwrap();
        std::fs::remove_file(path.with_extension(LOCK_EXTENSION)).unwrap();
    }

    fn pair(name: &str) -> (Channel, Channel) {
        let path = socket_path(name);
        let listener = Listener::bind(&path).unwrap();
        let client = Channel::connect(&path, false).unwrap();
        let server = listener.accept().unwrap();
        remove(&path);
        (client, server)
    }

    #[test]
    fn a_message_carries_descriptors_that_work() {
        let (client, server) = pair("fds");
        let (mut reader, writer) = std::io::pipe().unwrap();
        client.send(&"take this", &[writer.as_fd()]).unwrap();
        drop(writer);
        let (text, mut fds) = server.receive::<String>().unwrap();
        assert_eq!((text.as_str(), fds.len()), ("take this", 1));
        std::fs::File::from(fds.pop().unwrap()).write_all(b"x").unwrap();
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
    }

    #[test]
    fn garbage_too_much_and_a_closed_end_are_told_apart() {
        let (client, server) = pair("bad");
        client.send(&7, &[]).unwrap();
        assert!(matches!(server.receive::<String>(), Err(ChannelError::Json(_))));
        let long = "x".repeat(MESSAGE_BYTES_MAX);
        assert!(matches!(client.send(&long, &[]), Err(ChannelError::TooLarge)));
        drop(client);
        assert!(matches!(server.receive::<String>(), Err(ChannelError::Closed)));
    }

    #[test]
    fn a_stale_socket_file_is_replaced_and_a_living_one_is_not() {
        let path = socket_path("stale");
        drop(Listener::bind(&path).unwrap());
        let living = Listener::bind(&path).expect("nobody listens there any more");
        let error = Listener::bind(&path).unwrap_err();
        assert!(error.to_string().contains("another dataplane"), "{error}");
        drop(living);
        remove(&path);
    }
}
