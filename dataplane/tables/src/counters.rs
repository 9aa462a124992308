//! What is counted, and why a packet was dropped: each reason is one counter and one sentence of documentation.

macro_rules! counters {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[doc = $doc])+ $variant),+ }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant),+];
            pub const COUNT: usize = Self::ALL.len();

            /// As it stands in `fairway drops`, metrics and JSON.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => stringify!($variant)),+ }
            }

            /// The sentence that explains it.
            pub fn sentence(self) -> &'static str {
                match self { $($name::$variant => concat!($($doc),+).trim_ascii()),+ }
            }

            pub fn from_index(index: usize) -> Option<$name> {
                Self::ALL.get(index).copied()
            }
        }
    };
}

counters! {
    /// Why a packet went no further.
    DropReason {
        /// The frame ends before its headers do, or says it is longer than it is.
        Truncated,
        /// The frame or super-frame is larger than the interface may send.
        Oversized,
        /// A header contradicts itself (version, header length, reserved bits).
        Malformed,
        /// A checksum that had to be right was wrong.
        BadChecksum,
        /// The Ethernet type is none that Fairway handles.
        EtherType,
        /// The frame carries a VLAN tag that is not configured.
        Vlan,
        /// A fragment of what is not put together but would have to be: a tunnel packet, an ICMP error, SCTP whose ports are
        /// translated.
        Fragment,
        /// A fragment that is too short to hold what is judged, or not the last and of no whole number of eight bytes.
        FragmentTiny,
        /// A fragment that overlaps one that came before; the rest of its packet is dropped, too.
        FragmentOverlap,
        /// A later fragment whose first one did not come in time.
        FragmentLost,
        /// Too many fragmented packets, or fragments of one packet, wait for their first part.
        FragmentsFull,
        /// The time to live ran out here.
        TtlExpired,
        /// A pod sent from an address that is not its own.
        SpoofedAddress,
        /// A pod sent from an Ethernet address that is not its own.
        SpoofedMac,
        /// A packet from outside carried a pod, snat or service address as its source.
        ForgedOutside,
        /// A tunnel packet came from an address that is not a published peer of its inner source.
        TunnelPeer,
        /// A tunnel packet carried another network's identifier.
        TunnelNetwork,
        /// A tunnel packet whose inner destination is not on this node.
        TunnelStray,
        /// A Geneve packet with an option that must not be ignored, and that Fairway does not know.
        TunnelOption,
        /// A Geneve packet about the tunnel itself, which carries nothing for a pod.
        TunnelControl,
        /// A tunnel packet met congestion on its way, and the packet inside has no way to say so.
        TunnelCongestion,
        /// Multicast, broadcast or link-local that Fairway does not carry.
        LinkLocal,
        /// No route to the destination.
        NoRoute,
        /// A route says that this destination is to be dropped.
        Blackhole,
        /// The destination lies in the service range but belongs to no service.
        ServiceUnknown,
        /// The service's backends are all on other nodes, and its traffic policy keeps this client's traffic on this one.
        NoLocalBackend,
        /// The client is in none of the service's source ranges.
        SourceRange,
        /// An egress policy of the sending pod forbids it.
        PolicyEgress,
        /// An ingress policy of the receiving pod forbids it.
        PolicyIngress,
        /// The pod has no policy in force yet; nothing passes until it has.
        PolicyPending,
        /// The worker's flow table is full.
        FlowTableFull,
        /// Another flow already uses the translated addresses and ports.
        TupleClash,
        /// No source port of this worker's block is free for this destination.
        SnatExhausted,
        /// A reply to one of our translated ports for which there is no flow.
        NoFlow,
        /// SCTP that would have to be translated, without a flow: only INIT opens one.
        SctpOutOfBlue,
        /// The next hop's Ethernet address is not known yet.
        NeighbourUnknown,
        /// An ICMP message that ends on the link where it was sent, or that nobody shall heed: redirect, router discovery,
        /// source quench.
        IcmpKind,
        /// An ICMP error about a flow that is not known here, or addressed to another than who sent what it quotes.
        IcmpUnrelated,
        /// The packet is larger than the path allows and must not be fragmented.
        TooBig,
        /// No frame was free.
        NoFrame,
        /// The sending ring of the interface was full.
        TxFull,
        /// The interface's device is gone.
        InterfaceGone,
        /// The ring to the worker that owns the flow was full.
        HandoffFull,
        /// The packet's turns inside the dataplane were bounded and it went round too often.
        Loop,
        /// No tables have been published yet.
        NoTables,
    }
}

