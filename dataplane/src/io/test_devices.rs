//! Real devices for tests: network namespaces that live as long as a thread, TAPs made as control makes them, veth pairs,
//! an XDP program that redirects everything, and a forwarder between two interfaces.
#![allow(unsafe_code)] // ioctls of /dev/net/tun, bpf(2), unshare(2)

use super::Interface;
use super::frames::Memory;
use super::pool::FramePool;
use crate::packet::{Burst, Packet};
use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{IntegerSetter, Setter, Updater, ioctl};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace: that of a thread, which does what it is told inside. Ends with the value.
pub struct Namespace {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    pub fn new() -> Namespace {
        let (jobs, inbox) = channel::<Job>();
        let thread = std::thread::spawn(move || {
            // SAFETY: only this thread's network namespace changes; nothing else depends on it.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
                .expect("these tests make network namespaces: run them as root");
            inbox.iter().for_each(|job| job());
        });
        let namespace = Namespace { jobs: Some(jobs), thread: Some(thread) };
        namespace.shell("ip link set lo up");
        namespace
    }

    /// Runs it inside and waits for it.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.start(job)()
    }

    /// Runs it inside; the answer waits for it. Jobs of one namespace run one after the other.
    pub fn start<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> impl FnOnce() -> T {
        let (answer, outcome) = channel();
        let job: Job = Box::new(move || drop(answer.send(job())));
        self.jobs.as_ref().expect("open").send(job).expect("the namespace's thread lives");
        move || outcome.recv().expect("the job inside the namespace failed, see above")
    }

    pub fn shell(&self, script: &str) {
        let script = script.to_owned();
        self.run(move || {
            let output = Command::new("sh").args(["-ec", &script]).output().expect("sh runs");
            assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
        });
    }

    /// A path by which other threads' `ip` can name this namespace.
    pub fn path(&self) -> String {
        self.run(|| format!("/proc/{}/task/{}/ns/net", std::process::id(), rustix::thread::gettid().as_raw_nonzero()))
    }

    pub fn ifindex(&self, name: &str) -> u32 {
        let name = std::ffi::CString::new(name).expect("a name");
        // SAFETY: a C string that lives until the call returns.
        self.run(move || unsafe { libc::if_nametoindex(name.as_ptr()) })
    }

    /// Makes a TAP as control makes them for pods, up, with this address (CIDR).
    pub fn tap(&self, name: &str, address: &str) -> OwnedFd {
        let device = name.to_owned();
        let fd = self.run(move || make_tap(&device));
        self.shell(&format!("ip address add {address} dev {name}; ip link set {name} up"));
        fd
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn make_tap(name: &str) -> OwnedFd {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open("/dev/net/tun", flags, Mode::empty()).expect("/dev/net/tun opens");
    // SAFETY: all bytes zero are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from as _);
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
    const OFFLOADS: usize = (libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN) as usize;
    // TUN_F_USO4 and 6 (Linux 6.2).
    const USO: usize = 0x20 | 0x40;
    // SAFETY: each ioctl is given the argument that its number stands for.
    unsafe {
        ioctl(&fd, Updater::<{ libc::TUNSETIFF as _ }, _>::new(&mut request)).expect("TUNSETIFF");
        ioctl(&fd, Setter::<{ libc::TUNSETVNETHDRSZ as _ }, i32>::new(12)).expect("TUNSETVNETHDRSZ");
        let offloads = IntegerSetter::<{ libc::TUNSETOFFLOAD as _ }>::new_usize(OFFLOADS | USO);
        ioctl(&fd, offloads).expect("TUNSETOFFLOAD");
    }
    fd
}

/// A pool of `frames` of 2 KiB, the only one.
pub fn pool(frames: u32) -> FramePool {
    let (memory, frames) = Memory::create(frames, 2048).expect("memory");
    FramePool::divide(Arc::new(memory), frames, 1).remove(0)
}

/// What `interface` dropped since it was last asked.
pub fn drops(interface: &mut dyn Interface) -> Vec<(tables::counters::DropReason, u64)> {
    let mut told = Vec::new();
    interface.take_drops(&mut |reason, count| told.push((reason, count)));
    told
}

/// Passes everything between two interfaces until `done`, showing each packet to `look`. Fails after 20 s.
pub fn forward(
    pool: &mut FramePool,
    interfaces: [&mut dyn Interface; 2],
    mut look: impl FnMut(&FramePool, &Packet),
    mut done: impl FnMut() -> bool,
) {
    let [one, other] = interfaces;
    let started = Instant::now();
    let (mut burst, timeout) = (Burst::default(), rustix::event::Timespec { tv_sec: 0, tv_nsec: 10_000_000 });
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(20), "no end after 20 s");
        let mut moved = 0;
        for backwards in [false, true] {
            let (from, to) = if backwards { (&mut *other, &mut *one) } else { (&mut *one, &mut *other) };
            from.rx(pool, &mut burst);
            moved += burst.len();
            burst.iter().for_each(|packet| look(pool, packet));
            to.tx(pool, &mut burst);
            burst.drain().for_each(|packet| pool.put_packet(packet));
            from.housekeep(pool);
        }
        if moved == 0 {
            use rustix::event::{PollFd, PollFlags, poll};
            let ready = [&*one, &*other].map(|i| PollFd::from_borrowed_fd(i.readiness().expect("fd"), PollFlags::IN));
            let mut ready = ready;
            poll(&mut ready, Some(&timeout)).expect("poll");
        }
    }
}

