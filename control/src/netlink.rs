//! The kernel's links, addresses, routes and neighbours of one network namespace, in the words that the rest of control
//! uses. It must not decide what is to be there.

mod bond;
mod bucket;
mod rule;

pub use bond::{Bond, Mode};
pub use rule::{Own, Ports, Rule, Then};

use futures_util::StreamExt;
use futures_util::stream::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo as Info, LinkMessage, VlanProtocol,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType, RouteVia,
};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use std::io;
use std::net::IpAddr;
use tables::{Addr, Mac, Prefix};

/// Marks the routes that Fairway made (`ip route show proto 250`), so that a later run finds them.
pub const ROUTE_PROTOCOL: RouteProtocol = RouteProtocol::Other(250);
/// The metric that loses against every other.
pub const METRIC_WORST: u32 = u32::MAX;

#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {source}")]
pub struct NetlinkError {
    what: String,
    source: io::Error,
}

impl NetlinkError {
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

type Result<T> = std::result::Result<T, NetlinkError>;

/// Names what was tried; a refusal by the kernel keeps its errno.
fn failed(what: String) -> impl FnOnce(rtnetlink::Error) -> NetlinkError {
    move |error| {
        let source = match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other),
        };
        NetlinkError { what, source }
    }
}

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkInfo {
    pub index: u32,
    pub name: String,
    pub mac: Mac,
    pub mtu: u32,
    pub is_up: bool,
    /// Receive queues that the driver allocated.
    pub rx_queues: u32,
    /// A VLAN's 802.1Q tag; 0 if it tags otherwise.
    pub vlan: Option<u16>,
    /// The device that it lies on, where there is one.
    pub parent: Option<u32>,
    /// As `ip link` calls it (bond, vxlan, ...); empty for what has hardware.
    pub kind: String,
    /// The bond or bridge that it is a member of.
    pub controller: Option<u32>,
    /// What kind of bond it is.
    pub bond: Option<Bond>,
    /// Whether the bond that it is a member of sends by it.
    pub sends: Option<bool>,
    /// 0: not told.
    pub mtu_max: u32,
}

impl LinkInfo {
    pub fn read(message: &LinkMessage) -> LinkInfo {
        let mut link = LinkInfo {
            index: message.header.index,
            is_up: message.header.flags.contains(LinkFlags::Up),
            rx_queues: 1,
            ..LinkInfo::default()
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::NumRxQueues(queues) => link.rx_queues = *queues,
                LinkAttribute::Link(index) => link.parent = Some(*index),
                LinkAttribute::LinkInfo(infos) => {
                    link.vlan = infos.iter().find_map(tag);
                    link.kind = infos.iter().find_map(kind).unwrap_or_default();
                    link.bond = infos.iter().find_map(bond::bond);
                    link.sends = infos.iter().find_map(bond::sends);
                }
                LinkAttribute::Controller(index) => link.controller = Some(*index),
                LinkAttribute::MaxMtu(mtu) => link.mtu_max = *mtu,
                LinkAttribute::Address(bytes) => link.mac = mac_of(bytes).unwrap_or(link.mac),
                _ => {}
            }
        }
        link
    }
}

fn tag(info: &Info) -> Option<u16> {
    let Info::Data(InfoData::Vlan(parts)) = info else { return None };
    let other = |part: &InfoVlan| matches!(part, InfoVlan::Protocol(protocol) if *protocol != VlanProtocol::Ieee8021Q);
    let id = parts.iter().find_map(|part| if let InfoVlan::Id(id) = part { Some(*id) } else { None });
    Some(id.filter(|_| !parts.iter().any(other)).unwrap_or(0))
}

fn kind(info: &Info) -> Option<String> {
    if let Info::Kind(kind) = info { Some(kind.to_string()) } else { None }
}

fn mac_of(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac)
}

/// A route that Fairway installs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Route {
    /// To `to` by the gateway on this device, which need not be in any of its prefixes.
    Via { to: Prefix, gateway: Addr, device: u32, src: Option<Addr> },
    /// To `to` on the device's own link.
    Link { to: Prefix, device: u32, src: Option<Addr> },
    /// As by a gateway, but in this table, which rules lead to.
    Steer { table: u32, to: Prefix, gateway: Addr, device: u32, src: Addr },
    /// Dropped, if nothing better is there.
    Blackhole { to: Prefix },
}

