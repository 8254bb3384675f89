//! Which modes the demo can show, by the names of the matrix's rows.

use clap::ValueEnum;
use integration::Segments;
use lb_core::model::Mode;

/// A forwarding mode and where the balancer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Setting {
    /// Addresses are translated, clients and servers on one switch
    #[value(alias = "nat")]
    NatOneArm,
    /// Addresses are translated, the balancer stands between two switches
    NatTwoArm,
    /// Servers answer clients directly
    L2Dsr,
    /// l3-dsr, packets in IP packets
    Ipip,
    /// l3-dsr, packets behind a GRE header
    Gre,
    /// l3-dsr, packets behind a UDP header
    Gue,
    /// The same, the balancer stands between two switches
    GueTwoArm,
    /// l3-dsr, a DSCP says which VIP
    Dscp,
    /// ipip to addresses of the other family than the VIP's
    IpipCrossed,
    /// gre to addresses of the other family
    GreCrossed,
    /// gue to addresses of the other family
    GueCrossed,
}

impl Setting {
    /// Those that are shown unless told otherwise.
    pub const USUAL: &[Self] = &[Self::NatOneArm, Self::NatTwoArm, Self::L2Dsr];

    pub const fn mode(self) -> Mode {
        match self {
            Self::NatOneArm | Self::NatTwoArm => Mode::Nat,
            Self::L2Dsr => Mode::L2Dsr,
            Self::Ipip | Self::IpipCrossed => Mode::Ipip,
            Self::Gre | Self::GreCrossed => Mode::Gre,
            Self::Gue | Self::GueTwoArm | Self::GueCrossed => Mode::Gue,
            Self::Dscp => Mode::Dscp,
        }
    }

    pub const fn segments(self) -> Segments {
        match self {
            Self::NatTwoArm | Self::GueTwoArm => Segments::Two,
            _ => Segments::One,
        }
    }

    /// Whether backends are reached by the other family than the VIP's.
    pub const fn is_crossed(self) -> bool {
        matches!(
            self,
            Self::IpipCrossed | Self::GreCrossed | Self::GueCrossed
        )
    }

    pub const fn title(self) -> &'static str {
        match self {
            Self::NatOneArm => "nat, one-arm",
            Self::NatTwoArm => "nat, two-arm",
            Self::L2Dsr => "l2-dsr",
            Self::Ipip => "l3-dsr, ipip",
            Self::Gre => "l3-dsr, gre",
            Self::Gue => "l3-dsr, gue",
            Self::GueTwoArm => "gue, two-arm",
            Self::Dscp => "l3-dsr, dscp",
            Self::IpipCrossed => "ipip, crossed",
            Self::GreCrossed => "gre, crossed",
            Self::GueCrossed => "gue, crossed",
        }
    }

    pub const fn explanation(self) -> &'static str {
        match self {
            Self::NatOneArm => {
                "The balancer rewrites the destination to a server, and the answer's source back to the VIP.\n\
                 All on one switch; the servers' gateway is the balancer."
            }
            Self::NatTwoArm => {
                "As before, but clients and servers are on switches of their own, with the balancer between."
            }
            Self::L2Dsr => {
                "Only the destination MAC is rewritten. Every server holds the VIP on its loopback interface and\n\
                 answers the client directly: the balancer sees one direction only."
            }
            Self::Ipip | Self::Gre | Self::Gue | Self::GueTwoArm => {
                "The client's packet travels in another one to the server, where `futago backend` has set up the VIP and an\n\
                 XDP program that takes it out. Answers go to the client directly."
            }
            Self::IpipCrossed | Self::GreCrossed | Self::GueCrossed => {
                "As with any tunnel, but the outer packet is of the other family: IPv4 in IPv6, or IPv6 in IPv4."
            }
            Self::Dscp => {
                "The destination becomes the server's own address, and a DSCP says which VIP it was. On the server, the XDP\n\
                 program of `futago backend` puts the VIP back. Nothing is added to a packet."
            }
        }
    }
}
