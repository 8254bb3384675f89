//! The words that the file uses for the model's enums. A new variant is offered by adding its row here.

use crate::{
    model::{
        Echo, Fragments, HashPolicy, Mode, OnBackendDown, OnDrainEnd, Protocol, Tracking,
        Unmatched, XdpMode,
    },
    vrrp::codec::ChecksumForm,
};

pub(super) trait Word: Copy + Sized + 'static {
    const WORDS: &'static [(&'static str, Self)];
}

/// The words alone, for the schema.
pub(super) fn words<W: Word>() -> Vec<&'static str> {
    W::WORDS.iter().map(|(word, _)| *word).collect()
}

/// [`crate::model::Mode`] as the file writes it: `l3-dsr` says by `encap` what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ModeWord {
    Nat,
    Snat,
    L2Dsr,
    L3Dsr,
}

impl Word for ModeWord {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("nat", Self::Nat),
        ("snat", Self::Snat),
        ("l2-dsr", Self::L2Dsr),
        ("l3-dsr", Self::L3Dsr),
    ];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encap {
    Ipip,
    Gre,
    Gue,
    Dscp,
}

impl Word for Encap {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("ipip", Self::Ipip),
        ("gre", Self::Gre),
        ("gue", Self::Gue),
        ("dscp", Self::Dscp),
    ];
}

impl ModeWord {
    /// `None` if the two do not go together.
    pub fn with(self, encap: Option<Encap>) -> Option<Mode> {
        match (self, encap) {
            (Self::Nat, None) => Some(Mode::Nat),
            (Self::Snat, None) => Some(Mode::Snat),
            (Self::L2Dsr, None) => Some(Mode::L2Dsr),
            (Self::L3Dsr, Some(Encap::Ipip)) => Some(Mode::Ipip),
            (Self::L3Dsr, Some(Encap::Gre)) => Some(Mode::Gre),
            (Self::L3Dsr, Some(Encap::Gue)) => Some(Mode::Gue),
            (Self::L3Dsr, Some(Encap::Dscp)) => Some(Mode::Dscp),
            (Self::Nat | Self::Snat | Self::L2Dsr, Some(_)) | (Self::L3Dsr, None) => None,
        }
    }
}

impl Word for Unmatched {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("pass", Self::Pass),
        ("drop", Self::Drop),
        ("reject", Self::Reject),
    ];
}

impl Word for Fragments {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("track", Self::Track),
        ("l3", Self::L3),
        ("drop", Self::Drop),
    ];
}

impl Word for Echo {
    const WORDS: &'static [(&'static str, Self)] =
        &[("host", Self::Host), ("balancer", Self::Balancer)];
}

impl Word for Tracking {
    const WORDS: &'static [(&'static str, Self)] =
        &[("adaptive", Self::Adaptive), ("full", Self::Full)];
}

impl Word for OnBackendDown {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("rehash", Self::Rehash),
        ("reset", Self::Reset),
        ("keep", Self::Keep),
    ];
}

impl Word for OnDrainEnd {
    const WORDS: &'static [(&'static str, Self)] =
        &[("reset", Self::Reset), ("rehash", Self::Rehash)];
}

impl Word for Protocol {
    const WORDS: &'static [(&'static str, Self)] =
        &[("tcp", Self::Tcp), ("udp", Self::Udp), ("sctp", Self::Sctp)];
}

impl Word for HashPolicy {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("l3+l4", Self::L3L4),
        ("l3", Self::L3),
        ("l2+3", Self::L2L3),
        ("source", Self::Source),
        ("per-packet", Self::PerPacket),
    ];
}

impl Word for XdpMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("native", Self::Native),
        ("generic", Self::Generic),
    ];
}

impl Word for ChecksumForm {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("rfc9568", Self::MessageOnly),
        ("rfc5798", Self::PseudoHeader),
    ];
}

/// [`crate::model::CheckKind`] without what a kind may carry.
#[derive(Clone, Copy, Debug)]
pub(super) enum CheckType {
    Tcp,
}

impl Word for CheckType {
    const WORDS: &'static [(&'static str, Self)] = &[("tcp", Self::Tcp)];
}
