//! The few things that no safe crate offers: the TUN driver's ioctls and some of ethtool's, what libbpf asks of XDP, two options of AF_XDP sockets,
//! packet sockets with a filter, and waiting for a descriptor of ours in the event loop. It must not decide anything: a safe function each, and nothing else in this
//! crate is unsafe.
#![allow(unsafe_code)] // ioctl and setsockopt take raw pointers, AsyncFd a promise; each call says why it is sound.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use tokio::io::unix::AsyncFd;

/// `struct ifreq` as TUNSETIFF reads it: a name and a short of flags in 40 bytes (linux/if.h).
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<InterfaceRequest>() == size_of::<libc::ifreq>());

/// `struct ethtool_value`, and `struct ifreq` as SIOCETHTOOL reads it: a name and a pointer in 40 bytes.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

#[repr(C)]
struct EthtoolRequest {
    name: [u8; libc::IFNAMSIZ],
    value: *mut libc::c_void,
    rest: [u8; 24 - size_of::<*mut libc::c_void>()],
}

/// `struct ethtool_drvinfo`, of which only the name is of interest.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// `struct ethtool_rxnfc`: what flows are spread by.
#[repr(C)]
struct Classification {
    command: u32,
    flow_type: u32,
    data: u64,
    rule: [u64; 21],
    rules_count: u32,
    padding: u32,
}

/// The same, with the places of rules that lead past that.
#[repr(C)]
struct Rules {
    command: u32,
    flow_type: u32,
    data: u64,
    rule: [u64; 21],
    count: u32,
    places: [u32; RULES_MAX],
}

/// More than NICs have room for; odd, so that the structure ends with a whole word.
const RULES_MAX: usize = 4095;

const _: () = assert!(std::mem::offset_of!(Rules, places) == 188 && size_of::<Rules>() == 188 + 4 * RULES_MAX);

const _: () = assert!(size_of::<DriverInfo>() == 196 && size_of::<Classification>() == 192);

const _: () = assert!(size_of::<EthtoolRequest>() == size_of::<libc::ifreq>());

/// linux/ethtool.h, linux/sockios.h
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;
const SIOCETHTOOL: u32 = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 0x3;
const ETHTOOL_GRXFH: u32 = 0x29;
const ETHTOOL_GRXCLSRLALL: u32 = 0x30;
/// Both ports.
const RXH_L4: u64 = 1 << 6 | 1 << 7;
pub const UDP_V4_FLOW: u32 = 2;
pub const UDP_V6_FLOW: u32 = 6;

/// linux/if_tun.h
const TUN_F_CSUM: libc::c_uint = 0x01;
const TUN_F_TSO4: libc::c_uint = 0x02;
const TUN_F_TSO6: libc::c_uint = 0x04;
const TUN_F_TSO_ECN: libc::c_uint = 0x08;
/// Since Linux 6.2.
const TUN_F_USO4: libc::c_uint = 0x20;
const TUN_F_USO6: libc::c_uint = 0x40;

/// Since Linux 5.11 (include/uapi/asm-generic/socket.h).
const SO_PREFER_BUSY_POLL: libc::c_int = 69;
const SO_BUSY_POLL_BUDGET: libc::c_int = 70;

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes or joins the TAP of this name in the caller's network namespace: raw frames behind a virtio-net header.
pub fn tun_set_interface(fd: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    let mut request = InterfaceRequest { name: device_name(name)?, flags, rest: [0; 22] };
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which `request` is (size asserted above).
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &mut request) })
}

/// The device stays when its last descriptor closes.
pub fn tun_set_persistent(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes its argument by value.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETPERSIST, 1 as libc::c_ulong) })
}

/// Bytes of the virtio-net header before each frame.
pub fn tun_set_header_size(fd: BorrowedFd<'_>, size: i32) -> io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &size) })
}

