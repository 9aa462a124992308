//! Many HTTP servers in one pod, each on a port of its own, that come and go as endpoints of a large service do.
//!
//! Standard input steers them: `open PORT` and `close PORT`; its end ends all.

use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::Arc;

use anyhow::Result;
use rustix::net::{Shutdown, shutdown};

use super::serve::{listen, serve_http};

/// Opens all of them, says so, and serves until standard input closes.
pub fn run(name: &str, first: u16, count: u16) -> Result<()> {
    let mut doors = HashMap::new();
    for port in first..first + count {
        doors.insert(port, open(name, port)?);
    }
    println!("open");
    for line in std::io::stdin().lines() {
        match line?.split_once(' ').map(|(word, port)| (word.to_string(), port.parse::<u16>())) {
            Some((word, Ok(port))) if word == "open" => drop(doors.insert(port, open(name, port)?)),
            Some((word, Ok(port))) if word == "close" => {
                // Whoever waits for a connection is told; those that were accepted go on.
                doors.remove(&port).map_or(Ok(()), |door| shutdown(&*door, Shutdown::Both))?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn open(name: &str, port: u16) -> Result<Arc<TcpListener>> {
    let door = Arc::new(listen(port)?);
    let (inside, name) = (Arc::clone(&door), format!("{name}:{port}"));
    std::thread::spawn(move || serve_http(&inside, &name));
    Ok(door)
}
