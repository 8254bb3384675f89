//! From a service of the model, and what is known of its backends now, to what the tables should hold.

use core::net::IpAddr;

use lb_common::{
    address::Address,
    hash::mix,
    mss,
    tables::{self, Key, NextHop, flags},
};

use super::layout::{Wanted, WantedBackend};
use crate::{
    drain::Drain,
    model::{
        Backend, Echo, Fragments, HashPolicy, Mode, MssClamp, Service, ServiceKey, TunnelSources,
        Unmatched,
    },
};

/// What is known of a backend at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendNow {
    /// Its health allows new flows.
    pub serves: bool,
    /// It takes no new flows all the same.
    pub drain: Option<Drain>,
    /// All zeros while it is not resolved.
    pub next_hop: NextHop,
    /// Outer source of a tunnel to it: see [`TunnelSources::towards`](crate::model::TunnelSources::towards).
    pub tunnel_source: Option<IpAddr>,
}

/// What the tables of `node` should hold for `service`.
pub fn wanted(
    service: &Service,
    hash_seed: u64,
    sources: &TunnelSources,
    now: impl Fn(&Backend) -> BackendNow,
) -> Wanted {
    let key = Key::from(&service.key());
    Wanted {
        key,
        mode: service.mode.into(),
        hash: service.hash.into(),
        seed: seed(hash_seed, &key),
        slot_count: service.slots,
        gue_port: service.gue_port,
        dscp: service.dscp,
        mss: match service.mss_clamp {
            None => 0,
            Some(MssClamp::Auto) => mss::AUTO,
            Some(MssClamp::Bytes(bytes)) => bytes,
        },
        source_bits: sources.entropy_bits(),
        flags: flags(service),
        tracking: service.policy(),
        new_flows: service.max_new_flows_per_second.unwrap_or(0),
        timeouts: service.timeouts.into(),
        backends: service
            .backends
            .iter()
            .map(|backend| {
                let BackendNow {
                    serves,
                    drain,
                    next_hop,
                    tunnel_source,
                } = now(backend);
                let over = drain.is_some_and(|drain| drain.over);
                WantedBackend {
                    address: backend.address.into(),
                    port: backend.port,
                    weight: if serves && drain.is_none() {
                        backend.weight.into()
                    } else {
                        0
                    },
                    up: serves,
                    lives: serves && !over,
                    on_down: drain.filter(|_| over).map(|drain| drain.at_end.into()),
                    next_hop,
                    tunnel_source: tunnel_source.map_or(Address::default(), Address::from),
                }
            })
            .collect(),
    }
}

fn flags(service: &Service) -> u16 {
    let unmatched = match service.unmatched {
        Unmatched::Pass => flags::UNMATCHED_PASS,
        Unmatched::Drop => flags::UNMATCHED_DROP,
        Unmatched::Reject => flags::UNMATCHED_REJECT,
    };
    let echo = match service.echo {
        Echo::Host => 0,
        Echo::Balancer => flags::ECHO,
    };
    let fragments = match service.fragments {
        Fragments::Track => flags::FRAGMENTS_TRACK,
        Fragments::L3 => flags::FRAGMENTS_L3,
        Fragments::Drop => flags::FRAGMENTS_DROP,
    };
    let sole = if service.sole { flags::SOLE } else { 0 };
    unmatched | echo | fragments | sole
}

/// Services differ in their seed, so that a client's ports do not meet the same backend number everywhere.
fn seed(hash_seed: u64, key: &Key) -> u64 {
    let Address { high, low } = key.address;
    [
        u64::from_le(high),
        u64::from_le(low),
        u64::from(key.port) << 8 | u64::from(key.protocol),
    ]
    .into_iter()
    .fold(mix(hash_seed), |seed, part| mix(seed ^ part))
}

impl From<&ServiceKey> for Key {
    fn from(key: &ServiceKey) -> Self {
        Self::new(key.vip.into(), key.protocol.number(), key.port)
    }
}

impl From<Mode> for tables::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Nat => Self::Nat,
            Mode::Snat => Self::Snat,
            Mode::L2Dsr => Self::L2Dsr,
            Mode::Ipip => Self::Ipip,
            Mode::Gre => Self::Gre,
            Mode::Gue => Self::Gue,
            Mode::Dscp => Self::Dscp,
        }
    }
}

impl From<HashPolicy> for tables::HashPolicy {
    /// Within a service the destination address is a constant: hashing both addresses is hashing the source.
    fn from(policy: HashPolicy) -> Self {
        match policy {
            HashPolicy::L3L4 => Self::L3L4,
            HashPolicy::L3 | HashPolicy::Source => Self::L3,
            HashPolicy::L2L3 => Self::L2L3,
            HashPolicy::PerPacket => Self::PerPacket,
        }
    }
}
