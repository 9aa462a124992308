//! The XDP program on the uplink and its maps: which packets are Fairway's. Attached by netlink and not by a bpf_link, so
//! that it stays when this process is killed; a successor loads a fresh program, fills its maps, and replaces the old one
//! in one step. This file must not decide what is claimed.

use crate::compile::Single;
use crate::encapsulation::Encapsulation;
use bytemuck::{Pod, Zeroable};
use libbpf_rs::query::ProgInfoIter;
use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle, Object, ObjectBuilder, Program, Xdp, XdpFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use tables::route::RouteKind;
use tables::{Addr, Mac, Prefix, Protocol};

/// The program and its maps, compiled by build.rs.
const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/claim.bpf.o"));
const PROGRAM: &str = "fairway_claim";
/// linux/bpf.h
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
/// What the smallest buffer holds that the dataplane may use, 2048 less XDP's headroom, without Ethernet header, tag, FCS.
const ONE_BUFFER_MTU_MAX: u32 = 2048 - 256 - 22;
/// As in claim.bpf.c.
pub const QUEUES_MAX: u32 = 64;
/// As in claim.bpf.c: members of a bond.
pub const MEMBERS_MAX: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error(
        "cannot load the XDP program: {0}; it needs root (CAP_BPF, CAP_NET_ADMIN) and a kernel with CONFIG_XDP_SOCKETS"
    )]
    Load(libbpf_rs::Error),
    #[error("cannot write the XDP program's map {map}: {source}")]
    Map { map: String, source: libbpf_rs::Error },
    #[error("cannot attach the XDP program to {device}: {source}")]
    Attach { device: String, source: libbpf_rs::Error },
    #[error("cannot take the XDP program from {device}: {source}; try `ip link set {device} xdp off`")]
    Detach { device: String, source: libbpf_rs::Error },
    #[error(
        "{device} already runs another XDP program ({name}): detach it (ip link set {device} xdp off), or give another uplink"
    )]
    Foreign { device: String, name: String },
}

/// How the kernel runs the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    Driver,
    Generic,
}

impl AttachMode {
    pub fn name(self) -> &'static str {
        match self {
            AttachMode::Driver => "driver",
            AttachMode::Generic => "generic",
        }
    }

    fn flags(self) -> XdpFlags {
        match self {
            AttachMode::Driver => XdpFlags::DRV_MODE,
            AttachMode::Generic => XdpFlags::SKB_MODE,
        }
    }
}

/// The one row of map `config`; as `struct config` in claim.bpf.c.
#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ClaimConfig {
    node: [[u8; 16]; 2],
    mac: Mac,
    tunnel_port_be: [u8; 2],
    snat_first: u16,
    snat_last: u16,
    ip_in_ip: u16,
    vlan: u16,
    direct_port_be: [u8; 2],
    /// Of each member of a bond; 0 if the uplink is none.
    queues: u16,
    members: [u32; MEMBERS_MAX],
}

impl ClaimConfig {
    /// `station`: the uplink's Ethernet address, and the 802.1Q tag of its frames, 0 for none.
    pub fn new(
        node: &[Addr],
        station: (Mac, u16),
        tunnel: (Encapsulation, u16),
        direct_port: u16,
        snat: std::ops::RangeInclusive<u16>,
    ) -> ClaimConfig {
        let (encapsulation, port) = tunnel;
        let tunnel_port = if encapsulation.route_kind() == RouteKind::Tunnel { port } else { 0 };
        let of_family = |v4| node.iter().find(|addr| addr.is_v4() == v4).map_or([0; 16], |addr| addr.v6_octets());
        ClaimConfig {
            node: [of_family(true), of_family(false)],
            mac: station.0,
            tunnel_port_be: tunnel_port.to_be_bytes(),
            snat_first: *snat.start(),
            snat_last: *snat.end(),
            ip_in_ip: (encapsulation == Encapsulation::Ipip) as u16,
            vlan: station.1,
            direct_port_be: direct_port.to_be_bytes(),
            queues: 0,
            members: [0; MEMBERS_MAX],
        }
    }

    /// For a bond: what its members receive that are named here goes to sockets of their own, `queues` of each.
    pub fn with_members(self, queues: u32, receiving: impl Iterator<Item = Option<u32>>) -> ClaimConfig {
        let mut members = [0; MEMBERS_MAX];
        members.iter_mut().zip(receiving).for_each(|(row, member)| *row = member.unwrap_or(0));
        ClaimConfig { queues: queues as u16, members, ..self }
    }
}

