//! A pod's interface, made inside the pod's network namespace: a thread enters it, works there, and ends. It must not
//! know who asked or what the dataplane does with the descriptor.

mod shape;

use crate::bandwidth::Bandwidth;
use crate::ipam::GATEWAY_MAC;
use crate::netlink::{Keep, LinkInfo, Netlink, NetlinkError, Route};
use crate::{sysctl, tap};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use tables::{Addr, Mac, Prefix};

#[derive(Debug, thiserror::Error)]
pub enum PodError {
    #[error("cannot enter the pod's network namespace {path}: {source}")]
    Enter { path: PathBuf, source: io::Error },
    #[error("{0} is the node's own network namespace: a pod on the host network is not attached")]
    HostNetwork(PathBuf),
    #[error("the pod already has an interface {0}")]
    Exists(String),
    #[error("cannot make the interface {ifname} in the pod: {source}; the kernel needs CONFIG_TUN")]
    Tap { ifname: String, source: io::Error },
    #[error("the pod has no interface {0} any more")]
    Gone(String),
    #[error("the pod's interface {ifname} is not as it was made: {what}")]
    Changed { ifname: String, what: String },
    #[error(
        "cannot keep the pod's {ifname} to the rates asked for: {source}; the kernel needs CONFIG_NET_SCH_TBF for what a pod sends, and CONFIG_IFB, CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_U32 and CONFIG_NET_ACT_MIRRED for what it receives"
    )]
    Bandwidth { ifname: String, source: NetlinkError },
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error("the thread in the pod's network namespace ended early")]
    Thread,
}

/// What an interface is to be.
#[derive(Clone, Debug)]
pub struct PodInterface {
    pub netns: PathBuf,
    pub ifname: String,
    pub mac: Mac,
    pub addrs: Vec<Addr>,
    /// One of each family of `addrs`.
    pub gateways: Vec<Addr>,
    pub mtu: u32,
    pub bandwidth: Bandwidth,
}

/// What was made.
pub struct Made {
    pub tap: OwnedFd,
    pub ifindex: u32,
}

impl PodInterface {
    pub async fn create(self) -> Result<Made, PodError> {
        let netns = self.netns.clone();
        inside(netns, move || async move {
            let netlink = connect()?;
            if netlink.link(&self.ifname).await?.is_some() {
                return Err(PodError::Exists(self.ifname));
            }
            let tap = tap::open(&self.ifname).map_err(|source| self.tap_error(source))?;
            let kept = |ifindex| tap::keep(tap.as_fd()).map(|()| ifindex).map_err(|source| self.tap_error(source));
            let made = self.configure(&netlink).await.and_then(kept);
            if made.is_err() {
                delete(&netlink, &self.ifname).await?;
                self.unshape(&netlink).await?;
            }
            Ok(Made { ifindex: made?, tap })
        })
        .await
    }

    async fn configure(&self, netlink: &Netlink) -> Result<u32, PodError> {
        let index = self.index(netlink).await?;
        let v6 = self.addrs.iter().any(|addr| !addr.is_v4());
        sysctl::quiet_ipv6(&self.ifname, v6);
        netlink.bring_up(LOOPBACK, None, None).await?;
        netlink.bring_up(index, Some(self.mac), Some(self.mtu)).await?;
        for addr in &self.addrs {
            netlink.add_address(index, *addr).await?;
        }
        for gateway in &self.gateways {
            netlink.put_neighbour(index, *gateway, Keep::Permanent(GATEWAY_MAC)).await?;
            for route in routes(*gateway, index) {
                netlink.put_route(&route).await?;
            }
        }
        self.shape(netlink, index).await?;
        Ok(index)
    }

    async fn index(&self, netlink: &Netlink) -> Result<u32, PodError> {
        let link = netlink.link(&self.ifname).await?;
        Ok(link.ok_or_else(|| PodError::Gone(self.ifname.clone()))?.index)
    }

    fn tap_error(&self, source: io::Error) -> PodError {
        PodError::Tap { ifname: self.ifname.clone(), source }
    }

    /// Joins the interface again after its descriptors were lost.
    pub async fn reopen(self) -> Result<Made, PodError> {
        let netns = self.netns.clone();
        inside(netns, move || async move {
            let ifindex = self.index(&connect()?).await?;
            let tap = tap::open(&self.ifname).map_err(|source| self.tap_error(source))?;
            Ok(Made { tap, ifindex })
        })
        .await
    }

    /// Takes the interface away; a namespace or interface that is gone is no error. One of another's is left: the path may
    /// have come to name the namespace of a younger process.
    pub async fn remove(self) -> Result<(), PodError> {
        let netns = self.netns.clone();
        let removed = inside(netns, move || async move {
            let netlink = connect()?;
            match netlink.link(&self.ifname).await? {
                Some(link) if self.is_ours(&netlink, &link).await? => netlink.delete_link(link.index).await?,
                _ => {}
            }
            self.unshape(&netlink).await
        })
        .await;
        match removed {
            Err(PodError::Enter { source, .. }) if is_gone(&source) => Ok(()),
            // A namespace that is the node's own now was a pod's before.
            Err(PodError::HostNetwork(_)) => Ok(()),
            other => other,
        }
    }

