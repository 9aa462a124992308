//! Announcement on the local link: of the nodes heard from within the last second one answers for each address of a load
//! balancer, so that hosts on the link send its packets there. Who that is every node finds for itself by rendezvous
//! hash; nodes hear each other by datagrams ([`members`]), and nothing else is asked, an API server least of all.
//!
//! It runs on a thread of its own ([`speaker`]), for a node that compiles much must not fall silent meanwhile.

mod link;
pub mod members;
pub mod neighbour;
pub mod share;
mod speaker;

pub use share::{Candidates, Wanted};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use tables::{Addr, Mac};
use tokio::sync::watch;

/// What stays as it was at the start.
#[derive(Clone, Debug)]
pub struct Config {
    pub node: String,
    /// The uplink: its VLAN, where it is one.
    pub device: String,
    pub device_index: u32,
    /// Where nodes hear each other.
    pub port: u16,
    /// Tells clusters on one link apart.
    pub vni: u32,
}

/// What this node wants to be announced, and whether it can serve it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    pub is_serving: bool,
    pub mac: Mac,
    pub wanted: Arc<Wanted>,
}

/// Who announces what, as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    pub owners: BTreeMap<Addr, String>,
    /// Nodes heard, and whether they can serve.
    pub heard: BTreeMap<String, bool>,
    /// The node that writes for all.
    pub writer: Option<String>,
    pub problems: Vec<String>,
}

/// Ends the announcements when dropped, with a word to the others.
pub struct Announcer {
    orders: Option<watch::Sender<Order>>,
    views: watch::Receiver<View>,
    thread: Option<JoinHandle<()>>,
}

impl Announcer {
    pub fn start(config: Config) -> std::io::Result<Announcer> {
        let (orders, to_speaker) = watch::channel(Order::default());
        let (from_speaker, views) = watch::channel(View::default());
        let speak = move || speaker::run(config, to_speaker, from_speaker);
        let thread = std::thread::Builder::new().name("announce".to_owned()).spawn(speak)?;
        Ok(Announcer { orders: Some(orders), views, thread: Some(thread) })
    }

    pub fn order(&self, order: Order) {
        let is_news = |kept: &mut Order| {
            let is_same = Arc::ptr_eq(&kept.wanted, &order.wanted) || kept.wanted == order.wanted;
            let is_news = !is_same || (kept.is_serving, kept.mac) != (order.is_serving, order.mac);
            if is_news {
                *kept = order;
            }
            is_news
        };
        self.orders.as_ref().inspect(|orders| _ = orders.send_if_modified(is_news));
    }

    pub fn view(&self) -> View {
        self.views.borrow().clone()
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.orders = None;
        self.thread.take().map(JoinHandle::join);
    }
}
