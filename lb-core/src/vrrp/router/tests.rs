//! The odd branches, one by one; what needs several nodes is in the simulation.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use super::*;
use crate::vrrp::announce::AnnounceConfig;
use crate::vrrp::codec::Version;
use crate::vrrp::codec::{Addresses, ChecksumForm};
use crate::vrrp::liveness::Verdict;

const MS: Duration = Duration::from_millis(1);
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
const LOWER_PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 0, 255));

fn config() -> RouterConfig {
    RouterConfig {
        vrid: 51,
        wire: Wire::V3 {
            checksum: ChecksumForm::MessageOnly,
        },
        addresses: Addresses::V4(vec![Ipv4Addr::new(192, 0, 2, 100)]),
        primary: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        unicast_peers: vec![],
        priority: 100,
        interval: 100 * MS,
        preempt: Preempt::After(Duration::ZERO),
        virtual_mac: false,
        announce: AnnounceConfig::default(),
        lease: 3000 * MS,
    }
}

struct Bench {
    router: Router,
    out: Vec<Action>,
}

impl Bench {
    fn new(config: RouterConfig) -> Self {
        let mut bench = Self {
            router: Router::new(config).expect("valid"),
            out: vec![],
        };
        bench.at(0, Input::Start { lease_held: false });
        bench
    }

    fn active() -> Self {
        let mut bench = Self::new(RouterConfig {
            priority: 255,
            ..config()
        });
        bench.at(0, Input::Standing(Standing::at(100)));
        bench
    }

    /// Handles an input at `ms` and returns what came out, leases and changes left out.
    fn at(&mut self, ms: u32, input: Input<'_>) -> Vec<Action> {
        self.out.clear();
        self.router.handle(ms * MS, input, &mut self.out);
        self.out
            .iter()
            .copied()
            .filter(|a| !matches!(a, Action::Lease(_) | Action::Changed(_)))
            .collect()
    }

    fn hear(&mut self, ms: u32, source: IpAddr, priority: u8) -> Vec<Action> {
        let advert = Advert {
            interval: 100 * MS,
            ..self.router.config().advert(priority)
        };
        self.at(
            ms,
            Input::Advert {
                source,
                advert: &advert,
            },
        )
    }

    fn reason(&self) -> Option<Reason> {
        self.out.iter().rev().find_map(|a| {
            if let Action::Changed(c) = a {
                Some(c.reason)
            } else {
                None
            }
        })
    }
}

const ADVERT: Action = Action::Advert { priority: 100 };

#[test]
fn takes_over_in_order_lease_advert_addresses_announcement() {
    let mut bench = Bench::new(config());
    // 3 × 100 ms + 156 / 256 × 100 ms
    assert_eq!(
        bench.router.deadline(),
        Some(Duration::from_nanos(360_937_500))
    );
    bench.at(361, Input::Timer);
    let lease = LeaseWrite {
        router: 51,
        role: Role::Active,
        priority: 100,
        rank: 0xc000_0201,
        until: 3361 * MS,
    };
    let change = Change {
        from: State::Backup,
        to: State::Active,
        reason: Reason::AdvertsStopped,
        lasted: 361 * MS,
    };
    let expected = [
        Action::Lease(lease),
        ADVERT,
        Action::Take,
        Action::Announce,
        Action::Changed(change),
    ];
    assert_eq!(bench.out, expected);
}

#[test]
fn the_owner_does_not_wait() {
    let bench = Bench::new(RouterConfig {
        priority: 255,
        ..config()
    });
    assert_eq!(
        (bench.router.state(), bench.reason()),
        (State::Active, Some(Reason::Owner))
    );
}

#[test]
fn a_backup_learns_the_actives_interval() {
    let mut bench = Bench::new(config());
    let advert = Advert {
        interval: 1000 * MS,
        ..config().advert(200)
    };
    bench.at(
        10,
        Input::Advert {
            source: PEER,
            advert: &advert,
        },
    );
    assert_eq!(
        bench.router.deadline(),
        Some(10 * MS + timing::active_down(Version::V3, 1000 * MS, 100))
    );
}

#[test]
fn a_resignation_is_waited_for_one_skew_and_its_repetition_not_again() {
    let mut bench = Bench::new(config());
    bench.hear(100, PEER, 200);
    bench.hear(110, LOWER_PEER, 0);
    assert!(
        bench.router.deadline() > Some(400 * MS),
        "only the active can resign"
    );
    bench.hear(120, PEER, 0);
    let deadline = Some(120 * MS + Duration::from_nanos(60_937_500));
    assert_eq!(bench.router.deadline(), deadline);
    bench.hear(170, PEER, 0);
    assert_eq!(bench.router.deadline(), deadline);
    // The dataplane of the one that resigned still says "active".
    bench.at(
        175,
        Input::Evidence(Evidence {
            verdict: Verdict::Held,
            ..Evidence::default()
        }),
    );
    bench.at(181, Input::Timer);
    assert_eq!(bench.reason(), Some(Reason::PeerYielded));
}