/// The loaded program. Dropping it leaves an attached program in force.
pub struct Claim {
    /// Owns the program; the descriptors beside it are copies.
    _object: Object,
    program: OwnedFd,
    maps: Maps,
    config: Option<ClaimConfig>,
    ranges: BTreeSet<Prefix>,
    singles: BTreeSet<Single>,
    attached: BTreeMap<i32, AttachMode>,
}

struct Maps {
    xsks: MapHandle,
    config: MapHandle,
    ranges: MapHandle,
    singles: MapHandle,
}

impl Maps {
    fn of(object: &Object) -> Result<Maps, libbpf_rs::Error> {
        let find = |name: &str| {
            let found = object.maps().find(|map| map.name() == name);
            MapHandle::try_from(&found.ok_or_else(|| missing(name))?)
        };
        Ok(Maps { xsks: find("xsks")?, config: find("config")?, ranges: find("ranges")?, singles: find("singles")? })
    }
}

fn missing(name: &str) -> libbpf_rs::Error {
    std::io::Error::other(format!("the compiled object holds no {name}")).into()
}

fn program_of(object: &Object) -> Result<OwnedFd, libbpf_rs::Error> {
    let program = object.progs().find(|program| program.name() == PROGRAM).ok_or_else(|| missing(PROGRAM))?;
    Ok(program.as_fd().try_clone_to_owned()?)
}

impl Claim {
    /// `mtu`: if one buffer does not hold what the uplink receives, the program is one that may see just the first of
    /// several. Kernels know of those since Linux 5.18, and drivers refuse other programs then.
    pub fn load(mtu: u32) -> Result<Claim, ClaimError> {
        let load = || {
            let mut object = ObjectBuilder::default().open_memory(OBJECT)?;
            if mtu > ONE_BUFFER_MTU_MAX {
                object.progs_mut().for_each(|mut program| program.set_flags(BPF_F_XDP_HAS_FRAGS));
            }
            let object = object.load()?;
            Ok((program_of(&object)?, Maps::of(&object)?, object))
        };
        let (program, maps, object) = load().map_err(ClaimError::Load)?;
        let (ranges, singles) = (BTreeSet::new(), BTreeSet::new());
        Ok(Claim { _object: object, program, maps, config: None, ranges, singles, attached: BTreeMap::new() })
    }

    pub fn set_config(&mut self, config: ClaimConfig) -> Result<(), ClaimError> {
        if self.config != Some(config) {
            update(&self.maps.config, &0u32.to_ne_bytes(), bytemuck::bytes_of(&config))?;
            self.config = Some(config);
        }
        Ok(())
    }

    /// Claims exactly these ranges of destinations.
    pub fn set_ranges(&mut self, wanted: BTreeSet<Prefix>) -> Result<(), ClaimError> {
        for new in wanted.difference(&self.ranges) {
            update(&self.maps.ranges, &range_key(new), &1u32.to_ne_bytes())?;
        }
        for old in self.ranges.difference(&wanted) {
            delete(&self.maps.ranges, &range_key(old))?;
        }
        self.ranges = wanted;
        Ok(())
    }

    /// Claims exactly these single ports, and the fragments that are sent to their addresses.
    pub fn set_singles(&mut self, mut wanted: BTreeSet<Single>) -> Result<(), ClaimError> {
        let of_addr = |single: &Single| Single { protocol: Protocol(0), port: 0, ..*single };
        let addrs: Vec<Single> = wanted.iter().map(of_addr).collect();
        wanted.extend(addrs);
        for new in wanted.difference(&self.singles) {
            update(&self.maps.singles, &single_key(new), &1u32.to_ne_bytes())?;
        }
        for old in self.singles.difference(&wanted) {
            delete(&self.maps.singles, &single_key(old))?;
        }
        self.singles = wanted;
        Ok(())
    }