/// What the reader of this TAP takes from the kernel: half-computed checksums and TCP super-frames, and UDP ones where the
/// kernel knows them (answers whether it does).
pub fn tun_set_offloads(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    let set = |flags: libc::c_uint| {
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, flags as libc::c_ulong) })
    };
    match set(tcp | TUN_F_USO4 | TUN_F_USO6) {
        Ok(()) => Ok(true),
        Err(_) => set(tcp).map(|()| false),
    }
}

/// Whether a device takes VLAN tags out of the frames that it receives.
pub fn vlan_offload(device: &str) -> io::Result<bool> {
    ethtool_flags(device, ETHTOOL_GFLAGS, 0).map(|flags| flags & ETH_FLAG_RXVLAN != 0)
}

pub fn set_vlan_offload(device: &str, on: bool) -> io::Result<()> {
    let flags = ethtool_flags(device, ETHTOOL_GFLAGS, 0)?;
    let wanted = if on { flags | ETH_FLAG_RXVLAN } else { flags & !ETH_FLAG_RXVLAN };
    ethtool_flags(device, ETHTOOL_SFLAGS, wanted)?;
    // A driver may keep what it does not want to change.
    if vlan_offload(device)? == on { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
}

fn ethtool_flags(device: &str, command: u32, data: u32) -> io::Result<u32> {
    let mut value = EthtoolValue { command, data };
    ethtool(device, &mut value)?;
    Ok(value.data)
}

/// The name of a device's driver.
pub fn driver(device: &str) -> io::Result<String> {
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    ethtool(device, &mut info)?;
    let name = info.driver.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

fn classification(device: &str, command: u32, flow_type: u32) -> io::Result<Classification> {
    let mut all = Classification { command, flow_type, data: 0, rule: [0; 21], rules_count: 0, padding: 0 };
    ethtool(device, &mut all)?;
    Ok(all)
}

/// Whether a NIC spreads a kind of flows over its queues by ports, too; None if it is not up to it what they are spread by.
pub fn hashes_ports(device: &str, flow_type: u32) -> io::Result<Option<bool>> {
    classification(device, ETHTOOL_GRXFH, flow_type).map(|all| (all.data != 0).then_some(all.data & RXH_L4 == RXH_L4))
}

/// The places of rules that steer packets to queues of their own, by which `ethtool -N` deletes them.
pub fn steering_rules(device: &str) -> io::Result<Vec<u32>> {
    let count = RULES_MAX as u32;
    let mut rules = Box::new(Rules {
        command: ETHTOOL_GRXCLSRLALL,
        flow_type: 0,
        data: 0,
        rule: [0; 21],
        count,
        places: [0; RULES_MAX],
    });
    ethtool(device, &mut *rules)?;
    Ok(rules.places[..rules.count.min(count) as usize].to_vec())
}

/// `value` is the structure of the command that it begins with.
fn ethtool<T>(device: &str, value: &mut T) -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    let value = (&raw mut *value).cast();
    let mut request = EthtoolRequest { name: device_name(device)?, value, rest: Default::default() };
    // SAFETY: SIOCETHTOOL reads one `struct ifreq`, which `request` is (size asserted above); the commands used here read and
    // write the one structure that it points to, whose size is asserted or plain, and which outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &mut request) })
}

/// What the kernel says of XDP on a device.
#[derive(Clone, Copy, Debug, Default)]
pub struct XdpOf {
    /// `enum netdev_xdp_act`
    pub features: u64,
    /// Buffers of one packet in zero-copy mode.
    pub zero_copy_segments: u32,
    /// Ids of what is attached, by driver, in hardware and generic; 0 for none.
    pub programs: [u32; 3],
}

pub fn xdp_of(device: u32) -> io::Result<XdpOf> {
    let mut options =
        libbpf_sys::bpf_xdp_query_opts { sz: size_of::<libbpf_sys::bpf_xdp_query_opts>() as _, ..Default::default() };
    // SAFETY: it writes no more of `options` than its `sz` says, which is its size.
    let result = unsafe { libbpf_sys::bpf_xdp_query(device as i32, 0, &mut options) };
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    let programs = [options.drv_prog_id, options.hw_prog_id, options.skb_prog_id];
    Ok(XdpOf { features: options.feature_flags, zero_copy_segments: options.xdp_zc_max_segs, programs })
}

fn device_name(name: &str) -> io::Result<[u8; libc::IFNAMSIZ]> {
    let mut bytes = [0; libc::IFNAMSIZ];
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an interface name has 1 to 15 bytes"));
    }
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    Ok(bytes)
}