impl Route {
    pub fn to(&self) -> &Prefix {
        match self {
            Route::Via { to, .. } | Route::Link { to, .. } | Route::Steer { to, .. } | Route::Blackhole { to } => to,
        }
    }

    fn message(&self) -> RouteMessage {
        let to = self.to();
        let mut builder = RouteMessageBuilder::<IpAddr>::new().protocol(ROUTE_PROTOCOL);
        builder = builder.destination_prefix(to.addr().ip(), to.length()).expect("a prefix has a valid length");
        let with_src = |builder: RouteMessageBuilder<IpAddr>, src: &Option<Addr>| match src {
            Some(src) if src.is_v4() == to.is_v4() => builder.pref_source(src.ip()).expect("of the same family"),
            _ => builder,
        };
        match self {
            Route::Via { gateway, device, src, .. } => {
                let builder = with_src(builder.output_interface(*device).onlink(), src);
                builder.gateway(gateway.ip()).expect("of the same family").build()
            }
            Route::Link { device, src, .. } => {
                let scope = rtnetlink::packet_route::route::RouteScope::Link;
                with_src(builder.output_interface(*device).scope(scope), src).build()
            }
            Route::Steer { table, gateway, device, src, .. } => {
                let builder = with_src(builder.output_interface(*device).onlink().table_id(*table), &Some(*src));
                builder.gateway(gateway.ip()).expect("of the same family").build()
            }
            Route::Blackhole { .. } => builder.kind(RouteType::BlackHole).priority(METRIC_WORST).build(),
        }
    }
}

/// A route of the kernel's own that leaves by some device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    pub to: Prefix,
    pub gateway: Option<Addr>,
    pub device: u32,
    pub metric: u32,
}

/// How an underlay or gateway neighbour is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Its Ethernet address is given.
    Permanent(Mac),
    /// The kernel resolves it and keeps it resolved.
    Managed,
}

/// A neighbour as the kernel knows it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    pub device: u32,
    pub addr: Addr,
    /// None while it is not resolved.
    pub mac: Option<Mac>,
    /// Kept resolved as [`Keep::Managed`] says: this or an earlier run asked for it.
    pub managed: bool,
}

impl Neighbour {
    pub fn read(message: &NeighbourMessage) -> Option<Neighbour> {
        let mut addr = None;
        let mut mac = None;
        let mut managed = false;
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::ExtFlags(flags) => managed = flags.contains(NeighbourExtFlags::Managed),
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => addr = Some(Addr::from(*v4)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => addr = Some(Addr::from(*v6)),
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = mac_of(bytes),
                _ => {}
            }
        }
        let usable = is_usable(message.header.state);
        Some(Neighbour { device: message.header.ifindex, addr: addr?, mac: mac.filter(|_| usable), managed })
    }
}

fn is_usable(state: NeighbourState) -> bool {
    use NeighbourState::*;
    matches!(state, Reachable | Stale | Delay | Probe | Permanent | Noarp)
}

/// Talks to the kernel of the namespace in which it was made.
#[derive(Clone)]
pub struct Netlink {
    handle: Handle,
}

