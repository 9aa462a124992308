//! A pod: smoltcp's TCP behind an interface of memory. smoltcp verifies every checksum itself and finds its gateway by
//! ARP. Time is the test's own.

use crate::support::GATEWAY_MAC;
use dataplane::io::mem::MemPeer;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, IpListenEndpoint};
use tables::{Addr, Mac};

/// Uplink 1500 less the tunnel's 50, and Ethernet's 14.
const FRAME_BYTES_MAX: usize = 1450 + 14;
const BUFFER_BYTES: usize = 48 * 1024;

/// smoltcp's view of the pod's interface.
struct Port(MemPeer);

struct Received(Vec<u8>);
struct ToSend(MemPeer);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl TxToken for ToSend {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, size: usize, write: F) -> R {
        let mut bytes = vec![0; size];
        let result = write(&mut bytes);
        // A full ring loses the packet, as a TAP's does.
        self.0.inject(bytes);
        result
    }
}

impl Device for Port {
    type RxToken<'a> = Received;
    type TxToken<'a> = ToSend;

    fn receive(&mut self, _: Instant) -> Option<(Received, ToSend)> {
        let packet = self.0.take()?;
        assert_eq!(packet.bytes[6..12], GATEWAY_MAC.0, "the gateway is all that a pod sees");
        Some((Received(packet.bytes), ToSend(self.0.clone())))
    }

    fn transmit(&mut self, _: Instant) -> Option<ToSend> {
        Some(ToSend(self.0.clone()))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_BYTES_MAX;
        capabilities
    }
}

/// One end of a connection, and what it sends and has received.
struct End {
    handle: SocketHandle,
    /// Known at once for a client; a server learns it by its peer's port.
    sending: Option<Vec<u8>>,
    sent: usize,
    received: Vec<u8>,
}

pub struct Stack {
    port: Port,
    interface: Interface,
    sockets: SocketSet<'static>,
    ends: Vec<End>,
    addr: Addr,
}

fn ip(addr: Addr) -> IpAddress {
    let [a, b, c, d] = addr.v4_octets();
    IpAddress::v4(a, b, c, d)
}

impl Stack {
    /// `gateway`'s lower neighbour address (.0) is the pod's too, with a prefix that holds just those two: smoltcp believes
    /// ARP answers only from its own network, and other pods must not be in it.
    pub fn new(peer: MemPeer, addr: Addr, mac: Mac, gateway: Addr) -> Stack {
        let mut port = Port(peer);
        let mut config = Config::new(EthernetAddress(mac.0).into());
        config.random_seed = addr.bits() as u64;
        let mut interface = Interface::new(config, &mut port, Instant::ZERO);
        let [a, b, c, d] = gateway.v4_octets();
        interface.update_ip_addrs(|addrs| {
            addrs.push(IpCidr::new(ip(addr), 32)).unwrap();
            addrs.push(IpCidr::new(IpAddress::v4(a, b, c, d - 1), 31)).unwrap();
        });
        interface.routes_mut().add_default_ipv4_route([a, b, c, d].into()).unwrap();
        Stack { port, interface, sockets: SocketSet::new(Vec::new()), ends: Vec::new(), addr }
    }

    fn add(&mut self, sending: Option<Vec<u8>>) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; BUFFER_BYTES]);
        let handle = self.sockets.add(Socket::new(buffer(), buffer()));
        self.ends.push(End { handle, sending, sent: 0, received: Vec::new() });
        handle
    }

    /// Waits for `connections` connections to a port.
    pub fn listen(&mut self, port: u16, connections: usize) {
        for _ in 0..connections {
            let handle = self.add(None);
            self.sockets.get_mut::<Socket>(handle).listen(port).unwrap();
        }
    }

    /// Opens a connection from a port of its own.
    pub fn connect(&mut self, to: (Addr, u16), from_port: u16, sending: Vec<u8>) {
        let handle = self.add(Some(sending));
        let local = IpListenEndpoint { addr: Some(ip(self.addr)), port: from_port };
        let socket = self.sockets.get_mut::<Socket>(handle);
        socket.connect(self.interface.context(), (ip(to.0), to.1), local).unwrap();
    }

    /// Lets the stack work at a time. `answer` gives what a server sends to a client's port.
    pub fn poll(&mut self, now: Instant, answer: &dyn Fn(u16) -> Vec<u8>) {
        self.interface.poll(now, &mut self.port, &mut self.sockets);
        for end in &mut self.ends {
            end.pump(self.sockets.get_mut(end.handle), answer);
        }
        self.interface.poll(now, &mut self.port, &mut self.sockets);
    }

    /// When it next has something to do of itself.
    pub fn poll_at(&mut self, now: Instant) -> Option<Instant> {
        self.interface.poll_at(now, &self.sockets)
    }

    /// Whether every connection has sent all, was told that it arrived, and has received `bytes` itself. Nobody closes:
    /// after a lost FIN smoltcp 0.14 can stay in FIN-WAIT-1 and send nothing more.
    pub fn is_done(&self, bytes: usize) -> bool {
        self.ends.iter().all(|end| {
            let unacknowledged = self.sockets.get::<Socket>(end.handle).send_queue();
            end.sent == bytes && unacknowledged == 0 && end.received.len() >= bytes
        })
    }

    /// How far each connection is, for a person.
    pub fn states(&self) -> String {
        let state = |end: &End| {
            let socket = self.sockets.get::<Socket>(end.handle);
            let (state, queue) = (socket.state(), socket.send_queue());
            let ends = (socket.local_endpoint(), socket.remote_endpoint());
            format!(
                "{} {state} {ends:?}: sent {} (queued {queue}), received {}",
                self.addr,
                end.sent,
                end.received.len()
            )
        };
        self.ends.iter().map(state).collect::<Vec<_>>().join("\n")
    }

    /// (sent, received) of each connection.
    pub fn results(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.ends.iter().map(|end| (end.sending.as_deref().unwrap_or(&[]), &end.received[..]))
    }
}

impl End {
    fn pump(&mut self, socket: &mut Socket, answer: &dyn Fn(u16) -> Vec<u8>) {
        while socket.can_recv() {
            let received = &mut self.received;
            socket.recv(|bytes| (bytes.len(), received.extend_from_slice(bytes))).unwrap();
        }
        if self.sending.is_none() {
            self.sending = socket.remote_endpoint().filter(|_| socket.may_send()).map(|remote| answer(remote.port));
        }
        let Some(sending) = &self.sending else { return };
        if socket.can_send() && self.sent < sending.len() {
            self.sent += socket.send_slice(&sending[self.sent..]).unwrap();
        }
    }
}