#[test]
fn a_yielding_dataplane_is_waited_for_by_the_actives_skew() {
    let mut bench = Bench::new(config());
    let advert = Advert {
        interval: 1000 * MS,
        ..config().advert(200)
    };
    bench.at(
        10,
        Input::Advert {
            source: PEER,
            advert: &advert,
        },
    );
    let yielding = Evidence {
        verdict: Verdict::Yielding,
        ..Evidence::default()
    };
    bench.at(20, Input::Evidence(yielding));
    let skew = timing::skew(Version::V3, 1000 * MS, 100);
    assert_eq!(bench.router.deadline(), Some(20 * MS + skew));
}

#[test]
fn an_active_answers_resignation_and_lesser_claims_at_once() {
    let mut bench = Bench::active();
    bench.at(100, Input::Timer);
    assert_eq!(bench.hear(150, PEER, 0), [ADVERT]);
    assert_eq!(
        bench.hear(199, PEER, 50),
        [Action::Notice(Notice::Rival(PEER)), ADVERT]
    );
    assert_eq!(
        bench.hear(201, PEER, 50),
        [Action::Notice(Notice::Rival(PEER))],
        "but not every one of a flood"
    );
}

#[test]
fn a_tie_goes_to_the_higher_address_compared_as_a_number() {
    let mut bench = Bench::active();
    assert!(
        bench.hear(50, LOWER_PEER, 100).contains(&ADVERT),
        "192.0.0.255 is below 192.0.2.1"
    );
    assert_eq!(bench.hear(90, PEER, 100), [ADVERT, Action::Release]);
    assert_eq!(bench.reason(), Some(Reason::LostTieBreak));
}

#[test]
fn adverts_keep_their_beat_and_do_not_burst() {
    let mut bench = Bench::active();
    bench.at(90, Input::Timer);
    assert_eq!(bench.router.deadline(), Some(100 * MS));
    assert!(bench.at(130, Input::Timer).contains(&ADVERT));
    bench.at(199, Input::Timer);
    assert!(
        bench.at(200, Input::Timer).contains(&ADVERT),
        "late once, on the beat again"
    );
    let late = bench.at(450, Input::Timer);
    assert_eq!(late.iter().filter(|a| **a == ADVERT).count(), 1);
    assert_eq!(bench.at(451, Input::Timer), []);
}

#[test]
fn after_a_stall_it_lost_without_echo_and_listens_with_it() {
    let mut bench = Bench::active();
    assert_eq!(
        bench.at(300, Input::Timer),
        [
            Action::Notice(Notice::Stalled(Duration::ZERO)),
            Action::Release
        ]
    );
    assert_eq!(bench.reason(), Some(Reason::Stalled));

    let free = Evidence {
        verdict: Verdict::Free,
        ..Evidence::default()
    };
    let mut bench = Bench::active();
    bench.at(1, Input::Evidence(free));
    assert_eq!(
        bench.at(1000, Input::Timer),
        [Action::Notice(Notice::Stalled(700 * MS))]
    );
    assert!(bench.router.in_doubt());
    assert!(
        bench.at(1125, Input::Timer).contains(&ADVERT),
        "nobody spoke"
    );

    let mut bench = Bench::active();
    bench.at(1, Input::Evidence(free));
    bench.at(1000, Input::Timer);
    assert_eq!(bench.hear(1050, PEER, 1), [Action::Release]);
    assert_eq!(bench.reason(), Some(Reason::RivalAfterStall));

    let mut bench = Bench::active();
    bench.at(1, Input::Evidence(free));
    bench.at(4000, Input::Timer);
    assert_eq!(bench.reason(), Some(Reason::LeaseLost));
}

#[test]
fn a_backup_that_stalled_listens_once_more() {
    let mut bench = Bench::new(config());
    bench.hear(100, PEER, 200);
    assert_eq!(
        bench.at(2000, Input::Timer),
        [Action::Notice(Notice::Stalled(
            2000 * MS - Duration::from_nanos(560_937_500)
        ))]
    );
    assert_eq!(bench.router.state(), State::Backup);
    bench.at(5000, Input::Timer);
    assert_eq!(bench.router.state(), State::Active, "but not for ever");
}

