//! The page: what was measured on what, the tables, and what they say.

use std::{fmt::Write as _, path::PathBuf};

use crate::result::{Row, median};

const MODES_OF_INTEREST: [u32; 2] = [65_536, 1_048_576];

/// (suite, case), in the order of the rows.
pub fn cases(rows: &[Row]) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    for row in rows {
        let case = (row.suite.as_str(), row.case.as_str());
        if !found.contains(&case) {
            found.push(case);
        }
    }
    found
}

pub fn text(rows: &[Row], files: &[PathBuf], plots: &[(&str, &str, String)]) -> String {
    let names: Vec<_> = files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    let mut runs: Vec<&str> = rows.iter().map(|row| row.run.as_str()).collect();
    runs.sort_unstable();
    runs.dedup();
    let mut out = format!(
        "# Benchmarks\n\n\
         Written by `cargo xtask bench report {}`; not for editing. [performance.md](performance.md) says how the figures are made, what \
         the alternatives are, and what was tried to improve them.\n\n\
         Machine:\n\n",
        names.join(" ")
    );
    for run in runs {
        let _ = writeln!(out, "* {run}");
    }
    out.push_str("\nAgain on another machine: `cargo xtask bench path packet --json FILE` (root; `--quick` is shorter).\n");
    summary(rows, &mut out);
    for suite in ["path", "packet"] {
        let of_suite: Vec<_> = cases(rows)
            .into_iter()
            .filter(|(of, _)| *of == suite)
            .collect();
        if of_suite.is_empty() {
            continue;
        }
        let _ = writeln!(out, "\n## {}\n\n{}", title(suite), explanation(suite));
        for (_, case) in of_suite {
            let _ = writeln!(out, "\n### {case}\n");
            if let Some((_, _, name)) = plots
                .iter()
                .find(|(of, plotted, _)| *of == suite && *plotted == case)
            {
                let _ = writeln!(out, "![{suite}, {case}]({name})\n");
            }
            table(rows, suite, case, &mut out);
        }
    }
    out
}

fn title(suite: &str) -> &'static str {
    match suite {
        "path" => "A packet's whole way",
        _ => "The program alone",
    }
}

fn explanation(suite: &str) -> &'static str {
    match suite {
        "path" => {
            "Million packets a second that came out again. Generator, alternative and counter share one CPU, so every figure is bounded by \
             that CPU; the floor, which only swaps MAC addresses, is the bound of the arrangement. `ratio` is to the floor, the median over \
             the rounds. Frames have 60 bytes (96 with IPv6)."
        }
        _ => {
            "Nanoseconds of one run, the harness subtracted; bounded by the CPU and, with many flows, by its caches. `ratio` is how many times \
             the MAC swap."
        }
    }
}

/// What the median says of Futago against each alternative, at the numbers of flows where it matters.
fn summary(rows: &[Row], out: &mut String) {
    let figure = |case: &str, flows: u32, alternative: &str| {
        rows.iter()
            .find(|row| {
                row.suite == "path"
                    && row.case == case
                    && row.flows == flows
                    && row.alternative == alternative
            })
            .and_then(|row| row.mpps)
            .map(|mpps| mpps.median)
    };
    let of_path: Vec<_> = cases(rows)
        .into_iter()
        .filter(|(suite, _)| *suite == "path")
        .collect();
    if of_path.is_empty() {
        return;
    }
    out.push_str(
        "\n## In short\n\n| case | flows | Mpps | of the floor | × LRU design | × kernel forwarding | × nftables |\n|---|---|---|---|---|---|---|\n",
    );
    let mut wins: Vec<String> = Vec::new();
    for (_, case) in of_path {
        for flows in MODES_OF_INTEREST {
            let Some(ours) = figure(case, flows, "futago") else {
                continue;
            };
            let ratio = rows
                .iter()
                .find(|row| {
                    row.suite == "path"
                        && row.case == case
                        && row.flows == flows
                        && row.alternative == "futago"
                })
                .and_then(|row| row.ratio_to_floor);
            let mut times = |alternative: &str| {
                let Some(theirs) = figure(case, flows, alternative) else {
                    return "–".to_owned();
                };
                if theirs > ours {
                    wins.push(format!(
                        "{alternative} is faster than {case} at {} flows",
                        grouped(flows)
                    ));
                }
                format!("{:.1}", ours / theirs)
            };
            let (lru, kernel, nft) = (times("lru"), times("kernel forwarding"), times("nftables"));
            let _ = writeln!(
                out,
                "| {case} | {} | {ours:.2} | {} | {lru} | {kernel} | {nft} |",
                grouped(flows),
                ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"))
            );
        }
    }
    let loss: Vec<f64> = rows
        .iter()
        .filter(|row| row.alternative == "futago")
        .map(|row| row.loss)
        .collect();
    let _ = writeln!(
        out,
        "\nWhere an alternative wins: {}. Loss of Futago: {:.3} % at the median, {:.3} % at most. A dash: that alternative does not do it, or \
         the machine's limit of tracked connections is below the number of flows.",
        if wins.is_empty() {
            "nowhere in this table".to_owned()
        } else {
            wins.join("; ")
        },
        median(&loss) * 100.0,
        loss.iter().copied().fold(0.0, f64::max) * 100.0
    );
}

fn table(rows: &[Row], suite: &str, case: &str, out: &mut String) {
    out.push_str("| flows | alternative | min | median | max | ratio | loss |\n|---|---|---|---|---|---|---|\n");
    let of_case = rows
        .iter()
        .filter(|row| row.suite == suite && row.case == case);
    for row in of_case {
        let (figure, unit) = row.figure();
        let _ = writeln!(
            out,
            "| {} | {} | {:.2} | {:.2} {unit} | {:.2} | {} | {:.2} % |",
            grouped(row.flows),
            row.alternative,
            figure.min,
            figure.median,
            figure.max,
            row.ratio_to_floor
                .map_or_else(String::new, |ratio| format!("{ratio:.2}")),
            row.loss * 100.0
        );
    }
}

/// "1,048,576".
pub fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::Spread;

    #[test]
    fn the_page_says_where_an_alternative_wins() {
        let row = |alternative: &str, mpps: f64| Row {
            suite: "path".into(),
            case: "nat v4".into(),
            flows: 65_536,
            alternative: alternative.into(),
            mpps: Some(Spread::of(&[mpps])),
            ns: None,
            value: None,
            unit: None,
            ratio_to_floor: Some(mpps / 5.0),
            loss: 0.0,
            rounds: 1,
            run: "a machine".into(),
        };
        let rows = [row("floor", 5.0), row("futago", 4.0), row("lru", 4.5)];
        let page = text(&rows, &["out.json".into()], &[]);
        assert!(
            page.contains("| nat v4 | 65,536 | 4.00 | 0.80 | 0.9 | – | – |"),
            "{page}"
        );
        assert!(
            page.contains("lru is faster than nat v4 at 65,536 flows"),
            "{page}"
        );
        assert!(page.contains("* a machine"), "{page}");
    }
}
