//! The words that the file uses for the model's enums. A new variant is offered by adding its row here.

use crate::model::{HashPolicy, Mode, Protocol, XdpMode};

pub(super) trait Word: Copy + Sized + 'static {
    const WORDS: &'static [(&'static str, Self)];
}

/// The words alone, for the schema.
pub(super) fn words<W: Word>() -> Vec<&'static str> {
    W::WORDS.iter().map(|(word, _)| *word).collect()
}

impl Word for Mode {
    const WORDS: &'static [(&'static str, Self)] = &[("nat", Self::Nat), ("l2-dsr", Self::L2Dsr)];
}

impl Word for Protocol {
    const WORDS: &'static [(&'static str, Self)] = &[("tcp", Self::Tcp), ("udp", Self::Udp)];
}

impl Word for HashPolicy {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("l3+l4", Self::L3L4),
        ("l3", Self::L3),
        ("source", Self::Source),
    ];
}

impl Word for XdpMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("native", Self::Native),
        ("generic", Self::Generic),
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
