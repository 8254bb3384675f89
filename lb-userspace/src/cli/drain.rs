//! `futago drain`: no new connections for a backend, before its maintenance.

use std::time::Duration;

use super::{
    Failure, block_on,
    client::SocketArgument,
    output::{duration, print},
};
use crate::api::Drain as Request;

/// Send no new connections to a backend; it keeps those that it has until the deadline
///
/// Lasts until `futago undrain` or until the daemon ends: what is to outlive it is `drain = true` in the file. It is for this
/// node; give the other node the same command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  futago drain web 10.0.0.11                   for as long as `drain_s` of the service says, or until its connections end
  futago drain web 10.0.0.11:8080 --deadline 5m
  futago drain web rack2-web1 --deadline 90    seconds

What is left at the deadline is reset or moved, as `on_drain_end` of the service says. `futago flows --count` shows what is left.

Exit codes: 0 done, 1 no such backend, no daemon or no answer.")]
pub(super) struct Drain {
    /// Name of the service
    service: String,
    /// The backend: its address, address and port, or name
    backend: String,
    /// How long it keeps its connections: 90, 90s, 5m, 2h or 1d
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    deadline: Option<Duration>,
    #[command(flatten)]
    socket: SocketArgument,
}

impl Drain {
    pub fn run(self) -> Result<(), Failure> {
        let client = self.socket.client();
        let request = Request {
            service: self.service,
            backend: self.backend,
            deadline_s: self.deadline.map(|deadline| deadline.as_secs()),
        };
        let drained = block_on(async { Ok(client.drain(&request).await?) })?;
        let until = match drained.deadline_s {
            Some(seconds) => format!("its connections have {}", duration(seconds)),
            None => "its connections stay until they end".to_owned(),
        };
        Ok(print(&format!(
            "{} {}: drained, {until}\n",
            drained.service, drained.backend
        ))?)
    }
}

/// "90", "90s", "5m", "2h", "1d".
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        other => return Err(format!("{other:?} is no unit of time: use s, m, h or d")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{text:?} is no time: write 90, 90s, 5m, 2h or 1d"))?;
    number
        .checked_mul(unit)
        .map(Duration::from_secs)
        .ok_or_else(|| "too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_people_do() {
        for (text, seconds) in [
            ("0", 0),
            ("90", 90),
            ("90s", 90),
            ("5m", 300),
            ("2h", 7200),
            ("1d", 86_400),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_secs(seconds)),
                "{text}"
            );
        }
        for text in [
            "",
            "m",
            "5x",
            "-1",
            "1.5m",
            "99999999999999999999",
            "18446744073709551615d",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