    /// Sends what a queue receives to this bound AF_XDP socket; queues of a bond's members are counted one member after the
    /// other. The kernel takes the entry out when the socket closes.
    pub fn set_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), ClaimError> {
        update(&self.maps.xsks, &queue.to_ne_bytes(), &(socket.as_raw_fd() as u32).to_ne_bytes())
    }

    /// Puts the program in force, in place of one of an earlier run; packets see either the old or the new one.
    pub fn attach(&mut self, device: &str, ifindex: u32) -> Result<AttachMode, ClaimError> {
        let index = ifindex as i32;
        if let Some(&mode) = self.attached.get(&index) {
            return Ok(mode);
        }
        let fail = |source| ClaimError::Attach { device: device.to_owned(), source };
        self.refuse_foreign(device, ifindex)?;
        let attach = |mode: AttachMode| self.xdp().attach(index, mode.flags()).map(|()| mode);
        let mode = match attach(AttachMode::Driver) {
            Ok(mode) => mode,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return Err(fail(error)),
            Err(_) => attach(AttachMode::Generic).map_err(fail)?,
        };
        self.attached.insert(index, mode);
        Ok(mode)
    }

    /// Detaches what is attached, this process's program or an earlier run's.
    pub fn detach(&mut self, ifindex: u32) {
        for mode in MODES {
            if self.attached_id(ifindex as i32, mode).is_some_and(|id| program_name(id).as_deref() == Some(PROGRAM)) {
                let _ = self.xdp().detach(ifindex as i32, mode.flags());
            }
        }
        self.attached.remove(&(ifindex as i32));
    }

    pub fn is_attached(&self, ifindex: u32) -> bool {
        self.attached.contains_key(&(ifindex as i32))
    }

    /// Generic if it is so on one device.
    pub fn mode(&self) -> Option<AttachMode> {
        let is_generic = |mode: &&AttachMode| **mode == AttachMode::Generic;
        self.attached.values().find(is_generic).or(self.attached.values().next()).copied()
    }

    pub fn refuse_foreign(&self, device: &str, ifindex: u32) -> Result<(), ClaimError> {
        for id in MODES.iter().filter_map(|&mode| self.attached_id(ifindex as i32, mode)) {
            if let Some(name) = foreign(&[id]).pop() {
                return Err(ClaimError::Foreign { device: device.to_owned(), name });
            }
        }
        Ok(())
    }

    fn attached_id(&self, index: i32, mode: AttachMode) -> Option<u32> {
        self.xdp().query_id(index, mode.flags()).ok().filter(|&id| id != 0)
    }

    fn xdp(&self) -> Xdp<'_> {
        Xdp::new(self.program.as_fd())
    }
}

const MODES: [AttachMode; 2] = [AttachMode::Driver, AttachMode::Generic];

/// Takes the program of whichever run from these devices (index, name); the indices of those that had it.
pub fn detach_left<'a>(devices: impl Iterator<Item = (u32, &'a str)>) -> Result<BTreeSet<u32>, ClaimError> {
    let ours: Vec<u32> = ProgInfoIter::default()
        .filter_map(|info| (info.name.to_string_lossy() == PROGRAM).then_some(info.id))
        .collect();
    let mut had = BTreeSet::new();
    // Asking takes a program's descriptor, whichever it is.
    let Some(&any) = ours.first() else { return Ok(had) };
    let program = Program::fd_from_id(any).map_err(ClaimError::Load)?;
    let xdp = Xdp::new(program.as_fd());
    for (index, name) in devices {
        for mode in MODES {
            if xdp.query_id(index as i32, mode.flags()).is_ok_and(|id| ours.contains(&id)) {
                let fail = |source| ClaimError::Detach { device: name.to_owned(), source };
                xdp.detach(index as i32, mode.flags()).map_err(fail)?;
                had.insert(index);
            }
        }
    }
    Ok(had)
}

/// The names of programs, by their ids, that are none of ours; 0 is none at all.
pub fn foreign(ids: &[u32]) -> Vec<String> {
    let named = ids.iter().filter(|id| **id != 0).map(|id| program_name(*id).unwrap_or_else(|| format!("id {id}")));
    named.filter(|name| name != PROGRAM).collect()
}

/// The name of a loaded program; the kernel keeps 15 characters.
fn program_name(id: u32) -> Option<String> {
    let info = ProgInfoIter::default().find(|info| info.id == id)?;
    Some(info.name.to_string_lossy().into_owned())
}

fn update(map: &MapHandle, key: &[u8], value: &[u8]) -> Result<(), ClaimError> {
    map.update(key, value, MapFlags::ANY).map_err(|source| map_error(map, source))
}

fn delete(map: &MapHandle, key: &[u8]) -> Result<(), ClaimError> {
    map.delete(key).map_err(|source| map_error(map, source))
}

fn map_error(map: &MapHandle, source: libbpf_rs::Error) -> ClaimError {
    ClaimError::Map { map: map.name().to_string_lossy().into_owned(), source }
}

/// `struct range_key`: length in native order, address in network order.
fn range_key(prefix: &Prefix) -> [u8; 20] {
    let mut key = [0; 20];
    key[..4].copy_from_slice(&(prefix.mapped_length() as u32).to_ne_bytes());
    key[4..].copy_from_slice(&prefix.addr().v6_octets());
    key
}

/// `struct single_key`.
fn single_key(single: &Single) -> [u8; 20] {
    let mut key = [0; 20];
    key[..16].copy_from_slice(&single.addr.v6_octets());
    key[16..18].copy_from_slice(&single.port.to_be_bytes());
    key[18] = single.protocol.0;
    key
}

#[cfg(test)]
#[path = "claim_tests.rs"]
mod tests;
