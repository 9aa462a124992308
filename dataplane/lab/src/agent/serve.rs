//! A pod's server: HTTP that answers its own name and the address that it saw; TCP and UDP echo.
//!
//! One thread a connection; every HTTP connection carries one request.

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
/// A request header of more than this is not one of ours.
const REQUEST_SIZE_MAX: usize = 8192;

/// Serves for ever.
pub fn run(name: &str) -> Result<()> {
    let http = listen(HTTP_PORT)?;
    let echo = listen(ECHO_PORT)?;
    let datagrams = bind_udp(ECHO_PORT)?;
    std::thread::spawn(move || echo_datagrams(&datagrams));
    std::thread::spawn(move || {
        for connection in echo.incoming().flatten() {
            std::thread::spawn(move || echo_stream(connection));
        }
    });
    for connection in http.incoming().flatten() {
        let name = name.to_string();
        // A client that goes away in the middle is its own business.
        std::thread::spawn(move || answer(connection, &name).ok());
    }
    Ok(())
}

/// Both families where the kernel has both, else IPv4.
fn listen(port: u16) -> Result<TcpListener> {
    let any: [SocketAddr; 2] = [(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()];
    TcpListener::bind(any.as_slice()).with_context(|| format!("cannot listen on TCP port {port}"))
}

pub(super) fn bind_udp(port: u16) -> Result<UdpSocket> {
    let any: [SocketAddr; 2] = [(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()];
    UdpSocket::bind(any.as_slice()).with_context(|| format!("cannot bind UDP port {port}"))
}

fn answer(mut connection: TcpStream, name: &str) -> std::io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut chunk = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < REQUEST_SIZE_MAX {
        match connection.read(&mut chunk)? {
            0 => return Ok(()),
            size => request.extend_from_slice(&chunk[..size]),
        }
    }
    let body = format!("{name} saw {}\n", canonical(connection.peer_addr()?.ip()));
    let size = body.len();
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {size}\r\nConnection: close\r\n");
    connection.write_all(format!("{head}\r\n{body}").as_bytes())
}

/// IPv4 as IPv4, also on a socket for both families.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn echo_stream(mut connection: TcpStream) {
    let mut chunk = [0; 4096];
    while let Ok(size @ 1..) = connection.read(&mut chunk) {
        if connection.write_all(&chunk[..size]).is_err() {
            return;
        }
    }
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut datagram = [0; 65_536];
    while let Ok((size, from)) = socket.recv_from(&mut datagram) {
        // An answer that cannot be sent shows at the one who waits for it.
        let _ = socket.send_to(&datagram[..size], from);
    }
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
        answer(connection, "web-1").unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\nweb-1 saw 127.0.0.1\n"), "{text}");
    }
}
