//! `futago status`: what the daemon knows, for people or programs.

use std::{num::NonZeroU32, time::Duration};

use anyhow::Context as _;

use super::{
    Failure, block_on,
    client::SocketArgument,
    output::{may_colour, print, stdout_is_terminal},
    table,
};
use crate::api::status;

/// Cursor to the top left, and nothing below it.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Show the services, their backends and what happened to packets
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  futago status
  futago status --watch          again every second, until Ctrl-C
  futago status --json | jq '.services[].backends[] | select(.state != \"up\")'

SHARE is the part of the service's slots, and so of its new connections, that the backend gets.
Colours appear on a terminal only, and never when NO_COLOR is set.

Exit codes: 0 shown, 1 no daemon or no answer.")]
pub(super) struct Status {
    /// The answer of GET /v1/status instead of a table; one line each with --watch
    #[arg(long)]
    json: bool,
    /// Show it again every second, or every SECONDS
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1")]
    watch: Option<NonZeroU32>,
    #[command(flatten)]
    socket: SocketArgument,
}

impl Status {
    pub fn run(self) -> Result<(), Failure> {
        let client = self.socket.client();
        block_on(async {
            let Some(seconds) = self.watch else {
                let status = client.status().await?;
                return Ok(print(&self.text(&status)?)?);
            };
            let mut ticks = tokio::time::interval(Duration::from_secs(seconds.get().into()));
            loop {
                ticks.tick().await;
                let text = self.text(&client.status().await?)?;
                let (before, after) = match (self.json, stdout_is_terminal()) {
                    (true, _) => ("", ""),
                    (false, true) => (CLEAR, ""),
                    (false, false) => ("", "\n"),
                };
                print(&format!("{before}{text}{after}"))?;
            }
        })
    }

    fn text(&self, status: &status::Status) -> anyhow::Result<String> {
        if !self.json {
            return Ok(table::render(status, may_colour(stdout_is_terminal())));
        }
        let json = if self.watch.is_some() {
            serde_json::to_string(status)
        } else {
            serde_json::to_string_pretty(status)
        };
        Ok(json.context("cannot write the status as JSON")? + "\n")
    }
}