impl Netlink {
    /// Must be called inside a tokio runtime, which then drives the socket.
    pub fn connect() -> io::Result<Netlink> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Netlink { handle })
    }

    pub async fn link(&self, name: &str) -> Result<Option<LinkInfo>> {
        let mut found = self.handle.link().get().match_name(name).execute().boxed_local();
        match found.try_next().await {
            Ok(message) => Ok(message.as_ref().map(LinkInfo::read)),
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => Ok(None),
            Err(error) => Err(failed(format!("look up device {name}"))(error)),
        }
    }

    /// All devices of the namespace.
    pub async fn links(&self) -> Result<Vec<LinkInfo>> {
        let dumped = self.handle.link().get().execute().try_collect::<Vec<_>>().await;
        Ok(dumped.map_err(failed("list devices".into()))?.iter().map(LinkInfo::read).collect())
    }

    /// Members of a bond or bridge, in the order of their indices.
    pub async fn members(&self, controller: u32) -> Result<Vec<LinkInfo>> {
        let mut members = self.links().await?;
        members.retain(|link| link.controller == Some(controller));
        members.sort_by_key(|link| link.index);
        Ok(members)
    }

    pub async fn link_at(&self, index: u32) -> Result<Option<LinkInfo>> {
        let mut found = self.handle.link().get().match_index(index).execute().boxed_local();
        match found.try_next().await {
            Ok(message) => Ok(message.as_ref().map(LinkInfo::read)),
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => Ok(None),
            Err(error) => Err(failed(format!("look up the device with index {index}"))(error)),
        }
    }

    /// Sets Ethernet address and MTU as given, and the device up.
    pub async fn bring_up(&self, index: u32, mac: Option<Mac>, mtu: Option<u32>) -> Result<()> {
        let mut message = LinkUnspec::new_with_index(index).up();
        if let Some(mac) = mac {
            message = message.address(mac.0.to_vec());
        }
        if let Some(mtu) = mtu {
            message = message.mtu(mtu);
        }
        let set = self.handle.link().set(message.build()).execute().await;
        set.map_err(failed(format!("configure the device with index {index}")))
    }

    pub async fn delete_link(&self, index: u32) -> Result<()> {
        let deleted = self.handle.link().del(index).execute().await;
        deleted.map_err(failed(format!("delete the device with index {index}")))
    }

    /// Adds an address without a network around it, and without asking the link whether another has it: it is ours to give.
    pub async fn add_address(&self, index: u32, addr: Addr) -> Result<()> {
        let length = if addr.is_v4() { 32 } else { 128 };
        let mut request = self.handle.address().add(index, addr.ip(), length).replace();
        request.message_mut().attributes.retain(|a| !matches!(a, AddressAttribute::Broadcast(_)));
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        request.execute().await.map_err(failed(format!("give address {addr} to the device with index {index}")))
    }

    /// The addresses of a device.
    pub async fn addresses(&self, index: u32) -> Result<Vec<Addr>> {
        let mut addrs = Vec::new();
        let mut found = self.handle.address().get().set_link_index_filter(index).execute().boxed_local();
        while let Some(message) = found.try_next().await.map_err(failed("list addresses".into()))? {
            addrs.extend(own_addr(&message));
        }
        Ok(addrs)
    }

    pub async fn delete_address(&self, index: u32, addr: Addr) -> Result<()> {
        let length = if addr.is_v4() { 32 } else { 128 };
        let mut request = self.handle.address().add(index, addr.ip(), length);
        request.message_mut().attributes.retain(|a| !matches!(a, AddressAttribute::Broadcast(_)));
        let message = request.message_mut().clone();
        self.handle.address().del(message).execute().await.map_err(failed(format!("take address {addr} away")))
    }

    pub async fn put_route(&self, route: &Route) -> Result<()> {
        let put = self.handle.route().add(route.message()).replace().execute().await;
        put.map_err(failed(format!("install the route to {}", route.to())))
    }

    /// Routes that an earlier or this run of Fairway made, as messages that delete them.
    pub async fn own_routes(&self) -> Result<Vec<(Prefix, RouteMessage)>> {
        let all = self.dump_routes().await?;
        let ours = all.into_iter().filter(|message| message.header.protocol == ROUTE_PROTOCOL);
        Ok(ours.filter_map(|message| Some((destination(&message)?, message))).collect())
    }

    pub async fn delete_route(&self, message: RouteMessage) -> Result<()> {
        self.handle.route().del(message).execute().await.map_err(failed("delete a route".into()))
    }

    /// Deletes a route that was put; one that is gone already is no error.
    pub async fn take_route(&self, route: &Route) -> Result<()> {
        match self.handle.route().del(route.message()).execute().await {
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ESRCH => Ok(()),
            other => other.map_err(failed(format!("delete the route to {}", route.to()))),
        }
    }

    /// Every address of this namespace with its device.
    pub async fn all_addresses(&self) -> Result<Vec<(u32, Addr)>> {
        let dumped = self.handle.address().get().execute().try_collect::<Vec<_>>().await;
        let all = dumped.map_err(failed("list addresses".into()))?;
        Ok(all.iter().filter_map(|message| Some((message.header.index, own_addr(message)?))).collect())
    }

    /// Whether a route that was dumped is this one.
    pub fn is_route(message: &RouteMessage, route: &Route) -> bool {
        let ours = route.message();
        let wanted = |a: &&RouteAttribute| !matches!(a, RouteAttribute::Destination(_));
        destination(message) == Some(*route.to())
            && message.header.kind == ours.header.kind
            && ours.attributes.iter().filter(wanted).all(|a| message.attributes.contains(a))
    }

    /// Unicast routes of the main table that leave by a device.
    pub async fn routes_by(&self, device: u32) -> Result<Vec<Forwarding>> {
        let all = self.dump_routes().await?;
        Ok(all.iter().filter_map(forwarding).filter(|route| route.device == device).collect())
    }

    /// Unicast routes of the main table to everywhere.
    pub async fn default_routes(&self) -> Result<Vec<Forwarding>> {
        let all = self.dump_routes().await?;
        let is_default = |message: &&RouteMessage| message.header.destination_prefix_length == 0;
        Ok(all.iter().filter(is_default).filter_map(forwarding).collect())
    }

    async fn dump_routes(&self) -> Result<Vec<RouteMessage>> {
        let mut all = Vec::new();
        for template in [
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        ] {
            let dumped = self.handle.route().get(template).execute().try_collect::<Vec<_>>().await;
            all.extend(dumped.map_err(failed("list routes".into()))?);
        }
        all.retain(|message| message.header.table == RouteHeader::RT_TABLE_MAIN);
        Ok(all)
    }

    pub async fn put_neighbour(&self, device: u32, addr: Addr, keep: Keep) -> Result<()> {
        let mut request = self.handle.neighbours().add(device, addr.ip()).replace();
        match keep {
            Keep::Permanent(mac) => request = request.state(NeighbourState::Permanent).link_layer_address(&mac.0),
            Keep::Managed => {
                request = request.state(NeighbourState::None).flags(NeighbourFlags::ExtLearned);
                let managed = NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed);
                request.message_mut().attributes.push(managed);
            }
        }
        request.execute().await.map_err(failed(format!("install the neighbour {addr}")))
    }

    pub async fn delete_neighbour(&self, device: u32, addr: Addr) -> Result<()> {
        let message = self.handle.neighbours().add(device, addr.ip()).message_mut().clone();
        let deleted = self.handle.neighbours().del(message).execute().await;
        deleted.map_err(failed(format!("delete the neighbour {addr}")))
    }

    pub async fn neighbours(&self, device: u32) -> Result<Vec<Neighbour>> {
        let dumped = self.handle.neighbours().get().execute().try_collect::<Vec<_>>().await;
        let all = dumped.map_err(failed("list neighbours".into()))?;
        Ok(all.iter().filter_map(Neighbour::read).filter(|neighbour| neighbour.device == device).collect())
    }
}

