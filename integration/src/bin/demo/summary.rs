//! What was done, whether it was as expected, and what to try next.

use std::time::Duration;

use crate::{
    Setting, pair,
    scene::{Outcome, UNDER_WAY},
    screen::{ms, percent, thousands},
};

/// How far a server's share may be from equal, in percentage points: four standard deviations of 10,000 fair choices.
const SHARE_TOLERANCE: f64 = 2.0;

/// Prints it; what was not as expected, one line each.
pub fn show(
    outcomes: &[(Setting, Outcome)],
    pair: Option<&pair::Outcome>,
    took: Duration,
    kept: Option<&str>,
) -> Vec<String> {
    let mut went_wrong = modes(outcomes);
    if let Some(pair) = pair {
        println!("\n   {}", pair.show());
        went_wrong.extend(pair.unexpected());
    }
    println!(
        "\n   {:.0} s in all. Requests came from threads of the demo, each on a connection of its own; figures of\n   \
         namespaces on one machine say that it works, not how fast it is (see benches).\n",
        took.as_secs_f64()
    );
    match kept {
        Some(text) => text.lines().for_each(|line| println!("   {line}")),
        None => println!(
            "   All of it is removed again. Next:\n\n     \
             cargo xtask demo -- --keep --mode nat-two-arm   keep the lab and look around in it\n     \
             cargo xtask demo -- --ipv6                      the same over IPv6, without the two nodes\n     \
             cargo xtask drill --fault node-death            break something of two nodes and measure it\n     \
             cargo xtask test                                every test there is\n     \
             docs/configuration.md                           a configuration of your own; `futago check FILE` explains mistakes"
        ),
    }
    went_wrong
}

fn modes(outcomes: &[(Setting, Outcome)]) -> Vec<String> {
    if outcomes.is_empty() {
        return Vec::new();
    }
    println!(
        "   {:14}{:>9}{:>8}{:>10}{:>10}{:>12}{:>22}{:>11}",
        "mode",
        "requests",
        "failed",
        "a second",
        "shares",
        "detection",
        "failed until/after it",
        "recovery"
    );
    let mut went_wrong = Vec::new();
    for (setting, outcome) in outcomes {
        let (least, most) = shares(outcome);
        println!(
            "   {:14}{:>9}{:>8}{:>10}{:>10}{:>12}{:>22}{:>11}",
            setting.title(),
            thousands(outcome.requests),
            thousands(outcome.failed),
            thousands(outcome.per_second as u64),
            format!("{least:.0}–{most:.0} %"),
            ms(outcome.detection),
            format!(
                "{} / {}",
                outcome.failed_until_detection,
                outcome.failed_after + outcome.failed_at_return
            ),
            ms(outcome.recovery),
        );
        went_wrong.extend(
            unexpected(outcome)
                .into_iter()
                .map(|what| format!("{}: {what}", setting.title())),
        );
    }
    went_wrong
}

/// The least and the greatest share of a server in percent.
fn shares(outcome: &Outcome) -> (f64, f64) {
    let answered = outcome.by_server.values().sum();
    let shares = outcome.by_server.values().map(|n| percent(*n, answered));
    shares.fold((100.0, 0.0), |(least, most), share| {
        (share.min(least), share.max(most))
    })
}

fn unexpected(outcome: &Outcome) -> Vec<String> {
    let mut wrong = Vec::new();
    if outcome.failed > 0 {
        wrong.push(format!(
            "{} of {} requests failed, the first: {}",
            outcome.failed,
            outcome.requests,
            outcome
                .first_failure
                .as_deref()
                .unwrap_or("for no reason given")
        ));
    }
    let equal = 100.0 / outcome.by_server.len() as f64;
    // Chance is wider where requests are fewer.
    let tolerance = SHARE_TOLERANCE * (10_000.0 / outcome.requests.min(10_000) as f64).sqrt();
    for (name, answers) in &outcome.by_server {
        let share = percent(*answers, outcome.by_server.values().sum());
        if (share - equal).abs() > tolerance {
            wrong.push(format!(
                "{name} had {share:.1} % of the requests, not {equal:.1} %"
            ));
        }
    }
    if outcome.detection > outcome.detection_limit {
        wrong.push(format!(
            "the dead server was found after {}, not within {}",
            ms(outcome.detection),
            ms(outcome.detection_limit)
        ));
    }
    if outcome.failed_after > 0 {
        wrong.push(format!(
            "{} requests failed although the dead server was known",
            outcome.failed_after
        ));
    }
    if outcome.failed_at_return > u64::from(UNDER_WAY) {
        wrong.push(format!(
            "{} requests failed when the server came back, and only {UNDER_WAY} were under way",
            outcome.failed_at_return
        ));
    }
    for (reason, packets) in &outcome.dropped {
        wrong.push(format!("the program dropped {packets} packets: {reason}"));
    }
    wrong
}
