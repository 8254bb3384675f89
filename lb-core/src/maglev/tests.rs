use core::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;

/// Backends 10.0.`set`.1 and on, with these weights.
fn backends(set: u8, weights: impl IntoIterator<Item = u32>) -> Vec<(u64, u32)> {
    weights
        .into_iter()
        .zip(1u16..)
        .map(|(weight, host)| {
            let [high, low] = host.to_be_bytes();
            (
                identity(&BackendKey {
                    address: IpAddr::V4(Ipv4Addr::new(10, set, high, low)),
                    port: 80,
                }),
                weight,
            )
        })
        .collect()
}

fn counts(table: &[u16], backends: usize) -> Vec<u32> {
    let mut counts = vec![0; backends + 1];
    for number in table {
        counts[usize::from(*number)] += 1;
    }
    counts
}

/// Slots that changed their owner though neither the old nor the new one is `except`, as a share of those that others own.
fn moved_among_others(before: &[u16], after: &[u16], except: u16) -> f64 {
    let others = before.iter().filter(|owner| **owner != except).count();
    let moved = before
        .iter()
        .zip(after)
        .filter(|(a, b)| a != b && **a != except && **b != except)
        .count();
    moved as f64 / others as f64
}

#[test]
fn shares_are_the_weights_to_one_slot() {
    for (set, weights) in [vec![1, 2, 3], vec![1; 10], vec![1000, 1, 500, 7], vec![3]]
        .into_iter()
        .enumerate()
    {
        for size in [251, 4093, 65_537] {
            let total: u32 = weights.iter().sum();
            let table = build(7, &backends(set as u8, weights.clone()), size);
            let counts = counts(&table, weights.len());
            assert_eq!(counts[0], 0);
            for (count, weight) in counts[1..].iter().zip(&weights) {
                let exact = f64::from(size) * f64::from(*weight) / f64::from(total);
                assert!(
                    (f64::from(*count) - exact).abs() <= 1.0,
                    "{count} of {size} for {weight}/{total}"
                );
            }
        }
    }
}

#[test]
fn removing_one_of_ten_moves_less_than_two_percent_of_the_others() {
    let mut worst: f64 = 0.0;
    for seed in 0..3 {
        for set in 0..2 {
            let weights = (0..10).map(|host| if set == 0 { 1 } else { 1 + host % 4 });
            let all = backends(set, weights);
            let before = build(seed, &all, 65_537);
            for gone in 1..=all.len() {
                let mut left = all.clone();
                left[gone - 1].1 = 0;
                let after = build(seed, &left, 65_537);
                assert!(!after.contains(&(gone as u16)));
                worst = worst.max(moved_among_others(&before, &after, gone as u16));
            }
        }
    }
    // The acceptance is 2 %; this variant reaches 0.5 %, and the paper's permutation 1.6 %.
    assert!(worst < 0.007, "{worst}");
}

#[test]
fn a_small_table_keeps_to_it_too() {
    let all = backends(9, [1; 10]);
    for seed in 0..20 {
        let before = build(seed, &all, 4093);
        for gone in 1..=10 {
            let mut left = all.clone();
            left[gone - 1].1 = 0;
            let moved = moved_among_others(&before, &build(seed, &left, 4093), gone as u16);
            assert!(moved < 0.025, "{moved}");
        }
    }
}

#[test]
fn a_new_weight_moves_little_beyond_what_it_must() {
    for seed in 0..2 {
        let all = backends(3, [100; 10]);
        let before = build(seed, &all, 65_537);
        for weight in [1, 50, 99, 101, 200, 1000] {
            let mut changed = all.clone();
            changed[4].1 = weight;
            let after = build(seed, &changed, 65_537);
            let moved = moved_among_others(&before, &after, 5);
            assert!(moved < 0.02, "{moved} for {weight}");
        }
    }
}

#[test]
fn the_order_of_backends_decides_nothing() {
    let all = backends(1, 1..=20);
    let mut turned = all.clone();
    turned.rotate_left(7);
    let owners = |backends: &[(u64, u32)]| -> Vec<u64> {
        build(42, backends, 4093)
            .iter()
            .map(|number| backends[usize::from(*number) - 1].0)
            .collect()
    };
    assert_eq!(owners(&all), owners(&turned));
}

/// Both nodes of a pair, and the next version, must give this.
#[test]
fn the_table_is_the_same_on_every_machine() {
    let table = build(1, &backends(0, [1, 2, 3]), 31);
    let golden = [
        2, 2, 2, 3, 2, 3, 3, 1, 3, 1, 2, 1, 2, 3, 3, 2, 2, 3, 1, 3, 2, 2, 3, 3, 3, 3, 3, 3, 1, 3, 3,
    ];
    assert_eq!(table, golden);
}

#[test]
fn families_and_ports_are_identities_of_their_own() {
    let key = |address: &str, port| BackendKey {
        address: address.parse().expect("an address"),
        port,
    };
    let keys = [
        key("10.0.0.1", 80),
        key("10.0.0.1", 81),
        key("::a00:1", 80),
        key("10.0.0.2", 80),
    ];
    let identities: std::collections::BTreeSet<_> = keys.iter().map(identity).collect();
    assert_eq!(identities.len(), keys.len());
}

#[test]
fn a_table_without_weight_is_empty() {
    assert_eq!(build(1, &[], 7), [0; 7]);
    assert_eq!(build(1, &backends(0, [0, 0]), 7), [0; 7]);
    assert_eq!(build(1, &backends(0, [1]), 0), [0; 0]);
}

#[test]
fn ten_thousand_backends_all_get_their_slots() {
    let table = build(
        1,
        &backends(0, (0..10_000).map(|host| 1 + host % 7)),
        65_537,
    );
    let counts = counts(&table, 10_000);
    assert_eq!(counts[0], 0);
    assert!(counts[1..].iter().all(|count| (1..=13).contains(count)));
}

proptest! {
    /// Any size, prime or not, and any weights: full, and only by backends that have a weight.
    #[test]
    fn every_slot_has_an_owner_with_weight(
        seed: u64,
        size in 1..600_u32,
        weights in proptest::collection::vec(prop_oneof![Just(0), 1..1001_u32, any::<u32>()], 1..40),
    ) {
        let table = build(seed, &backends(5, weights.clone()), size);
        prop_assert_eq!(table.len(), size as usize);
        let any_weight = weights.iter().any(|weight| *weight > 0);
        for number in table {
            match usize::from(number).checked_sub(1) {
                None => prop_assert!(!any_weight),
                Some(index) => prop_assert!(weights[index] > 0),
            }
        }
    }
}
