//! Policies that are only being tried: what they would have kept away is said in the log, now and then and with examples.
//! Counters and flows are read for it; the packet path knows nothing of it.

use super::Supervisor;
use crate::explain::endpoint_text;
use crate::log;
use crate::trial;
use std::collections::BTreeMap;
use tables::flow;
use tables::region::{Access, Region};
use tables::status::PolicyFlows;

/// Between two looks.
pub const AUDIT_TICKS: u64 = 5;
/// Flows that are looked through for examples at each, of each worker.
const LOOKED_THROUGH: usize = 20_000;

/// Flows so far that each policy, by its name, would have kept away.
pub type Audited = BTreeMap<String, u64>;

impl Supervisor {
    /// One line for each policy that would have kept away more since it was last said.
    pub(super) fn log_audited(&mut self) {
        let Some(dataplane) = &self.dataplane else { return };
        let mut grown = BTreeMap::new();
        for policy in self.compiler.policies(&self.state) {
            let Some(index) = policy.index else { continue };
            let count = dataplane.policy_flows(PolicyFlows::Audited, index);
            let before = self.audited.insert(policy.shown(), count).unwrap_or(0);
            if count > before {
                grown.insert(index, (policy.shown(), count - before, count));
            }
        }
        if grown.is_empty() {
            return;
        }
        let examples = self.examples();
        for (index, (name, more, all)) in grown {
            let example = examples.get(&index).map_or(String::new(), |example| format!(", such as {example}"));
            log(format_args!("policy on trial: {name} would have kept away {more} more flows ({all} in all){example}"));
        }
    }

    /// Some flow that each policy would keep away.
    fn examples(&self) -> BTreeMap<u32, String> {
        let mut examples = BTreeMap::new();
        let regions = self.flow_regions().unwrap_or_default();
        for region in regions.into_iter().filter_map(|(_, fd)| Region::attach(fd, Access::ReadOnly).ok()) {
            for record in flow::list(&region).into_iter().flatten().take(LOOKED_THROUGH) {
                if let Some((policy, ends)) = trial::audited(&self.publisher.live(), &record) {
                    let [source, destination] = ends.map(|(addr, port)| endpoint_text(addr, port));
                    examples.entry(policy).or_insert(format!("{source} to {destination} {}", record.inside.protocol));
                }
            }
        }
        examples
    }
}
