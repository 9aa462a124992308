//! Flows whose scopes went stale, where what moved is known: only what hangs on that is asked again, and if it says what it
//! said before, so does the whole judgement. Must not decide anything else: that is left to the whole judgement.

use super::{Context, judge_pod, policy, service};
use tables::Addr;
use tables::endpoint::{EndpointKind, EndpointRecord, FLAG_POLICY_IN_FORCE};
use tables::flow::{FLAG_CLIENT, FLAG_DIRECT, FLAG_OPENED_LOCALLY, FlowRecord, HopKind};
use tables::hash;
use tables::layout::Table;
use tables::policy::{Direction, place};
use tables::scope::{Moved, Scope};

/// Places of [`Decision::scopes`](super::Decision::scopes), for flows of pods whose ends are no clients outside.
const SERVICE: usize = 0;
const POLICY_SET: usize = 1;
const IDENTITY: usize = 2;
/// Answers that are kept; others take turns at the places.
const PLACES: usize = 256;

/// What policies let pass, for one generation of the tables: most flows of a pod ask the same of them. A cache: it says what
/// they would say again.
pub struct Passed {
    kept: Box<[Kept; PLACES]>,
}

#[derive(Clone, Copy, Default)]
struct Kept {
    /// Of the tables, plus one: 0 is nothing kept.
    generation: u64,
    local: Addr,
    asked: u64,
    pod: Standing,
}

/// A pod, and what those of its flows hang on that ask the same.
#[derive(Clone, Copy, Default)]
struct Standing {
    interface: u32,
    /// Of its policy set, and of who is at the other end.
    slots: [u16; 2],
}

impl Standing {
    /// Whether a flow goes to this pod, and hangs on this already.
    #[inline(always)]
    fn holds(&self, record: &FlowRecord) -> bool {
        let [set, identity] = self.slots;
        record.back.kind() == HopKind::Interface
            && record.back.target == self.interface
            && record.scopes.is_on(POLICY_SET, set)
            && record.scopes.is_on(IDENTITY, identity)
    }
}

impl Default for Passed {
    fn default() -> Passed {
        Passed { kept: Box::new([Kept::default(); PLACES]) }
    }
}

impl Passed {
    /// Forgets everything: the tables' generations begin anew.
    pub fn clear(&mut self) {
        self.kept.fill(Kept::default());
    }

    /// Whether a flow goes on as it does, given what moved since it was judged. False: judge it.
    #[inline(always)]
    pub fn goes_on(&mut self, context: &Context, record: &FlowRecord, moved: Moved) -> bool {
        is_judged_here(record)
            && (is_of_policies(record, moved) && self.passes(context, record)
                || is_of_service(record, moved) && (moved.is_for_another(record.service) || is_served(context, record)))
    }

    /// Whether a flow's pod is as it was and its policies let it pass.
    #[inline(always)]
    fn passes(&mut self, context: &Context, record: &FlowRecord) -> bool {
        let direction = direction(record);
        let (local, remote) = (record.inside.local, record.outside().remote);
        let identity = policy::identity(&context.view, remote);
        // What a pod says to itself is judged by more than who asks.
        if local == remote || local == record.inside.remote {
            return judge(context, record, direction, identity).is_some_and(|pod| pod.holds(record));
        }
        let asked = asked(record, direction, identity);
        let generation = context.view.generation() + 1;
        if let Some(pod) = self.find(generation, local, asked) {
            return pod.holds(record);
        }
        let Some(pod) = judge(context, record, direction, identity) else { return false };
        self.kept[at(local, asked)] = Kept { generation, local, asked, pod };
        pod.holds(record)
    }

    #[inline(always)]
    fn find(&self, generation: u64, local: Addr, asked: u64) -> Option<Standing> {
        let kept = &self.kept[at(local, asked)];
        (kept.generation == generation && kept.local == local && kept.asked == asked).then_some(kept.pod)
    }
}

/// The place of an answer.
#[inline(always)]
fn at(local: Addr, asked: u64) -> usize {
    hash::fold(asked ^ local.words()[1].rotate_left(32), 0x9e37_79b9_7f4a_7c15) as usize % PLACES
}

/// Whether it is a pod's flow that passed. Those of clients outside are judged as a whole.
#[inline(always)]
fn is_judged_here(record: &FlowRecord) -> bool {
    record.flags & (FLAG_CLIENT | FLAG_DIRECT) == 0 && record.out.kind().forwards()
}

/// Whether nothing but policies moved. The place of a service that was not asked repeats that of the policy set, which no
/// service's does.
#[inline(always)]
fn is_of_policies(record: &FlowRecord, moved: Moved) -> bool {
    moved.is_within(&[POLICY_SET, IDENTITY])
        || moved.is_within(&[SERVICE, POLICY_SET, IDENTITY]) && record.scopes.is_repeated(SERVICE, POLICY_SET)
}

/// Whether nothing but the service moved that the flow was opened to, or another one in its place.
#[inline(always)]
fn is_of_service(record: &FlowRecord, moved: Moved) -> bool {
    moved.is_within(&[SERVICE]) && record.service != 0 && record.flags & FLAG_OPENED_LOCALLY != 0
}