fn own_addr(message: &AddressMessage) -> Option<Addr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(ip) | AddressAttribute::Address(ip) => Some(Addr::from(*ip)),
        _ => None,
    })
}

fn route_addr(addr: &RouteAddress) -> Option<Addr> {
    match addr {
        RouteAddress::Inet(v4) => Some(Addr::from(*v4)),
        RouteAddress::Inet6(v6) => Some(Addr::from(*v6)),
        _ => None,
    }
}

/// The default route carries no destination.
fn destination(message: &RouteMessage) -> Option<Prefix> {
    use rtnetlink::packet_route::AddressFamily;
    let unspecified = match message.header.address_family {
        AddressFamily::Inet => Addr::v4([0; 4]),
        AddressFamily::Inet6 => Addr::v6([0; 16]),
        _ => return None,
    };
    let named = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(addr) => route_addr(addr),
        _ => None,
    });
    Prefix::new(named.unwrap_or(unspecified), message.header.destination_prefix_length)
}

fn forwarding(message: &RouteMessage) -> Option<Forwarding> {
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let mut route = Forwarding { to: destination(message)?, gateway: None, device: 0, metric: 0 };
    let hops = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => hops.first(),
        _ => None,
    });
    // Of several next hops the first is taken: Fairway does not spread over routers.
    if let Some(hop) = hops {
        route.device = hop.interface_index;
    }
    for attribute in message.attributes.iter().chain(hops.into_iter().flat_map(|hop| &hop.attributes)) {
        match attribute {
            RouteAttribute::Oif(device) => route.device = *device,
            RouteAttribute::Gateway(addr) => route.gateway = route_addr(addr),
            // A next hop of the other family: IPv4 by an IPv6 router.
            RouteAttribute::Via(RouteVia::Inet6(v6)) => route.gateway = Some(Addr::from(*v6)),
            RouteAttribute::Via(RouteVia::Inet(v4)) => route.gateway = Some(Addr::from(*v4)),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            _ => {}
        }
    }
    Some(route)
}
