use core::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::model::{BackendKey, CheckKind};

const INTERVAL: Duration = Duration::from_millis(1000);
const TIMEOUT: Duration = Duration::from_millis(400);

fn check(rise: u32, fall: u32) -> Check {
    Check {
        kind: CheckKind::Tcp,
        interval: INTERVAL,
        timeout: TIMEOUT,
        rise,
        fall,
        port: None,
    }
}

/// Runs the next probe, which answers after 10 ms, and says when it started.
fn probe(health: &mut Health, outcome: Outcome) -> (Duration, Option<Transition>) {
    let start = health.next_deadline();
    let actions = health.poll(start);
    let [Action::Probe { id, deadline }] = actions.as_slice() else {
        panic!("no probe but {actions:?}")
    };
    assert_eq!(*deadline, start + TIMEOUT);
    (
        start,
        health.finish(start + Duration::from_millis(10), *id, outcome),
    )
}

fn fail() -> Outcome {
    Outcome::Failure("connection refused".to_owned())
}

#[test]
fn the_first_outcome_decides_alone() {
    for (outcome, state) in [(Outcome::Success, State::Up), (fail(), State::Down)] {
        let mut health = Health::new(&check(5, 5), 1, Duration::ZERO);
        assert!(!health.state().serves());
        let (_, change) = probe(&mut health, outcome);
        assert_eq!(
            change.map(|c| (c.from, c.to)),
            Some((State::Unknown, state))
        );
    }
}

#[test]
fn fall_and_rise_count_outcomes_in_a_row() {
    let mut health = Health::adopted(&check(2, 3), 1, State::Up, Duration::ZERO);
    for outcome in [fail(), fail(), Outcome::Success, fail(), fail()] {
        assert_eq!(probe(&mut health, outcome).1, None);
    }
    let (start, change) = probe(&mut health, fail());
    let change = change.expect("the third in a row");
    assert_eq!(change.to, State::Down);
    assert_eq!(change.at, start + Duration::from_millis(10));
    assert_eq!(
        change.reason,
        "3 failures in a row, the last: connection refused"
    );
    assert_eq!(health.last_failure(), Some("connection refused"));

    assert_eq!(probe(&mut health, Outcome::Success).1, None);
    let change = probe(&mut health, Outcome::Success)
        .1
        .expect("the second in a row");
    assert_eq!(
        (change.to, change.reason.as_str()),
        (State::Up, "2 successes in a row")
    );
    assert_eq!(health.last_failure(), None);
}

#[test]
fn an_unanswered_probe_fails_and_its_late_answer_is_ignored() {
    let mut health = Health::adopted(&check(1, 1), 1, State::Up, Duration::ZERO);
    let start = health.next_deadline();
    let actions = health.poll(start);
    let [Action::Probe { id, deadline }] = actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(health.poll(deadline - Duration::from_nanos(1)), []);
    let actions = health.poll(deadline);
    let [Action::Changed(change)] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(
        (change.to, change.reason.as_str()),
        (State::Down, "no answer in 400 ms")
    );
    assert_eq!(health.finish(deadline, id, Outcome::Success), None);
    assert_eq!(health.state(), State::Down);

    // Neither while the next one runs.
    assert!(matches!(
        health.poll(health.next_deadline())[..],
        [Action::Probe { .. }]
    ));
    assert_eq!(
        health.finish(health.next_deadline(), id, Outcome::Success),
        None
    );
}

#[test]
fn starts_keep_to_the_interval_give_or_take_the_jitter() {
    let mut health = Health::adopted(&check(1, 1), 7, State::Up, Duration::from_secs(3));
    let starts: Vec<_> = (0..1000)
        .map(|_| probe(&mut health, Outcome::Success).0)
        .collect();
    let jitter = INTERVAL / JITTER_FRACTION;
    for (k, start) in starts.iter().enumerate() {
        let even = starts[0] + INTERVAL * k as u32;
        assert!(
            start.abs_diff(even) <= jitter,
            "probe {k} at {start:?}, not {even:?}"
        );
    }
    assert!(starts[0] - Duration::from_secs(3) <= FIRST_PROBE_WITHIN + jitter);
}

#[test]
fn backends_start_apart_and_each_alike_on_every_run() {
    let first = |host: u32| {
        let address = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + host));
        let identity = crate::maglev::identity(&BackendKey { address, port: 80 });
        Health::new(&check(1, 1), identity, Duration::ZERO).next_deadline()
    };
    let starts: Vec<_> = (0..100).map(first).collect();
    assert_eq!(starts, (0..100).map(first).collect::<Vec<_>>());
    for tenth in 0..10 {
        let from = FIRST_PROBE_WITHIN / 10 * tenth;
        let count = starts
            .iter()
            .filter(|s| (from..from + FIRST_PROBE_WITHIN / 10).contains(s))
            .count();
        assert!(
            count <= 30,
            "{count} of 100 start within a tenth of the time"
        );
    }
}

#[test]
fn a_stall_is_followed_by_one_probe() {
    let mut health = Health::adopted(&check(1, 1), 1, State::Up, Duration::ZERO);
    probe(&mut health, Outcome::Success);
    let late = health.next_deadline() + INTERVAL * 100;
    let actions = health.poll(late);
    let [Action::Probe { id, .. }] = actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(health.finish(late, id, Outcome::Success), None);
    // The last missed point of the grid may be used at once; then it is one an interval.
    let (next, _) = probe(&mut health, Outcome::Success);
    assert!(next + INTERVAL >= late);
    let (after, _) = probe(&mut health, Outcome::Success);
    assert!(after >= late && after > next + INTERVAL / 2);
}

#[test]
fn a_probe_as_long_as_the_interval_does_not_skip_one() {
    let whole = Check {
        timeout: INTERVAL,
        ..check(1, 1)
    };
    let mut health = Health::adopted(&whole, 3, State::Up, Duration::ZERO);
    let mut starts = Vec::new();
    let mut now = health.next_deadline();
    for _ in 0..50 {
        starts.extend(
            health
                .poll(now)
                .iter()
                .filter(|a| matches!(a, Action::Probe { .. }))
                .map(|_| now),
        );
        now = health.next_deadline().max(now);
    }
    let gaps: Vec<_> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| *gap < INTERVAL * 3 / 2), "{gaps:?}");
}

#[test]
fn an_edited_check_keeps_the_state_and_takes_effect() {
    let slow = Check {
        interval: Duration::from_secs(3600),
        ..check(1, 1)
    };
    let mut health = Health::adopted(&slow, 1, State::Up, Duration::ZERO);
    let (start, _) = probe(&mut health, Outcome::Success);
    health.reconfigure(&check(1, 1), start);
    assert_eq!(health.state(), State::Up);
    assert!(health.next_deadline() <= start + INTERVAL * 2);
}
