//! How results reach stdout, and when they may be coloured.

use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
};

use anyhow::Context as _;

/// Prints `text` as it is. A reader who has seen enough (`| head`) is no failure.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.context("cannot write to stdout"),
    }
}

pub(super) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// https://no-color.org: any value but the empty one says no.
pub(super) fn may_colour(is_terminal: bool) -> bool {
    is_terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// "1 service", "2 services".
pub(super) fn count(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

/// "1,234,567".
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// "0 B", "1.5 KiB".
pub(super) fn bytes(number: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    let mut value = number as f64;
    let mut unit = "";
    for next in UNITS {
        if !unit.is_empty() && value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// The two largest units: "12s", "3m 5s", "4h 0m", "3d 4h".
pub(super) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if days > 0 {
        format!("{days}d {}h", hours % 24)
    } else if hours > 0 {
        format!("{hours}h {}m", minutes % 60)
    } else if minutes > 0 {
        format!("{minutes}m {}s", seconds % 60)
    } else {
        format!("{seconds}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let grouped: Vec<_> = [0, 999, 1000, 1_234_567, 12_345_678].map(grouped).into();
        assert_eq!(grouped, ["0", "999", "1,000", "1,234,567", "12,345,678"]);
        let bytes: Vec<_> = [0, 1023, 1024, 1536, 1 << 20, 5 << 30, u64::MAX]
            .map(bytes)
            .into();
        assert_eq!(
            bytes,
            [
                "0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "5.0 GiB", "16.0 EiB"
            ]
        );
        let durations: Vec<_> = [0, 59, 60, 185, 3600, 86_399, 86_400, 273_600]
            .map(duration)
            .into();
        assert_eq!(
            durations,
            [
                "0s", "59s", "1m 0s", "3m 5s", "1h 0m", "23h 59m", "1d 0h", "3d 4h"
            ]
        );
        assert_eq!(count(1, "service"), "1 service");
        assert_eq!(count(0, "service"), "0 services");
    }

    #[test]
    fn without_a_terminal_there_is_no_colour() {
        assert!(!may_colour(false));
    }
}
