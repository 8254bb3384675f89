//! The forwarding modes that are measured: a line each.

use lb_common::tables;

/// A service and packets to it.
#[derive(Clone, Copy, Debug)]
pub struct ModeCase {
    /// As in the configuration; the case's name begins with it.
    pub mode: &'static str,
    pub v6: bool,
    /// Keys of the service in the configuration file.
    pub keys: &'static str,
    /// What the yardstick does, if it can do that.
    pub lru: Option<tables::Mode>,
}

const fn case(
    mode: &'static str,
    v6: bool,
    keys: &'static str,
    lru: Option<tables::Mode>,
) -> ModeCase {
    ModeCase {
        mode,
        v6,
        keys,
        lru,
    }
}

pub const MODES: &[ModeCase] = &[
    case(
        "l2-dsr",
        false,
        "mode = \"l2-dsr\"",
        Some(tables::Mode::L2Dsr),
    ),
    case(
        "l2-dsr",
        true,
        "mode = \"l2-dsr\"",
        Some(tables::Mode::L2Dsr),
    ),
    case("nat", false, "mode = \"nat\"", Some(tables::Mode::Nat)),
    case("nat", true, "mode = \"nat\"", None),
    case(
        "l3-dsr-ipip",
        false,
        "mode = \"l3-dsr\"\nencap = \"ipip\"",
        Some(tables::Mode::Ipip),
    ),
    case(
        "l3-dsr-ipip",
        true,
        "mode = \"l3-dsr\"\nencap = \"ipip\"",
        None,
    ),
    case(
        "l3-dsr-gre",
        false,
        "mode = \"l3-dsr\"\nencap = \"gre\"",
        None,
    ),
    case(
        "l3-dsr-gue",
        false,
        "mode = \"l3-dsr\"\nencap = \"gue\"",
        None,
    ),
];

impl ModeCase {
    /// The case's name in results.
    pub fn name(&self) -> String {
        format!("{} {}", self.mode, if self.v6 { "v6" } else { "v4" })
    }
}