/// An XDP program on a device that redirects each queue's packets to the socket in its map, by raw bpf(2).
pub struct Redirect {
    map: OwnedFd,
    _program: OwnedFd,
    _link: OwnedFd,
}

const BPF_MAP_CREATE: i64 = 0;
const BPF_MAP_UPDATE_ELEM: i64 = 2;
const BPF_PROG_LOAD: i64 = 5;
const BPF_LINK_CREATE: i64 = 28;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
/// Packets may have several buffers.
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const QUEUES_MAX: u32 = 8;

/// One bpf(2) call: `words` are put at their byte offsets of `union bpf_attr`.
fn bpf(command: i64, words: &[(usize, u64, usize)]) -> i64 {
    let mut attr = [0u64; 16];
    for &(offset, value, size) in words {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut attr);
        bytes[offset..offset + size].copy_from_slice(&value.to_ne_bytes()[..size]);
    }
    // SAFETY: the kernel reads (and may write) the 128 bytes given; pointers in it live until the call returns.
    unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(&attr)) }
}

fn owned(what: &str, fd: i64) -> OwnedFd {
    assert!(fd >= 0, "{what}: {}", std::io::Error::last_os_error());
    // SAFETY: the call has just returned this descriptor, nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

impl Redirect {
    /// To be called inside the device's namespace.
    pub fn attach(ifindex: u32) -> Redirect {
        let sizes = [(0, BPF_MAP_TYPE_XSKMAP as u64, 4), (4, 4, 4), (8, 4, 4), (12, QUEUES_MAX as u64, 4)];
        let map = owned("BPF_MAP_CREATE", bpf(BPF_MAP_CREATE, &sizes));
        let code: [u64; 7] = [
            instruction(0x61, 2, 1, 16, 0),                     // r2 = context.rx_queue_index
            instruction(0x18, 1, 1, 0, map.as_raw_fd() as u32), // r1 = map ...
            0,
            instruction(0xb7, 3, 0, 0, 2),  // r3 = XDP_PASS
            instruction(0x85, 0, 0, 0, 51), // bpf_redirect_map(r1, r2, r3)
            instruction(0x95, 0, 0, 0, 0),  // return its answer
            instruction(0x95, 0, 0, 0, 0),
        ];
        let (license, code_at) = (c"Apache-2.0", code.as_ptr() as u64);
        let load = [
            (0, BPF_PROG_TYPE_XDP as u64, 4),
            (4, 6, 4),
            (8, code_at, 8),
            (16, license.as_ptr() as u64, 8),
            (44, BPF_F_XDP_HAS_FRAGS as u64, 4),
        ];
        let program = owned("BPF_PROG_LOAD", bpf(BPF_PROG_LOAD, &load));
        let link = [(0, program.as_raw_fd() as u64, 4), (4, ifindex as u64, 4), (8, BPF_XDP as u64, 4)];
        let link = owned("BPF_LINK_CREATE", bpf(BPF_LINK_CREATE, &link));
        Redirect { map, _program: program, _link: link }
    }

    /// Redirects a queue's packets to this socket.
    pub fn insert(&self, queue: u32, socket: i32) {
        let (key, value) = (&raw const queue as u64, &raw const socket as u64);
        let update = [(0, self.map.as_raw_fd() as u64, 4), (8, key, 8), (16, value, 8)];
        let answer = bpf(BPF_MAP_UPDATE_ELEM, &update);
        assert_eq!(answer, 0, "BPF_MAP_UPDATE_ELEM: {}", std::io::Error::last_os_error());
    }
}

/// `struct bpf_insn`.
fn instruction(code: u64, dst: u64, src: u64, offset: u64, immediate: u32) -> u64 {
    code | dst << 8 | src << 12 | offset << 16 | u64::from(immediate) << 32
}