counters! {
    /// One interface as one worker sees it.
    InterfaceCounter {
        /// Packets received (a super-frame is one).
        RxPackets,
        /// Bytes received.
        RxBytes,
        /// Packets sent (a super-frame is one).
        TxPackets,
        /// Bytes sent.
        TxBytes,
    }
}

counters! {
    /// One worker.
    WorkerCounter {
        /// Bursts that held at least one packet.
        Bursts,
        /// Packets taken from interfaces and hand-off rings.
        Packets,
        /// Nanoseconds of rounds that moved packets. Rounds that found none are idle, also while the thread spins; time in
        /// which the thread was kept from running in the midst of a busy round is busy, since no packet could be taken.
        BusyTime,
        /// Nanoseconds since the worker started.
        TotalTime,
        /// Packets handed to another worker.
        HandoffsOut,
        /// Packets taken over from another worker.
        HandoffsIn,
        /// Times the worker went to sleep.
        Sleeps,
        /// 1 while the worker sleeps.
        Asleep,
        /// 1 while the worker does not spin because it shares its core.
        SharesCore,
        /// Flows in the table.
        Flows,
        /// Flows that fit.
        FlowsLimit,
        /// Flows inserted.
        FlowsInserted,
        /// Flows that timed out, or whose place a new one took.
        FlowsExpired,
        /// Flows looked at again after a change of the tables.
        FlowsRevalidated,
        /// Packets classified (first packets and revalidations).
        Classified,
        /// Packets refused with a TCP reset or an ICMP error.
        Rejected,
        /// Packets that the node itself answered.
        Punted,
        /// Frames not in use.
        FramesFree,
        /// 1 once a tables region is pinned.
        HasTables,
        /// Generation of the tables pinned last.
        Generation,
        /// Flows adopted from a predecessor.
        FlowsAdopted,
        /// Segments cut from super-frames.
        SegmentsCut,
        /// Fragments cut from packets that the way out does not take whole.
        FragmentsCut,
        /// Fragments that followed the first one of their packet.
        FragmentsFollowed,
        /// ICMP errors sent: time exceeded, too big, unreachable.
        ErrorsSent,
        /// ICMP errors that the limit on their rate held back.
        ErrorsWithheld,
        /// Unanswered flows that made room for others.
        FlowsEvicted,
        /// Clients that services no longer remember, since others took their places before their time.
        AffinitiesEvicted,
        /// Packets of protocols that Fairway knows nothing of but their addresses (GRE, ESP, AH, IGMP and others): they
        /// pass as routes and policies say, and are translated by address alone.
        PassedByAddress,
    }
}

counters! {
    /// A part of a worker's round, as `fairway status --runtime` lists them.
    WorkStage {
        /// Commands, the clock, tables pinned anew.
        Pin,
        /// Interfaces asked for packets.
        Receive,
        /// Packets taken from the hand-off ring, and parsed.
        HandOff,
        /// Headers read, tunnels taken off, owners found.
        Parse,
        /// Flows found that packets most likely belong to.
        Lookup,
        /// Flows confirmed, first packets classified, headers rewritten.
        Act,
        /// Packets put out by their interfaces, or staged for it.
        Send,
        /// Frames brought home, flows timed out, counters shown.
        Housekeep,
    }
}

impl WorkStage {
    /// Whether it is done once a round, for all of the round's packets.
    pub fn is_once_a_round(self) -> bool {
        matches!(self, WorkStage::Pin | WorkStage::Housekeep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_sentence_and_its_own_index() {
        for (i, &reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(DropReason::from_index(i), Some(reason));
            assert_eq!(reason as usize, i);
            assert!(reason.sentence().ends_with('.') && !reason.sentence().starts_with(' '), "{}", reason.name());
        }
        assert_eq!(DropReason::from_index(DropReason::COUNT), None);
    }
}
