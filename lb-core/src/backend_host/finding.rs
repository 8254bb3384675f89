//! What is not as it should be on a server, and the commands that mend it.

use core::{fmt, net::IpAddr};
use std::collections::{BTreeMap, BTreeSet};

use lb_common::{address::Address, real_server::Key};

use serde::Serialize;

use super::Setting;
use crate::model::ServiceName;

/// One thing that is wrong, or could be better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub kind: Kind,
    /// Those that suffer, in the order of the file.
    pub services: Vec<ServiceName>,
    /// What is the case, and what comes of it: a sentence without a full stop.
    pub what: String,
    /// In the order to take them; none where no command can help.
    pub steps: Vec<Step>,
}

impl Finding {
    /// What an operator types, steps joined by `&&`. Empty where there is none.
    pub fn command(&self) -> String {
        let steps: Vec<_> = self.steps.iter().map(Step::to_string).collect();
        steps.join(" && ")
    }

    /// Whether Futago may take all its steps itself.
    pub fn is_ours(&self) -> bool {
        !self.steps.is_empty() && self.steps.iter().all(Step::is_ours)
    }
}

/// What a finding is about; the words are for programs and stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    ArpIgnore,
    ArpAnnounce,
    RpFilter,
    Ipv6Disabled,
    VipMissing,
    VipWrongInterface,
    VipWidePrefix,
    NotDecapsulated,
    DecapsulatesOther,
    NotListening,
    Gateway,
    NoDefaultRoute,
    SegmentSize,
}

/// Whether it breaks something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Packets are lost, now or as soon as somebody asks for the VIP.
    Wrong,
    /// It depends on what this host cannot know.
    Advice,
}

impl Kind {
    pub const ALL: [Self; 13] = [
        Self::ArpIgnore,
        Self::ArpAnnounce,
        Self::RpFilter,
        Self::Ipv6Disabled,
        Self::VipMissing,
        Self::VipWrongInterface,
        Self::VipWidePrefix,
        Self::NotDecapsulated,
        Self::DecapsulatesOther,
        Self::NotListening,
        Self::Gateway,
        Self::NoDefaultRoute,
        Self::SegmentSize,
    ];

    pub fn severity(self) -> Severity {
        match self {
            Self::ArpIgnore
            | Self::ArpAnnounce
            | Self::RpFilter
            | Self::Ipv6Disabled
            | Self::VipMissing
            | Self::VipWrongInterface
            | Self::VipWidePrefix
            | Self::NotDecapsulated
            | Self::DecapsulatesOther
            | Self::NotListening
            | Self::Gateway => Severity::Wrong,
            Self::NoDefaultRoute | Self::SegmentSize => Severity::Advice,
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wrong => "wrong",
            Self::Advice => "advice",
        })
    }
}

/// One change; `Display` is the command that makes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Set {
        setting: Setting,
        value: &'static str,
    },
    /// /32 or /128 on the loopback interface. IPv6: without duplicate address detection, and never chosen as the source of
    /// the host's own connections.
    AddVip(IpAddr),
    /// The XDP program on these interfaces, with these duties.
    Decapsulate {
        interfaces: BTreeSet<String>,
        duties: BTreeMap<Key, Address>,
    },
    /// Only the operator may: it would take away what somebody else made, or is a choice.
    ByHand(String),
}

impl Step {
    pub fn is_ours(&self) -> bool {
        match self {
            Self::Set { .. } | Self::AddVip(_) | Self::Decapsulate { .. } => true,
            Self::ByHand(_) => false,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set { setting, value } => write!(f, "sysctl -w {setting}={value}"),
            Self::AddVip(vip @ IpAddr::V4(_)) => write!(f, "ip address add {vip}/32 dev lo"),
            Self::AddVip(vip @ IpAddr::V6(_)) => {
                write!(f, "ip address add {vip}/128 dev lo nodad preferred_lft 0")
            }
            Self::Decapsulate { interfaces, .. } => {
                let names: Vec<_> = interfaces.iter().map(String::as_str).collect();
                write!(
                    f,
                    "futago backend --config FILE # attaches its XDP program to {}",
                    names.join(", ")
                )
            }
            Self::ByHand(command) => f.write_str(command),
        }
    }
}
