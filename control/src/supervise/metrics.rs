//! `/metrics` in the OpenMetrics text format. Values are read when asked for; nothing is kept here.

use super::Supervisor;
use super::runtime::now_ms;
use super::session::Dataplane;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;
use tables::counters::{DropReason, WorkStage, WorkerCounter};
use tables::status::burst_size_name;

type Labels = Vec<(&'static str, String)>;
type GaugeFamily = Family<Labels, Gauge<f64, AtomicU64>>;
type SecondsFamily = Family<Labels, Counter<f64, AtomicU64>>;

impl Supervisor {
    pub(super) fn metrics(&self) -> String {
        let mut registry = Registry::with_prefix("fairway");
        self.publishing_metrics(&mut registry);
        self.table_metrics(&mut registry);
        if let Some(dataplane) = &self.dataplane {
            drop_metrics(&mut registry, dataplane);
            self.interface_metrics(&mut registry);
            self.policy_metrics(&mut registry);
            worker_metrics(&mut registry, dataplane);
            runtime_metrics(&mut registry, dataplane);
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

    /// Only of policies that did something: there may be thousands.
    fn policy_metrics(&self, registry: &mut Registry) {
        let (drops, flows, audited) = (counters(), counters(), counters());
        for view in self.policy_views() {
            let labels = vec![("kind", view.kind), ("namespace", view.namespace), ("name", view.name)];
            for (family, count) in [(&drops, view.drops), (&flows, view.flows), (&audited, view.audited)] {
                if count > 0 {
                    family.get_or_create(&labels).inc_by(count);
                }
            }
        }
        registry.register("policy_drops", "Packets that a policy kept away", drops);
        registry.register("policy_flows", "Flows that a policy's rules let in", flows);
        let help = "Flows that passed although a policy would keep them away, since it is only being tried";
        registry.register("policy_audited_flows", help, audited);
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

fn counters() -> Family<Labels, Counter> {
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
    let times = [WorkerCounter::BusyTime, WorkerCounter::TotalTime];
    for &counter in WorkerCounter::ALL.iter().filter(|counter| !times.contains(counter)) {
        let family = GaugeFamily::default();
        for id in 0..dataplane.status.workers() {
            let value = dataplane.status.block(id).get(counter);
            family.get_or_create(&vec![("worker", id.to_string())]).set(value as f64);
        }
        registry.register(format!("worker_{}", snake(counter.name())), counter.sentence(), family);
    }
}

/// Time and bursts. Sums of stages are of the sampled rounds: their quotients need no more.
fn runtime_metrics(registry: &mut Registry, dataplane: &Dataplane) {
    let (busy, bursts) = (GaugeFamily::default(), counters());
    let [busy_s, total_s, stage_s] = [(); 3].map(|()| SecondsFamily::default());
    let (stage_packets, now_ms) = (counters(), now_ms());
    for id in 0..dataplane.status.workers() {
        let (block, worker) = (dataplane.status.block(id), ("worker", id.to_string()));
        let runtime = block.runtime();
        for (window, ratio) in ["1s", "10s"].into_iter().zip(runtime.busy_ratios(now_ms)) {
            busy.get_or_create(&vec![worker.clone(), ("window", window.to_owned())]).set(ratio);
        }
        for (family, counter) in [(&busy_s, WorkerCounter::BusyTime), (&total_s, WorkerCounter::TotalTime)] {
            family.get_or_create(&vec![worker.clone()]).inc_by(block.get(counter) as f64 / 1e9);
        }
        for (index, &count) in runtime.bursts.iter().enumerate() {
            bursts.get_or_create(&vec![worker.clone(), ("size", burst_size_name(index))]).inc_by(count);
        }
        for &stage in WorkStage::ALL {
            let (labels, cost) = (vec![worker.clone(), ("stage", snake(stage.name()))], runtime.stage(stage));
            stage_s.get_or_create(&labels).inc_by(cost.ticks as f64 / runtime.tick_hz.max(1) as f64);
            stage_packets.get_or_create(&labels).inc_by(cost.packets);
        }
    }
    registry.register("worker_busy_ratio", "Share of its time that a worker spent on packets lately", busy);
    registry.register("worker_bursts_by_size", "Bursts by packets in them, 0 for rounds without", bursts);
    registry.register("worker_stage_packets", "Packets of the sampled rounds, by stage", stage_packets);
    for (name, help, family) in [
        ("worker_busy", WorkerCounter::BusyTime.sentence(), busy_s),
        ("worker_lifetime", "Time since the worker started", total_s),
        ("worker_stage", "Time of the sampled rounds, by stage", stage_s),
    ] {
        registry.register_with_unit(name, help, Unit::Seconds, family);
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
