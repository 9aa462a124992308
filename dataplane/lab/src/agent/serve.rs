//! A pod's server: HTTP that answers its own name and the address that it saw; TCP and UDP echo, which answer that
//! question, too.
//!
//! One thread a connection; an HTTP connection carries one request, unless the client asks to keep it.

use std::borrow::Cow;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};

/// Where every pod of the lab answers HTTP.
pub const HTTP_PORT: u16 = 8080;
/// Where every pod of the lab echoes, over TCP and UDP.
pub const ECHO_PORT: u16 = 7777;

/// A request that is not complete after this long is given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a client says that wants to ask again on its connection.
pub(super) const KEEP: &str = "Connection: keep-alive";
/// A request header of more than this is not one of ours.
const REQUEST_SIZE_MAX: usize = 8192;

/// What an echo server answers with its name and the address that it saw.
pub const WHO: &[u8] = b"who";

/// Serves for ever.
pub fn run(name: &str) -> Result<()> {
    let http = listen(HTTP_PORT)?;
    let echo = listen(ECHO_PORT)?;
    let datagrams = bind_udp(ECHO_PORT)?;
    let own_name = name.to_string();
    std::thread::spawn(move || echo_datagrams(&datagrams, &own_name));
    let own_name = name.to_string();
    std::thread::spawn(move || {
        for connection in echo.incoming().flatten() {
            let name = own_name.clone();
            // A client that goes away in the middle is its own business.
            std::thread::spawn(move || echo_stream(connection, &name).ok());
        }
    });
    serve_http(&http, name);
    Ok(())
}

/// Until the listener is shut.
pub(super) fn serve_http(listener: &TcpListener, name: &str) {
    while let Ok((connection, _)) = listener.accept() {
        let name = name.to_string();
        std::thread::spawn(move || answer_all(connection, &name).ok());
    }
}

/// Both families where the kernel has both, else IPv4.
pub(super) fn listen(port: u16) -> Result<TcpListener> {
    let any: [SocketAddr; 2] = [(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()];
    TcpListener::bind(any.as_slice()).with_context(|| format!("cannot listen on TCP port {port}"))
}

pub(super) fn bind_udp(port: u16) -> Result<UdpSocket> {
    let any: [SocketAddr; 2] = [(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()];
    UdpSocket::bind(any.as_slice()).with_context(|| format!("cannot bind UDP port {port}"))
}

fn answer_all(mut connection: TcpStream, name: &str) -> std::io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_nodelay(true)?;
    while answer(&mut connection, name)? {}
    Ok(())
}

/// Whether the client may ask again.
fn answer(connection: &mut TcpStream, name: &str) -> std::io::Result<bool> {
    let mut request = Vec::new();
    let mut chunk = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < REQUEST_SIZE_MAX {
        match connection.read(&mut chunk)? {
            0 => return Ok(false),
            size => request.extend_from_slice(&chunk[..size]),
        }
    }
    let is_kept = String::from_utf8_lossy(&request).contains(KEEP);
    let body = who(name, connection.peer_addr()?);
    let (size, then) = (body.len(), if is_kept { KEEP } else { "Connection: close" });
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {size}\r\n{then}\r\n");
    connection.write_all(format!("{head}\r\n{body}").as_bytes())?;
    Ok(is_kept)
}

fn who(name: &str, client: SocketAddr) -> String {
    format!("{name} saw {}\n", canonical(client.ip()))
}

/// IPv4 as IPv4, also on a socket for both families.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn echo_stream(mut connection: TcpStream, name: &str) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let client = connection.peer_addr()?;
    let mut chunk = [0; 4096];
    loop {
        match connection.read(&mut chunk)? {
            0 => return Ok(()),
            size => connection.write_all(&echo(&chunk[..size], name, client))?,
        }
    }
}

fn echo_datagrams(socket: &UdpSocket, name: &str) {
    let mut datagram = [0; 65_536];
    while let Ok((size, from)) = socket.recv_from(&mut datagram) {
        // An answer that cannot be sent shows at the one who waits for it.
        let _ = socket.send_to(&echo(&datagram[..size], name, from), from);
    }
}

fn echo<'a>(message: &'a [u8], name: &str, client: SocketAddr) -> Cow<'a, [u8]> {
    if message == WHO { who(name, client).into_bytes().into() } else { message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_names_server_and_client() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (connection, _) = listener.accept().unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        answer_all(connection, "web-1").unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\nweb-1 saw 127.0.0.1\n"), "{text}");
    }
}
