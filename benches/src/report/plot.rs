//! A plot: a group of bars for each number of flows, one bar an alternative. Readable on a light and on a dark page.

use std::fmt::Write as _;

use crate::result::Row;

/// Colours that keep their contrast on white and on near-black, and for who tells red from green badly.
const COLOURS: [(&str, &str); 5] = [
    ("floor", "#8a8f98"),
    ("futago", "#2f81f7"),
    ("lru", "#d9730d"),
    ("kernel forwarding", "#8957e5"),
    ("nftables", "#bf3989"),
];
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 44.0;
const TOP: f64 = 46.0;
/// One grey for text that is legible on both backgrounds.
const STYLE: &str = "text{font:12px sans-serif;fill:#57606a}line{stroke:#57606a;stroke-opacity:.35}\
    @media(prefers-color-scheme:dark){text{fill:#9ea7b3}line{stroke:#9ea7b3}}";

/// The plot of a case; `None` if there is nothing to compare.
pub fn svg(rows: &[Row], suite: &str, case: &str) -> Option<String> {
    let of_case: Vec<&Row> = rows
        .iter()
        .filter(|row| row.suite == suite && row.case == case)
        .collect();
    let mut flows: Vec<u32> = of_case.iter().map(|row| row.flows).collect();
    flows.sort_unstable();
    flows.dedup();
    let present: Vec<_> = COLOURS
        .iter()
        .filter(|(name, _)| of_case.iter().any(|row| row.alternative == *name))
        .collect();
    if present.len() < 2 {
        return None;
    }
    let unit = of_case.first()?.figure().1;
    let most = of_case
        .iter()
        .map(|row| row.figure().0.max)
        .fold(0.0, f64::max);
    let step = nice(most / 4.0);
    let top = (most / step).ceil() * step;
    let y = |value: f64| HEIGHT - BOTTOM - value.max(0.0) / top * (HEIGHT - BOTTOM - TOP);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{suite}, {case}\"><style>{STYLE}</style>\n"
    );
    let mut value = 0.0;
    while value <= top + step / 2.0 {
        let at = y(value);
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            LEFT - 6.0,
            at + 4.0
        );
        value += step;
    }
    let mut x = LEFT;
    for (name, colour) in &present {
        let _ = writeln!(
            out,
            "<rect x=\"{x:.1}\" y=\"10\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"20\">{name}</text>",
            x + 17.0
        );
        x += 40.0 + name.len() as f64 * 7.5;
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"20\" text-anchor=\"end\">{unit}, median, least and most</text>",
        WIDTH - 4.0
    );
    let group = (WIDTH - LEFT) / flows.len() as f64;
    let bar = group * 0.8 / present.len() as f64;
    for (position, flow) in flows.iter().enumerate() {
        let start = LEFT + group * (position as f64 + 0.1);
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{} flow{}</text>",
            start + group * 0.4,
            HEIGHT - BOTTOM + 20.0,
            super::page::grouped(*flow),
            if *flow == 1 { "" } else { "s" }
        );
        for (number, (name, colour)) in present.iter().enumerate() {
            let found = of_case
                .iter()
                .find(|row| row.flows == *flow && row.alternative == *name);
            let Some(row) = found else { continue };
            let figure = row.figure().0;
            let x = start + bar * number as f64;
            let _ = writeln!(
                out,
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/><line x1=\"{m:.1}\" x2=\"{m:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" style=\"stroke-opacity:1\"/>",
                x + 1.0,
                y(figure.median),
                bar - 2.0,
                HEIGHT - BOTTOM - y(figure.median),
                y(figure.min),
                y(figure.max),
                m = x + bar / 2.0
            );
        }
    }
    out.push_str("</svg>\n");
    Some(out)
}

/// The least of 1, 2 and 5 times a power of ten that is not below.
fn nice(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let times = [1.0, 2.0, 5.0, 10.0];
    let fit = times.into_iter().find(|times| times * power >= value);
    fit.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        assert_eq!(nice(2.2), 5.0);
        assert_eq!(nice(0.9), 1.0);
        assert_eq!(nice(110.0), 200.0);
    }
}
