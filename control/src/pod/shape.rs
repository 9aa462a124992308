//! The rates of a pod's interface, kept by the kernel inside the pod's namespace: what the pod sends waits in a token bucket
//! on the interface itself, where senders feel it; what it receives makes a detour over an `ifb` device that has the other
//! one. So the path of packets in the dataplane knows nothing of rates, and they outlive both processes. It must not decide
//! which rates these are.

use super::{PodError, PodInterface};
use crate::bandwidth::{Bucket, QUEUE_SIZE_RECEIVED, QUEUE_SIZE_SENT};
use crate::netlink::{LinkInfo, Netlink, NetlinkError};
use crate::sysctl;

/// Bytes of a packet that the kernel does not make any longer by itself.
const SUPER_FRAME_BYTES_MAX: u32 = 65_536;
/// Of a device's name.
const NAME_BYTES_MAX: usize = 15;
const IFB: &str = "ifb";

impl PodInterface {
    /// The device that what it receives waits in.
    fn detour(&self) -> String {
        let ifname = &self.ifname;
        let rest = NAME_BYTES_MAX - IFB.len() - 1;
        // Names are ASCII, as the plugin checked; of long ones the end differs.
        format!("{IFB}-{}", ifname.get(ifname.len().saturating_sub(rest)..).unwrap_or(ifname))
    }

    fn egress(&self) -> Option<Bucket> {
        self.bandwidth.egress.map(|rate| rate.bucket(self.mtu, QUEUE_SIZE_SENT))
    }

    fn ingress(&self) -> Option<Bucket> {
        self.bandwidth.ingress.map(|rate| rate.bucket(self.mtu, QUEUE_SIZE_RECEIVED))
    }

    /// Puts the rates in force on the interface with this index.
    pub(super) async fn shape(&self, netlink: &Netlink, index: u32) -> Result<(), PodError> {
        let shaped = self.try_shape(netlink, index).await;
        shaped.map_err(|source| PodError::Bandwidth { ifname: self.ifname.clone(), source })
    }

    async fn try_shape(&self, netlink: &Netlink, index: u32) -> Result<(), NetlinkError> {
        if let Some(bucket) = self.egress() {
            // What does not fit the bucket whole is cut, and senders that make nothing longer are slowed down earlier.
            netlink.limit_super_frames(index, bucket.burst_size.min(SUPER_FRAME_BYTES_MAX)).await?;
            netlink.put_bucket(index, &bucket).await?;
        }
        if let Some(bucket) = self.ingress() {
            let name = self.detour();
            netlink.add_ifb(&name, self.mac, self.mtu).await?;
            sysctl::quiet_ipv6(&name, false);
            let detour = netlink.link(&name).await?.map_or(0, |link| link.index);
            netlink.bring_up(detour, None, None).await?;
            netlink.put_bucket(detour, &bucket).await?;
            netlink.redirect_received(index, detour).await?;
        }
        Ok(())
    }

    /// What of its rates is no longer as it was made.
    pub(super) async fn unshaped(&self, netlink: &Netlink, index: u32) -> Result<Option<String>, PodError> {
        let is_kept = |found: Option<u64>, bucket: &Bucket| found == Some(bucket.bytes_per_s);
        if let Some((bucket, rate)) = self.egress().zip(self.bandwidth.egress)
            && !is_kept(netlink.bucket_rate(index).await?, &bucket)
        {
            return Ok(Some(format!("what it sends is not limited to {} bit/s", rate.bits_per_s)));
        }
        if let Some((bucket, rate)) = self.ingress().zip(self.bandwidth.ingress) {
            let detour = netlink.link(&self.detour()).await?.filter(|link| link.is_up).map_or(0, |link| link.index);
            let leads_there = detour != 0 && netlink.redirected(index).await? == Some(detour);
            if !leads_there || !is_kept(netlink.bucket_rate(detour).await?, &bucket) {
                return Ok(Some(format!("what it receives is not limited to {} bit/s", rate.bits_per_s)));
            }
        }
        Ok(None)
    }

    /// Takes the detour away; all else goes with the interface.
    pub(super) async fn unshape(&self, netlink: &Netlink) -> Result<(), PodError> {
        let is_ours = |link: &LinkInfo| link.kind == IFB && link.mac == self.mac;
        match netlink.link(&self.detour()).await?.filter(is_ours) {
            Some(link) => Ok(netlink.delete_link(link.index).await?),
            None => Ok(()),
        }
    }
}
