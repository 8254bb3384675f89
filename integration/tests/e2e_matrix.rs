//! Every forwarding mode, both families, TCP and UDP: what real traffic needs, with real programs. Needs root.
//!
//! `FUTAGO_MATRIX_FULL=1` runs it at full size: 100 MiB, 5,000 connections, 5,000 queries. Each test is a row; what a row cannot do yet
//! is named in `integration/src/matrix.rs` and shown as such.

use anyhow::{Context as _, Result, bail};
use integration::matrix::{EXERCISES, MISSING_ROWS, ROWS, Row, Stand};

macro_rules! rows {
    ($($test:ident = $name:literal;)+) => {
        $(#[test]
        fn $test() -> Result<()> {
            exercise($name)
        })+

        const TESTED: &[&str] = &[$($name),+];
    };
}

rows! {
    nat = "nat";
    nat_two_arm = "nat-two-arm";
    l2_dsr = "l2-dsr";
    ipip = "ipip";
    gre = "gre";
    gue = "gue";
    gue_two_arm = "gue-two-arm";
    dscp = "dscp";
    ipip_crossed = "ipip-crossed";
    gre_crossed = "gre-crossed";
    gue_crossed = "gue-crossed";
}

#[test]
fn every_row_has_a_test() {
    let rows: Vec<_> = ROWS.iter().map(|row| row.name).collect();
    assert_eq!(rows, TESTED);
    for (name, reason) in MISSING_ROWS {
        println!("{name}: NO ROW YET: {reason}");
    }
}

fn exercise(name: &str) -> Result<()> {
    let row = Row::named(name).context("a row")?;
    let stand = Stand::build(row)?;
    let mut wrong = Vec::new();
    for (family, ipv6) in [("IPv4", false), ("IPv6", true)] {
        for exercise in EXERCISES {
            let what = format!("{name:<13} {family} {:<12}", exercise.name);
            let not_yet = row.not_yet.iter().find(|(name, _)| *name == exercise.name);
            match ((exercise.run)(&stand, ipv6), not_yet) {
                (Ok(measured), None) => println!("{what} {measured}"),
                (Err(_), Some((_, reason))) => println!("{what} NOT YET: {reason}"),
                (Ok(_), Some(_)) => wrong.push(format!("{what} passes: take it off the list")),
                (Err(error), None) => {
                    let dropped = stand.dropped()?;
                    println!("{what} FAILED");
                    wrong.push(format!(
                        "{what} {error} (dropped by the balancer: {dropped})"
                    ));
                }
            }
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("{}", wrong.join("\n"))
}