#[test]
fn time_that_runs_backwards_is_ignored() {
    let mut bench = Bench::active();
    bench.at(150, Input::Timer);
    bench.at(3, Input::Timer);
    assert_eq!(bench.router.deadline(), Some(200 * MS));
}

#[test]
fn a_fault_resigns_and_a_cleared_fault_listens() {
    let mut bench = Bench::active();
    let fault = Standing {
        priority: 100,
        fault: true,
    };
    assert_eq!(
        bench.at(10, Input::Standing(fault)),
        [Action::Advert { priority: 0 }, Action::Release]
    );
    assert_eq!(
        bench.router.judge(&PEER, &config().advert(50)),
        Err(Reject::NotListening)
    );
    bench.at(20, Input::Standing(Standing::at(100)));
    assert_eq!(bench.router.state(), State::Backup);
}

#[test]
fn a_shutdown_is_not_turned_into_a_handover_and_a_handover_can_be_called_off() {
    let mut bench = Bench::active();
    bench.at(10, Input::Handover);
    assert_eq!(bench.at(20, Input::Resume), [ADVERT]);
    bench.at(30, Input::Shutdown);
    bench.at(40, Input::Handover);
    assert_eq!(bench.hear(50, PEER, 1), [Action::Release, Action::Stopped]);
    assert_eq!(bench.router.state(), State::Initialize);
    assert_eq!(bench.reason(), Some(Reason::HandedOver));

    let mut alone = Bench::active();
    alone.at(10, Input::Shutdown);
    let end = timing::handover_wait(Version::V3, 100 * MS).as_millis() as u32 + 11;
    let mut ended = Vec::new();
    for ms in (100..=end).step_by(50).chain([end]) {
        ended.extend(alone.at(ms, Input::Timer));
    }
    assert!(
        ended.ends_with(&[Action::Release, Action::Stopped]),
        "{ended:?}"
    );
    assert_eq!(alone.reason(), Some(Reason::Shutdown), "nobody was heard");
}

#[test]
fn what_is_not_for_this_router_has_its_reason() {
    let auth = |text: &[u8; 8]| Wire::V2 {
        auth: Auth::SimpleText(*text),
    };
    let v2 = RouterConfig {
        wire: auth(b"secret\0\0"),
        interval: 1000 * MS,
        lease: 4000 * MS,
        ..config()
    };
    let router = Bench::new(v2.clone()).router;
    let judged = |source: IpAddr, advert: Advert| router.judge(&source, &advert);
    let good = v2.advert(50);
    assert_eq!(judged(PEER, good.clone()), Ok(()));
    assert_eq!(judged(v2.primary, good.clone()), Err(Reject::OwnAddress));
    assert_eq!(
        judged(PEER, config().advert(50)),
        Err(Reject::VersionMismatch)
    );
    assert_eq!(
        judged(
            PEER,
            Advert {
                wire: auth(b"Secret\0\0"),
                ..good.clone()
            }
        ),
        Err(Reject::AuthData)
    );
    assert_eq!(
        judged(
            PEER,
            Advert {
                wire: Wire::V2 { auth: Auth::None },
                ..good.clone()
            }
        ),
        Err(Reject::AuthType)
    );
    assert_eq!(
        judged(
            PEER,
            Advert {
                interval: 2000 * MS,
                ..good.clone()
            }
        ),
        Err(Reject::IntervalMismatch)
    );
    let other_list = Addresses::V4(vec![Ipv4Addr::new(192, 0, 2, 7)]);
    assert_eq!(
        judged(
            PEER,
            Advert {
                addresses: other_list,
                ..good
            }
        ),
        Ok(()),
        "another list is no reason"
    );

    let unicast = Bench::new(RouterConfig {
        unicast_peers: vec![PEER],
        ..config()
    })
    .router;
    assert_eq!(
        unicast.judge(&LOWER_PEER, &config().advert(50)),
        Err(Reject::NotAPeer)
    );
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let error = |config: RouterConfig| Router::new(config).expect_err("refused").to_string();
    assert!(
        error(RouterConfig {
            interval: 15 * MS,
            ..config()
        })
        .contains("multiple of 10 ms")
    );
    assert!(
        error(RouterConfig {
            lease: 399 * MS,
            ..config()
        })
        .contains("at least 400ms")
    );
    assert!(
        error(RouterConfig {
            priority: 0,
            ..config()
        })
        .contains("choose 1 to 255")
    );
    let global = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    let local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let v6 = RouterConfig {
        addresses: Addresses::V6(vec![global]),
        primary: local.into(),
        ..config()
    };
    assert!(error(v6.clone()).contains("first IPv6 address"));
    assert!(
        error(RouterConfig {
            primary: global.into(),
            ..v6
        })
        .contains("must be link-local")
    );
}