/// Whether a pod's flow keeps its backend. One that is masqueraded, or led back to who asked, is judged as a whole.
#[inline(never)]
fn is_served(context: &Context, record: &FlowRecord) -> bool {
    let (inside, outside) = (&record.inside, record.outside());
    let pod: Option<EndpointRecord> = context.view.find(Table::Endpoint, &inside.local);
    pod.is_some_and(|pod| pod.kind() == Some(EndpointKind::Pod))
        && outside.local == inside.local
        && outside.remote != inside.local
        && service::is_kept(context, inside, record.service, (outside.remote, outside.remote_port))
}

#[inline(always)]
fn direction(record: &FlowRecord) -> Direction {
    if record.flags & FLAG_OPENED_LOCALLY != 0 { Direction::Egress } else { Direction::Ingress }
}

/// All that a pod's policies are asked of a flow, in a word: the other end's identity, the direction, protocol and port.
#[inline(always)]
fn asked(record: &FlowRecord, direction: Direction, identity: u32) -> u64 {
    let place = place(record.inside.protocol, asked_port(record, direction));
    (identity as u64) << 32 | (direction as u64) << 31 | place as u64
}

#[inline(always)]
fn asked_port(record: &FlowRecord, direction: Direction) -> u16 {
    if direction == Direction::Egress { record.outside().remote_port } else { record.inside.local_port }
}

/// Where a flow's pod stands, if that may speak and its policies let the flow pass.
#[inline(never)]
fn judge(context: &Context, record: &FlowRecord, direction: Direction, identity: u32) -> Option<Standing> {
    let pod: EndpointRecord = context.view.find(Table::Endpoint, &record.inside.local)?;
    let may_speak = pod.kind() == Some(EndpointKind::Pod) && pod.flags & FLAG_POLICY_IN_FORCE != 0;
    let remote = record.outside();
    let ends = (remote.remote, remote.remote_port, identity);
    let judged = judge_pod(context, pod.policy_set, direction, &record.inside, ends);
    let slots = [Scope::PolicySet(pod.policy_set), Scope::Identity(identity)].map(Scope::slot);
    let passes = may_speak && judged.is_none_or(|judged| judged.allowed());
    passes.then_some(Standing { interface: pod.interface, slots })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable;
    use std::sync::atomic::AtomicU64;
    use tables::Publisher;
    use tables::flow::Hop;
    use tables::node::NodeRecord;
    use tables::publish::Reader;
    use tables::scope::ScopeCounters;

    /// Nobody is in the tables: whoever asks them finds that the flow is not served.
    #[test]
    fn tables_are_not_asked_for_another_service_that_has_the_same_place() {
        let slot = |id: &u32| Scope::Service(*id).slot();
        let (mine, other) = (1, (2..).find(|id| slot(id) == slot(&1)).unwrap());
        for (changed, expected) in [(&[other][..], true), (&[mine], false), (&[mine, other], false)] {
            let mut publisher = Publisher::create(7).unwrap();
            let mut reader = Reader::from_fd(publisher.region().fd().try_clone_to_owned().unwrap()).unwrap();
            let (ack, mut scopes, node) = (AtomicU64::new(0), ScopeCounters::default(), NodeRecord::zeroed());
            reader.pin(&ack, &mut scopes);
            let mut flow = FlowRecord::zeroed();
            (flow.out, flow.flags, flow.service) = (Hop::new(HopKind::Interface, 1), FLAG_OPENED_LOCALLY, mine);
            let hangs_on = [Scope::Service(mine), Scope::PolicySet(1), Scope::Identity(2), Scope::Route(3)];
            flow.scopes = scopes.depend(hangs_on.map(Some));
            let mut batch = publisher.batch([]).unwrap();
            changed.iter().for_each(|id| batch.touch(Scope::Service(*id)));
            batch.publish();
            assert!(reader.pin(&ack, &mut scopes));
            let moved = scopes.moved(&flow.scopes).unwrap();
            let context = Context::new(reader.view(), &node);
            assert_eq!(Passed::default().goes_on(&context, &flow, moved), expected, "{changed:?} changed");
        }
    }

    #[test]
    fn an_answer_is_found_for_its_pod_its_question_and_its_generation_alone() {
        let (mut passed, [pod, other]) = (Passed::default(), [4, 5].map(|i| Addr::v4([10, 1, 0, i])));
        // Every place is taken, most of them many times.
        for asked in 0..100_000 {
            let standing = Standing { interface: asked as u32, slots: [0; 2] };
            passed.kept[at(pod, asked)] = Kept { generation: 7, local: pod, asked, pod: standing };
            assert_eq!(passed.find(7, pod, asked).map(|found| found.interface), Some(asked as u32));
            assert!(passed.find(8, pod, asked).is_none());
        }
        assert!(passed.kept.iter().all(|kept| kept.generation == 7));
        assert!((0..100_000).all(|asked| passed.find(7, other, asked).is_none()));
        assert!((100_000..200_000).all(|asked| passed.find(7, pod, asked).is_none()));
    }
}
