//! Token buckets of the kernel (`tc qdisc ... tbf`), and the detour of what a device receives over another one. It must not
//! decide which rates are right.
//!
//! Sources: linux/pkt_sched.h (TCA_TBF_*, `struct tc_tbf_qopt`), tc-tbf(8), tc-mirred(8).

use super::{Netlink, Result, failed};
use crate::bandwidth::Bucket;
use futures_util::StreamExt;
use futures_util::stream::TryStreamExt;
use rtnetlink::packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Nla,
    NlasIterator,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::tc::{
    TcActionAttribute, TcActionMirrorOption, TcActionOption, TcAttribute, TcFilterU32Option, TcHandle, TcMessage,
    TcOption,
};
use rtnetlink::{Error, LinkIfb, LinkUnspec};
use tables::Mac;

const KIND: &str = "tbf";
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
/// `TC_LINKLAYER_ETHERNET`: the kernel works out times by itself.
const LINK_LAYER: u8 = 1;
/// Where `struct tc_tbf_qopt` has its rate (bytes a second), and its size.
const RATE_AT: usize = 8;
const PARMS_SIZE: usize = 36;
const LIMIT_AT: usize = 24;
const ETH_P_ALL: u16 = libc::ETH_P_ALL as u16;

/// `struct tc_tbf_qopt`: a rate, no peak rate, and how much may wait.
fn parms(bucket: &Bucket) -> Vec<u8> {
    let mut parms = vec![0; PARMS_SIZE];
    parms[1] = LINK_LAYER;
    let rate = u32::try_from(bucket.bytes_per_s).unwrap_or(u32::MAX);
    parms[RATE_AT..RATE_AT + 4].copy_from_slice(&rate.to_ne_bytes());
    parms[LIMIT_AT..LIMIT_AT + 4].copy_from_slice(&bucket.queue_size.to_ne_bytes());
    parms
}

fn options(bucket: &Bucket) -> Vec<TcOption> {
    let mut options = vec![
        DefaultNla::new(TCA_TBF_PARMS, parms(bucket)),
        DefaultNla::new(TCA_TBF_BURST, bucket.burst_size.to_ne_bytes().to_vec()),
    ];
    if bucket.bytes_per_s > u64::from(u32::MAX) {
        options.push(DefaultNla::new(TCA_TBF_RATE64, bucket.bytes_per_s.to_ne_bytes().to_vec()));
    }
    options.into_iter().map(TcOption::Other).collect()
}

/// Bytes a second of a bucket that was dumped, all options of which come as one.
fn rate_of(options: &DefaultNla) -> Option<u64> {
    let mut bytes = vec![0; options.value_len()];
    options.emit_value(&mut bytes);
    let mut rate = None;
    for option in NlasIterator::new(&bytes[..]).flatten() {
        let value = option.value();
        match option.kind() {
            TCA_TBF_RATE64 => return value.try_into().ok().map(u64::from_ne_bytes),
            TCA_TBF_PARMS => {
                let field = value.get(RATE_AT..RATE_AT + 4)?.try_into().ok()?;
                rate = Some(u64::from(u32::from_ne_bytes(field)));
            }
            _ => {}
        }
    }
    rate
}

fn options_of(message: &TcMessage) -> impl Iterator<Item = &TcOption> {
    let options = message.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    options.flatten()
}

/// The device that a filter leads to.
fn target(option: &TcOption) -> Option<u32> {
    let TcOption::U32(TcFilterU32Option::Action(actions)) = option else { return None };
    let attributes = actions.iter().flat_map(|action| &action.attributes);
    let options = attributes.filter_map(|attribute| match attribute {
        TcActionAttribute::Options(options) => Some(options),
        _ => None,
    });
    options.flatten().find_map(|option| match option {
        TcActionOption::Mirror(TcActionMirrorOption::Parms(parms)) => Some(parms.ifindex),
        _ => None,
    })
}

impl Netlink {
    /// What the device sends goes through this bucket from now on.
    pub async fn put_bucket(&self, device: u32, bucket: &Bucket) -> Result<()> {
        let mut message = TcMessage::with_index(device as i32);
        message.header.parent = TcHandle::ROOT;
        message.attributes = vec![TcAttribute::Kind(KIND.into()), TcAttribute::Options(options(bucket))];
        let put = self.put_discipline(message).await;
        put.map_err(failed(format!("put a token bucket ({KIND}) on the device with index {device}")))
    }

    /// The library's own request has no way in for this kind.
    async fn put_discipline(&self, message: TcMessage) -> std::result::Result<(), Error> {
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let mut answers = self.handle.clone().request(request)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload {
                return Err(Error::NetlinkError(error));
            }
        }
        Ok(())
    }

    /// Bytes a second of the bucket on a device.
    pub async fn bucket_rate(&self, device: u32) -> Result<Option<u64>> {
        let dumped = self.handle.qdisc().get().index(device as i32).execute().try_collect::<Vec<_>>().await;
        let all = dumped.map_err(failed("list queueing disciplines".into()))?;
        let is_it = |message: &&TcMessage| {
            let is_there = message.header.index == device as i32 && message.header.parent == TcHandle::ROOT;
            is_there && message.attributes.contains(&TcAttribute::Kind(KIND.into()))
        };
        let bucket = all.iter().find(is_it);
        Ok(bucket.and_then(|message| {
            options_of(message).find_map(|option| if let TcOption::Other(all) = option { rate_of(all) } else { None })
        }))
    }

    /// TCP of this namespace makes no packets longer than `size` bytes for the device.
    pub async fn limit_super_frames(&self, device: u32, size: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(device).append_extra_attribute(LinkAttribute::GsoMaxSize(size));
        let set = self.handle.link().set(message.build()).execute().await;
        set.map_err(failed(format!("limit the super-frames of the device with index {device}")))
    }

    /// Its Ethernet address cannot be changed later.
    pub async fn add_ifb(&self, name: &str, mac: Mac, mtu: u32) -> Result<()> {
        let message = LinkIfb::new(name).address(mac.0.to_vec()).mtu(mtu).build();
        let added = self.handle.link().add(message).execute().await;
        added.map_err(failed(format!("make the device {name} (ifb)")))
    }

    /// All that a device receives goes through what another one sends, and then on as if nothing had been.
    pub async fn redirect_received(&self, device: u32, over: u32) -> Result<()> {
        let what =
            || format!("lead what the device with index {device} receives over another one (ingress, u32, mirred)");
        self.handle.qdisc().add(device as i32).ingress().execute().await.map_err(failed(what()))?;
        let filter = self.handle.traffic_filter(device as i32).add().parent(u32::from(ingress()));
        let filter = filter.protocol(ETH_P_ALL.to_be()).redirect(over).map_err(failed(what()))?;
        filter.execute().await.map_err(failed(what()))
    }

    /// The device that what this one receives is led over.
    pub async fn redirected(&self, device: u32) -> Result<Option<u32>> {
        let dumped = self.handle.traffic_filter(device as i32).get().ingress().execute().try_collect::<Vec<_>>().await;
        let all = dumped.map_err(failed("list filters".into()))?;
        Ok(all.iter().flat_map(options_of).find_map(target))
    }
}

/// The handle that an ingress discipline has by default.
fn ingress() -> TcHandle {
    TcHandle { major: u16::MAX, minor: 0 }
}
