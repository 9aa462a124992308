//! What a policy set says of a packet, in one word. The same word stands in the set's record and in a block of rules, so that
//! answers are copied and not put together. Must not look anything up.

use crate::limits::POLICIES_MAX;
use crate::policy::{
    FLAG_ALLOW, FLAG_AUDIT, FLAG_NAMESPACED, MODE_CLOSED, MODE_ISOLATED, MODE_OPEN, MODE_TIERED, RULE_NONE, RuleRecord,
};

const _: () = assert!(POLICIES_MAX <= 1 << 16, "a policy's index has 16 bits");

/// What a policy set says of a packet, and which policy says it: that one's index, the number of its rule, `FLAG_*`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Judged(u64);

/// Rules are not looked at: it is said whatever they say.
const FINAL: u64 = 1 << 63;
/// No answer: where its policy and rule would stand is the block that knows.
const DEEPER: u64 = 1 << 62;

impl Judged {
    pub const OPEN: Judged = Judged::new(0, RULE_NONE, FLAG_ALLOW).in_the_end();
    pub const CLOSED: Judged = Judged::new(0, RULE_NONE, 0).in_the_end();

    const fn new(policy: u16, rule: u16, flags: u16) -> Judged {
        Judged((flags as u64) << 32 | (rule as u64) << 16 | policy as u64)
    }

    const fn in_the_end(self) -> Judged {
        Judged(self.0 | FINAL)
    }

    /// Ask that block.
    pub(crate) fn by_block(block: u32) -> Judged {
        Judged(DEEPER | block as u64)
    }

    pub(crate) fn of_rule(rule: &RuleRecord) -> Judged {
        debug_assert!(rule.policy <= u16::MAX as u32);
        Judged::new(rule.policy as u16, rule.rule, rule.flags)
    }

    /// The rule that says it, of no place.
    pub(crate) fn to_rule(self) -> RuleRecord {
        let flags = (self.0 >> 32) as u16 & (FLAG_ALLOW | FLAG_NAMESPACED | FLAG_AUDIT);
        let [policy, rule] = [self.0 as u16, (self.0 >> 16) as u16];
        RuleRecord { first: 0, last: 0, policy: policy as u32, rule, flags }
    }

    /// What holds where no rule says anything.
    pub(crate) fn unsaid(mode: u16, deny_policy: u32) -> Judged {
        debug_assert!(deny_policy <= u16::MAX as u32);
        match mode {
            MODE_OPEN => Judged::OPEN,
            MODE_TIERED => Judged::new(0, RULE_NONE, FLAG_ALLOW),
            MODE_ISOLATED => Judged::new(deny_policy as u16, RULE_NONE, FLAG_NAMESPACED),
            _ => Judged::new(deny_policy as u16, RULE_NONE, 0).in_the_end(),
        }
    }

    /// The mode that leads to it where no rule says anything.
    pub(crate) fn mode(self) -> u16 {
        match (self.allowed(), self.is_final()) {
            (true, true) => MODE_OPEN,
            (true, false) => MODE_TIERED,
            (false, false) => MODE_ISOLATED,
            (false, true) => MODE_CLOSED,
        }
    }

    /// As it stands in a set's record: zero is open.
    #[inline(always)]
    pub(crate) fn of_side(word: u64) -> Judged {
        Judged(word ^ Judged::OPEN.0)
    }

    pub(crate) fn to_side(self) -> u64 {
        self.0 ^ Judged::OPEN.0
    }

    /// As it stands in a block.
    #[inline(always)]
    pub(crate) fn of_word(word: u64) -> Judged {
        Judged(word)
    }

    pub(crate) fn to_word(self) -> u64 {
        self.0
    }

    #[inline(always)]
    pub(crate) fn is_final(self) -> bool {
        self.0 & FINAL != 0
    }

    #[inline(always)]
    pub(crate) fn is_deeper(self) -> bool {
        self.0 & DEEPER != 0
    }

    /// What [`Judged::or`] begins with.
    pub(crate) const NOTHING: Judged = Judged(0);

    /// What any of both is.
    #[inline(always)]
    pub(crate) fn or(self, other: Judged) -> Judged {
        Judged(self.0 | other.0)
    }

    /// The block that knows.
    #[inline(always)]
    pub(crate) fn block(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    fn has(self, flag: u16) -> bool {
        self.0 & (flag as u64) << 32 != 0
    }

    #[inline(always)]
    pub fn allowed(self) -> bool {
        self.has(FLAG_ALLOW)
    }

    /// The policy that says it, if one does.
    #[inline(always)]
    pub fn policy(self) -> Option<u32> {
        let policy = self.0 as u16 as u32;
        (policy != 0).then_some(policy)
    }

    /// Which of the policy's rules; None if that no rule allows it is what denies it.
    #[inline(always)]
    pub fn rule(self) -> Option<u16> {
        let rule = (self.0 >> 16) as u16;
        (rule != RULE_NONE).then_some(rule)
    }

    /// A NetworkPolicy says it.
    #[inline(always)]
    pub fn is_namespaced(self) -> bool {
        self.has(FLAG_NAMESPACED)
    }

    /// It is allowed because the policy, which would deny it, is only being tried.
    #[inline(always)]
    pub fn is_audit(self) -> bool {
        self.has(FLAG_AUDIT)
    }

    /// What remains of it for a pod that asks itself: only cluster-wide policies part a pod from itself.
    pub fn of_itself(self) -> Judged {
        if self.is_namespaced() { Judged::OPEN } else { self }
    }
}

impl std::fmt::Debug for Judged {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let verdict = if self.allowed() { "allowed" } else { "denied" };
        write!(f, "{verdict} by {:?} rule {:?}", self.policy(), self.rule())?;
        write!(f, " (namespaced: {}, audit: {})", self.is_namespaced(), self.is_audit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{PolicyRow, PolicySide};

    #[test]
    fn a_side_says_what_it_was_made_of() {
        for (mode, denies) in [(MODE_OPEN, false), (MODE_ISOLATED, true), (MODE_TIERED, false), (MODE_CLOSED, true)] {
            let side = PolicySide::new(mode, 7, PolicyRow::new(3));
            assert_eq!((side.mode(), side.deny_policy()), (mode, if denies { 7 } else { 0 }));
        }
        assert_eq!(PolicySide::new(MODE_OPEN, 0, PolicyRow::new(0)), bytemuck::Zeroable::zeroed());
    }
}
