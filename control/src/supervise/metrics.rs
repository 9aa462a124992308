//! `/metrics` in the OpenMetrics text format. Values are read when asked for; nothing is kept here.

use super::Supervisor;
use super::session::Dataplane;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;
use tables::counters::{DropReason, WorkerCounter};

type Labels = Vec<(&'static str, String)>;
type GaugeFamily = Family<Labels, Gauge<f64, AtomicU64>>;

impl Supervisor {
    pub(super) fn metrics(&self) -> String {
        let mut registry = Registry::with_prefix("fairway");
        self.publishing_metrics(&mut registry);
        self.table_metrics(&mut registry);
        if let Some(dataplane) = &self.dataplane {
            drop_metrics(&mut registry, dataplane);
            self.interface_metrics(&mut registry);
            worker_metrics(&mut registry, dataplane);
        }
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }

    fn publishing_metrics(&self, registry: &mut Registry) {
        let seconds = |duration: std::time::Duration| duration.as_secs_f64();
        let connected = self.dataplane.is_some() as u64;
        registry.register("dataplane_connected", "1 while the dataplane is connected", ConstGauge::new(connected));
        registry.register("generation", "Tables published last", ConstGauge::new(self.publisher.generation()));
        registry.register("publishes", "Batches of changes published", ConstCounter::new(self.published.batches));
        registry.register(
            "problems",
            "Sentences that `fairway status` shows",
            ConstGauge::new(self.status_view().problems.len() as u64),
        );
        for (name, help, value) in [
            ("publish_duration", "Compiling and publishing the last batch", self.published.took),
            ("acknowledge_lag", "From the last publish to its acknowledgement by all workers", self.published.lag),
            ("acknowledge_lag_max", "The longest such time", self.published.lag_max),
        ] {
            registry.register_with_unit(name, help, Unit::Seconds, ConstGauge::new(seconds(value)));
        }
    }

    fn table_metrics(&self, registry: &mut Registry) {
        let (used, limit) = (GaugeFamily::default(), GaugeFamily::default());
        for fill in self.fill() {
            let labels: Labels = vec![("table", fill.table)];
            used.get_or_create(&labels).set(fill.used as f64);
            limit.get_or_create(&labels).set(fill.limit as f64);
        }
        registry.register("table_used", "Rows in use", used);
        registry.register("table_limit", "Rows that fit", limit);
        let addresses = self.store.ipam().used() as u64;
        registry.register("pod_addresses_used", "Pod addresses given out on this node", ConstGauge::new(addresses));
    }

    fn interface_metrics(&self, registry: &mut Registry) {
        for (name, help, value) in [
            ("interface_rx_packets", "Packets received", 0),
            ("interface_tx_packets", "Packets sent", 1),
            ("interface_rx_bytes", "Bytes received", 2),
            ("interface_tx_bytes", "Bytes sent", 3),
        ] {
            let family = counters();
            for view in self.interface_views() {
                let values = [view.rx_packets, view.tx_packets, view.rx_bytes, view.tx_bytes];
                let labels = vec![("interface", view.name), ("kind", view.kind), ("pod", view.pod.unwrap_or_default())];
                family.get_or_create(&labels).inc_by(values[value]);
            }
            registry.register(name, help, family);
        }
    }
}

fn counters() -> Family<Labels, prometheus_client::metrics::counter::Counter> {
    Family::default()
}

/// One family, told apart by label; its help text holds each reason's sentence.
fn drop_metrics(registry: &mut Registry, dataplane: &Dataplane) {
    let family = counters();
    for &reason in DropReason::ALL {
        let labels = vec![("reason", reason.name().to_owned())];
        family.get_or_create(&labels).inc_by(dataplane.drops(reason));
    }
    let sentences = DropReason::ALL.iter().map(|reason| format!(" {}: {}", reason.name(), reason.sentence()));
    let help = format!("Packets that went no further, by reason.{}", sentences.collect::<String>());
    registry.register("drops", help.trim_end_matches('.'), family);
}

fn worker_metrics(registry: &mut Registry, dataplane: &Dataplane) {
    let busy = GaugeFamily::default();
    for worker in dataplane.workers() {
        busy.get_or_create(&vec![("worker", worker.id.to_string())]).set(worker.busy_ratio);
    }
    registry.register("worker_busy_ratio", "Share of its time that a worker spent on packets lately", busy);
    for &counter in WorkerCounter::ALL {
        let family = GaugeFamily::default();
        for id in 0..dataplane.status.workers() {
            let value = dataplane.status.block(id).get(counter);
            family.get_or_create(&vec![("worker", id.to_string())]).set(value as f64);
        }
        registry.register(format!("worker_{}", snake(counter.name())), counter.sentence(), family);
    }
}

/// `HandoffsOut` -> `handoffs_out`
fn snake(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}
