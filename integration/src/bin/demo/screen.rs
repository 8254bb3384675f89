//! What the demo looks like: headings, steps that tell how long they took, bars. Plain text where nobody watches.

use std::{
    env,
    io::{IsTerminal, Write, stdout},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

const WIDTH: usize = 100;
const BAR: usize = 40;

pub struct Screen {
    terminal: bool,
    colour: bool,
    /// A step's line is not ended yet.
    open: AtomicBool,
}

impl Screen {
    pub fn new() -> Self {
        let terminal = stdout().is_terminal();
        Self {
            terminal,
            colour: terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            open: AtomicBool::new(false),
        }
    }

    pub fn heading(&self, text: &str) {
        let rule = "━".repeat(WIDTH.saturating_sub(text.chars().count() + 4));
        println!("\n{}\n", self.paint("1", &format!("━━ {text} {rule}")));
    }

    pub fn paragraph(&self, text: &str) {
        for line in text.lines() {
            println!("   {line}");
        }
        println!();
    }

    pub fn picture(&self, text: &str) {
        for line in text.lines() {
            println!("   {}", self.paint("36", line));
        }
        println!();
    }

    pub fn note(&self, text: &str) {
        println!("     {text}");
    }

    pub fn blank(&self) {
        println!();
    }

    /// Runs a step and tells how long it took; `work` returns its result and what there is to say of it.
    pub fn step<T>(
        &self,
        what: &str,
        work: impl FnOnce() -> anyhow::Result<(T, String)>,
    ) -> anyhow::Result<T> {
        self.progress(what);
        let began = Instant::now();
        let (value, said) = work()?;
        let took = format!("{:>5.1} s", began.elapsed().as_secs_f64());
        let said = if said.is_empty() { what } else { &said };
        self.clear();
        let fill = (WIDTH - 12).saturating_sub(said.chars().count());
        println!(
            "   {} {said}{:fill$}{}",
            self.paint("32", "✓"),
            "",
            self.paint("2", &took)
        );
        Ok(value)
    }

    /// Shows how far a step is, in its own line.
    pub fn progress(&self, text: &str) {
        if self.terminal {
            print!("\r\x1b[2K   {} {text}", self.paint("33", "…"));
            let _ = stdout().flush();
            self.open.store(true, Ordering::Relaxed);
        }
    }

    /// Ends the line of a step that did not come to its end.
    pub fn failed(&self) {
        if self.open.swap(false, Ordering::Relaxed) {
            println!();
        }
    }

    /// One bar a row: a name, a number, and its part of the sum.
    pub fn bars(&self, rows: &[(String, u64)]) {
        let sum: u64 = rows.iter().map(|(_, number)| number).sum();
        let width = rows
            .iter()
            .map(|(name, _)| name.chars().count())
            .max()
            .unwrap_or(0);
        let most = rows
            .iter()
            .map(|(_, number)| *number)
            .max()
            .unwrap_or(0)
            .max(1);
        for (name, number) in rows {
            let filled = usize::try_from(*number * BAR as u64 / most).unwrap_or(BAR);
            let (full, empty) = ("█".repeat(filled), "░".repeat(BAR - filled));
            let part = percent(*number, sum);
            println!(
                "     {name:width$}  {}{}  {:>8}  {part:>5.1} %",
                self.paint("34", &full),
                self.paint("2", &empty),
                thousands(*number)
            );
        }
    }

    fn clear(&self) {
        if self.open.swap(false, Ordering::Relaxed) {
            print!("\r\x1b[2K");
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Part of a sum in percent; 0 of nothing.
pub fn percent(part: u64, sum: u64) -> f64 {
    if sum == 0 {
        return 0.0;
    }
    part as f64 * 100.0 / sum as f64
}

/// `10,000`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Whole milliseconds.
pub fn ms(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(10_000), "10,000");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(ms(Duration::from_micros(412_900)), "412 ms");
        assert!((percent(1, 3) - 33.333).abs() < 0.001);
        assert!(percent(1, 0).abs() < f64::EPSILON);
    }
}
