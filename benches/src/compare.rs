//! Whether two runs say the same.

use anyhow::{Result, ensure};

use crate::result::{Row, median};

const TOLERANCE: f64 = 0.10;

/// Prints each case of `path` that both runs have, with the medians of their ratios; true if the medians over the flows of each case and
/// alternative differ by at most a tenth.
pub fn compare(a: &[Row], b: &[Row]) -> Result<bool> {
    let mut alike = true;
    let mut seen = Vec::new();
    for row in a {
        let name = (&row.suite, &row.case, &row.alternative);
        if row.suite != "path" || row.alternative == "floor" || seen.contains(&name) {
            continue;
        }
        seen.push(name);
        let of = |rows: &[Row]| {
            let ratios: Vec<f64> = rows
                .iter()
                .filter(|other| (&other.suite, &other.case, &other.alternative) == name)
                .filter_map(|other| other.ratio_to_floor)
                .collect();
            median(&ratios)
        };
        let (first, second) = (of(a), of(b));
        if second.is_nan() {
            continue;
        }
        let difference = second / first - 1.0;
        let ok = difference.abs() <= TOLERANCE;
        alike &= ok;
        println!(
            "{:<20}{:<20}{first:>8.3}{second:>8.3}{:>+8.1} %{}",
            row.case,
            row.alternative,
            difference * 100.0,
            if ok { "" } else { "   more than 10 %" }
        );
    }
    ensure!(!seen.is_empty(), "the first file has no rows of `path`");
    Ok(alike)
}
