//! Who decides about which protocols and ports, laid one rule over another: what an earlier rule says stays. Pure.

use tables::limits::RULES_PER_ROW_MAX;
use tables::policy::{FLAG_ALLOW, FLAG_AUDIT, PLACE_LAST, RuleRecord};

/// What a rule says that leaves the decision to the next tier. Never written into a table.
pub const FLAG_PASS: u16 = 1 << 15;

/// Sorted, none reaches into another.
#[derive(Clone, Debug, Default)]
pub struct Cover(Vec<RuleRecord>);

impl Cover {
    /// The rule holds wherever none was laid before.
    pub fn lay(&mut self, rule: RuleRecord) {
        let start = self.0.partition_point(|laid| laid.last < rule.first);
        let end = start + self.0[start..].partition_point(|laid| laid.first <= rule.last);
        let mut region = Vec::with_capacity(2 * (end - start) + 1);
        let mut from = rule.first;
        for &laid in &self.0[start..end] {
            if from < laid.first {
                region.push(RuleRecord { first: from, last: laid.first - 1, ..rule });
            }
            region.push(laid);
            from = laid.last + 1;
        }
        if from <= rule.last {
            region.push(RuleRecord { first: from, ..rule });
        }
        self.0.splice(start..end, region);
    }

    /// What was laid so far.
    pub fn laid(&self) -> &[RuleRecord] {
        &self.0
    }

    /// Takes away what was left to the next tier, which is laid next.
    pub fn next_tier(&mut self) {
        self.0.retain(|laid| laid.flags & FLAG_PASS == 0);
    }

    /// The same, but marked where `then`, which would hold if nothing were only being tried, denies what this allows; and
    /// what both allow is by whoever would allow it then. Both say something of every place.
    pub fn audited(self, then: Cover) -> Cover {
        let mut marked = Vec::new();
        let mut others = then.0.into_iter().peekable();
        for now in self.0 {
            while let Some(other) = others.peek().copied().filter(|other| other.first <= now.last) {
                let (first, last) = (now.first.max(other.first), now.last.min(other.last));
                let flags = match (now.flags & FLAG_ALLOW, other.flags & FLAG_ALLOW) {
                    (0, _) => None,
                    (_, 0) => Some(other.flags | FLAG_ALLOW | FLAG_AUDIT),
                    _ => Some(other.flags),
                };
                let said = flags.map_or(now, |flags| RuleRecord { flags, ..other });
                marked.push(RuleRecord { first, last, ..said });
                if other.last > now.last {
                    break;
                }
                others.next();
            }
        }
        Cover(marked)
    }

    /// The shortest equal list. False if it had to be cut; then what is beyond is denied by whoever spoke there first.
    pub fn into_rules(mut self) -> (Vec<RuleRecord>, bool) {
        let said = |rule: &RuleRecord| (rule.policy, rule.rule, rule.flags);
        self.0.dedup_by(|next, laid| {
            let joins = laid.last + 1 == next.first && said(laid) == said(next);
            if joins {
                laid.last = next.last;
            }
            joins
        });
        let fits = self.0.len() <= RULES_PER_ROW_MAX;
        if !fits {
            self.0.truncate(RULES_PER_ROW_MAX);
            let beyond = &mut self.0[RULES_PER_ROW_MAX - 1];
            (beyond.last, beyond.flags) = (PLACE_LAST, beyond.flags & !FLAG_ALLOW);
        }
        (self.0, fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable;
    use proptest::prelude::*;

    fn rule(policy: u32, first: u32, last: u32) -> RuleRecord {
        RuleRecord { first, last, policy, ..RuleRecord::zeroed() }
    }

    proptest! {
        /// Each place belongs to the first rule that was laid there; neighbours that say the same are one.
        #[test]
        fn the_first_rule_laid_on_a_place_has_it(rules in prop::collection::vec((1u32..4, 0u32..40, 0u32..12), 0..12)) {
            let rules: Vec<_> = rules.into_iter().map(|(policy, first, more)| rule(policy, first, first + more)).collect();
            let mut cover = Cover::default();
            rules.iter().for_each(|&rule| cover.lay(rule));
            let (found, fits) = cover.into_rules();
            prop_assert!(fits);
            for place in 0..60 {
                let holding: Vec<_> = found.iter().filter(|rule| rule.holds(place)).map(|rule| rule.policy).collect();
                let first = rules.iter().find(|rule| rule.holds(place)).map(|rule| rule.policy);
                prop_assert_eq!(holding, Vec::from_iter(first));
            }
            prop_assert!(found.windows(2).all(|w| w[0].last < w[1].first));
            prop_assert!(found.windows(2).all(|w| w[0].last + 1 < w[1].first || w[0].policy != w[1].policy));
        }
    }

    #[test]
    fn what_was_passed_on_is_free_for_the_next_tier() {
        let mut cover = Cover::default();
        cover.lay(RuleRecord { flags: FLAG_PASS, ..rule(1, 10, 20) });
        cover.lay(rule(2, 0, 30));
        cover.next_tier();
        cover.lay(rule(3, 0, 40));
        let found: Vec<_> = cover.into_rules().0.iter().map(|r| (r.policy, r.first, r.last)).collect();
        assert_eq!(found, [(2, 0, 9), (3, 10, 20), (2, 21, 30), (3, 31, 40)]);
    }

    #[test]
    fn what_does_not_fit_is_denied() {
        let mut cover = Cover::default();
        for i in 0..=RULES_PER_ROW_MAX as u32 {
            cover.lay(RuleRecord { flags: FLAG_ALLOW, ..rule(1, 2 * i, 2 * i) });
        }
        let (found, fits) = cover.into_rules();
        assert!(!fits && found.len() == RULES_PER_ROW_MAX);
        assert!(found.iter().all(|rule| rule.allows() == (rule.last != PLACE_LAST)));
    }
}