/// Lets the owner of this AF_XDP socket drive the NIC's queue itself; `budget` is packets a turn. Needs CAP_NET_ADMIN.
pub fn prefer_busy_poll(fd: BorrowedFd<'_>, budget: i32) -> io::Result<()> {
    set_option(fd, SO_PREFER_BUSY_POLL, 1)?;
    set_option(fd, SO_BUSY_POLL_BUDGET, budget)
}

fn set_option(fd: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option's value is one int that outlives the call.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const value).cast(), size) })
}

/// What a frame must have at an offset to pass a filter: (offset, whether it is a word of two bytes or one, value).
pub type Must = (u32, bool, u32);

/// A packet socket for the frames of one type that a device receives; it sends whole frames out of it.
pub fn packet_socket(device: u32, ethertype: u16, musts: &[Must]) -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // Of no protocol before it is bound: nothing comes in past the filter.
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
    let mut filter = filter(musts);
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
    let (fd, option) = (socket.as_raw_fd(), libc::SO_ATTACH_FILTER);
    // SAFETY: the option's value is one sock_fprog, which points to as many instructions as it says; both outlive the call.
    check(unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, (&raw const program).cast(), size) })?;
    let place = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ethertype.to_be(),
        sll_ifindex: device as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `place` is a sockaddr_ll of the size given, and outlives the call.
    check(unsafe { libc::bind(fd, (&raw const place).cast(), size) })?;
    Ok(socket)
}

/// Classic BPF: a load and a comparison for each, that leads to the end (0 bytes) unless it holds.
fn filter(musts: &[Must]) -> Vec<libc::sock_filter> {
    let code = |code: u32, jf: usize, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: jf as u8, k };
    let mut program = Vec::with_capacity(2 * musts.len() + 2);
    for (i, &(offset, is_word, value)) in musts.iter().enumerate() {
        let size = if is_word { libc::BPF_H } else { libc::BPF_B };
        program.push(code(libc::BPF_LD | size | libc::BPF_ABS, 0, offset));
        let left = 2 * (musts.len() - 1 - i) + 1;
        program.push(code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, left, value));
    }
    program.push(code(libc::BPF_RET | libc::BPF_K, 0, u32::MAX));
    program.push(code(libc::BPF_RET | libc::BPF_K, 0, 0));
    program
}

/// Memory of this content that can be mapped by others: its size is fixed for good.
pub fn sealed_copy(file: &mut std::fs::File) -> io::Result<OwnedFd> {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    let fd = memfd_create(c"fairway-flows", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut copy = std::fs::File::from(fd);
    io::copy(file, &mut copy)?;
    fcntl_add_seals(&copy, SealFlags::SHRINK | SealFlags::GROW)?;
    Ok(copy.into())
}

/// Keeps what many objects leave behind together, so that [`trim_heap`] finds it in whole pages; blocks of 1 MiB and more
/// are maps of their own, which go when they are freed. To be called before any other thread begins.
pub fn keep_heap_dense() {
    // SAFETY: they take no pointer, and hold for what is allocated later.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
    };
}

/// Gives memory back that the allocator keeps and nobody uses.
pub fn trim_heap() {
    // SAFETY: it takes no pointer, and what is in use stays where it is.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Watches a descriptor in the event loop. Must be called inside a tokio runtime.
pub fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the AsyncFd owns the descriptor, and an OwnedFd always returns the same one until it is dropped.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}