    /// By what at most one of two has lost: users may change either.
    async fn is_ours(&self, netlink: &Netlink, link: &LinkInfo) -> Result<bool, PodError> {
        let addrs = netlink.addresses(link.index).await?;
        Ok(link.mac == self.mac || self.addrs.iter().any(|addr| addrs.contains(addr)))
    }

    /// Fails if it is no more as it was made.
    pub async fn check(self) -> Result<(), PodError> {
        let netns = self.netns.clone();
        inside(netns, move || async move {
            let netlink = connect()?;
            let found = netlink.link(&self.ifname).await?;
            let link = found.ok_or_else(|| PodError::Gone(self.ifname.clone()))?;
            let changed = |what: String| PodError::Changed { ifname: self.ifname.clone(), what };
            if link.mac != self.mac {
                return Err(changed(format!("its Ethernet address is {}, not {}", link.mac, self.mac)));
            }
            if !link.is_up {
                return Err(changed("it is down".into()));
            }
            let addrs = netlink.addresses(link.index).await?;
            if let Some(missing) = self.addrs.iter().find(|addr| !addrs.contains(addr)) {
                return Err(changed(format!("it has lost its address {missing}")));
            }
            let found = netlink.own_routes().await?;
            let is_there = |route: &Route| found.iter().any(|(_, message)| Netlink::is_route(message, route));
            let mut wanted = self.gateways.iter().flat_map(|gateway| routes(*gateway, link.index));
            match wanted.find(|route| !is_there(route)) {
                Some(missing) => Err(changed(format!("the route to {} is missing", missing.to()))),
                None => self.unshaped(&netlink, link.index).await?.map_or(Ok(()), |what| Err(changed(what))),
            }
        })
        .await
    }
}

/// The kernel makes it the first device of each namespace, and gives it its addresses once it is up.
const LOOPBACK: u32 = 1;

pub async fn bring_loopback_up(netns: PathBuf) -> Result<(), PodError> {
    inside(netns, || async { Ok(connect()?.bring_up(LOOPBACK, None, None).await?) }).await
}

pub async fn check_loopback(netns: PathBuf) -> Result<(), PodError> {
    let is_up = inside(netns, || async { Ok(connect()?.link_at(LOOPBACK).await?.is_some_and(|link| link.is_up)) });
    let down = || PodError::Changed { ifname: "lo".into(), what: "it is down".into() };
    if is_up.await? { Ok(()) } else { Err(down()) }
}

/// Neither a path that is no longer there, nor one that is no namespace any more.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.kind() == io::ErrorKind::InvalidInput
}

async fn delete(netlink: &Netlink, ifname: &str) -> Result<(), PodError> {
    if let Some(link) = netlink.link(ifname).await? {
        netlink.delete_link(link.index).await?;
    }
    Ok(())
}

fn connect() -> Result<Netlink, PodError> {
    Netlink::connect().map_err(|_| PodError::Thread)
}

fn routes(gateway: Addr, device: u32) -> [Route; 2] {
    let everything = Prefix::mapped(gateway, if gateway.is_v4() { 96 } else { 0 });
    [
        Route::Link { to: Prefix::host(gateway), device, src: None },
        Route::Via { to: everything, gateway, device, src: None },
    ]
}

/// Runs `work` on a thread of its own inside the namespace.
async fn inside<T, W, F>(netns: PathBuf, work: W) -> Result<T, PodError>
where
    T: Send + 'static,
    W: FnOnce() -> F + Send + 'static,
    F: Future<Output = Result<T, PodError>>,
{
    let (answer, result) = tokio::sync::oneshot::channel();
    let thread = move || {
        let done = enter(&netns).and_then(|()| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(|_| PodError::Thread)?.block_on(work())
        });
        let _ = answer.send(done);
    };
    let spawned = std::thread::Builder::new().name("pod-netns".into()).spawn(thread);
    spawned.map_err(|_| PodError::Thread)?;
    result.await.map_err(|_| PodError::Thread)?
}

fn enter(path: &Path) -> Result<(), PodError> {
    let fail = |source| PodError::Enter { path: path.to_owned(), source };
    let file = File::open(path).map_err(fail)?;
    let own = File::open("/proc/self/ns/net").and_then(|own| own.metadata()).map_err(fail)?;
    use std::os::unix::fs::MetadataExt;
    let there = file.metadata().map_err(fail)?;
    if (own.dev(), own.ino()) == (there.dev(), there.ino()) {
        return Err(PodError::HostNetwork(path.to_owned()));
    }
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|errno| fail(errno.into()))
}
