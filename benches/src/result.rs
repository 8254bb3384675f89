//! What a bench has found: one row for each case, number of flows and alternative. `docs/performance.md` describes the fields; others read
//! these files, so a field keeps its name and meaning.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// How much time to spend, and on what.
#[derive(Clone, Debug, Default)]
pub struct Effort {
    pub quick: bool,
    pub case: String,
    pub flows: Vec<u32>,
}

impl Effort {
    /// Rounds in which all alternatives take turns.
    pub fn rounds(&self) -> usize {
        if self.quick { 7 } else { 11 }
    }

    /// The numbers of flows to measure with.
    pub fn flows(&self) -> Vec<u32> {
        let all = [1, 1024, 65_536, 1_048_576];
        all.into_iter()
            .filter(|flows| self.flows.is_empty() || self.flows.contains(flows))
            .collect()
    }

    pub fn wants(&self, case: &str) -> bool {
        case.starts_with(&self.case)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub suite: String,
    pub case: String,
    pub flows: u32,
    pub alternative: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mpps: Option<Spread>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ns: Option<Spread>,
    /// Another figure, in `unit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Spread>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Median over the rounds of this figure divided by that of the floor in the same round; null if there is no floor.
    pub ratio_to_floor: Option<f64>,
    /// Share of the packets or requests that were lost.
    pub loss: f64,
    pub rounds: usize,
    /// Machine, kernel, time and load of the run.
    pub run: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self {
            min: sorted.first().copied().unwrap_or(f64::NAN),
            median: median(values),
            max: sorted.last().copied().unwrap_or(f64::NAN),
        }
    }
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The median of the ratios of two series, round by round.
pub fn ratio(values: &[f64], floor: &[f64]) -> f64 {
    let ratios: Vec<f64> = values.iter().zip(floor).map(|(a, b)| a / b).collect();
    median(&ratios)
}

/// One table a suite, one line a case and number of flows.
pub fn print(rows: &[Row]) {
    let suites: BTreeSet<&str> = rows.iter().map(|row| row.suite.as_str()).collect();
    for suite in suites {
        println!(
            "\n{suite:<30}{:>10}  {:<16}{:>10}{:>10}{:>10}  {:<8}{:>8}{:>8}",
            "flows", "alternative", "min", "median", "max", "", "ratio", "loss"
        );
        for row in rows.iter().filter(|row| row.suite == suite) {
            let (figure, unit) = row.figure();
            let ratio = row
                .ratio_to_floor
                .map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            println!(
                "{:<30}{:>10}  {:<16}{:>10.2}{:>10.2}{:>10.2}  {unit:<8}{ratio:>8}{:>7.2}%",
                row.case,
                row.flows,
                row.alternative,
                figure.min,
                figure.median,
                figure.max,
                row.loss * 100.0
            );
        }
    }
}

impl Row {
    /// The figure and its unit.
    pub fn figure(&self) -> (Spread, &str) {
        let none = Spread::of(&[]);
        match (self.mpps, self.ns) {
            (Some(mpps), _) => (mpps, "Mpps"),
            (_, Some(ns)) => (ns, "ns"),
            _ => (
                self.value.unwrap_or(none),
                self.unit.as_deref().unwrap_or(""),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        // Round by round: a slow second round is slow for both.
        assert_eq!(ratio(&[0.9, 0.45, 0.9], &[1.0, 0.5, 1.0]), 0.9);
        let spread = Spread::of(&[5.0, 1.0, 3.0]);
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 3.0, 5.0));
    }

    #[test]
    fn a_row_keeps_its_names() {
        let row = Row {
            suite: "path".into(),
            case: "l2-dsr v4".into(),
            flows: 1,
            alternative: "floor".into(),
            mpps: Some(Spread::of(&[5.0])),
            ns: None,
            value: None,
            unit: None,
            ratio_to_floor: Some(1.0),
            loss: 0.0,
            rounds: 7,
            run: String::new(),
        };
        let text = serde_json::to_string(&row).expect("plain data");
        assert_eq!(
            text,
            r#"{"suite":"path","case":"l2-dsr v4","flows":1,"alternative":"floor","mpps":{"min":5.0,"median":5.0,"max":5.0},"ratio_to_floor":1.0,"loss":0.0,"rounds":7,"run":""}"#
        );
        assert_eq!(
            serde_json::from_str::<Row>(&text).expect("its own text"),
            row
        );
    }
}
