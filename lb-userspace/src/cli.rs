//! The command line: which subcommands there are and how they fail. Each has a file of its own.

mod backend;
mod check;
mod client;
mod drain;
mod failover;
mod flows;
mod load;
mod logging;
mod output;
mod reload;
mod run;
mod status;
mod stop;
mod table;
mod undrain;

use std::fmt;

use clap::{Parser, Subcommand};
use lb_core::config::Report;

/// Two Linux hosts as one layer 4 load balancer: XDP forwards, this daemon controls.
#[derive(Debug, Parser)]
#[command(
    name = "futago",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Examples:
  futago check /etc/futago.toml                        is the file right?
  futago run --config /etc/futago.toml --node lb1      forward
  futago status                                        what is going on?
  futago reload                                        apply the changed file
  futago failover                                      let the other node be active
  futago flows --count                                 what is recorded?
  futago drain web 10.0.0.11 --deadline 5m             no new connections for a backend
  futago stop --keep                                   end the daemon, go on forwarding
  futago backend --config /etc/futago.toml             on a real server: set it up
  futago load send --help                              packets by the million, for tests

Exit codes: 0 fine, 1 what was asked for failed, 2 wrong usage."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(check::Check),
    Run(run::Run),
    Status(status::Status),
    Reload(reload::Reload),
    Failover(failover::Failover),
    Flows(flows::Flows),
    Drain(drain::Drain),
    Undrain(undrain::Undrain),
    Stop(stop::Stop),
    Backend(backend::Backend),
    Load(load::Load),
}

/// Why a subcommand failed; `Display` is all that is printed, with its newline.
#[derive(Debug)]
pub enum Failure {
    Failed(anyhow::Error),
    /// The mistakes of a configuration file.
    Config(Box<Report>),
    /// The environment or the arguments, beyond what clap checks.
    Usage(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => {
                let text = format!("{error:#}");
                let text = text.trim_end();
                // The mistakes of a file, as the daemon tells them, say themselves what they are.
                let prefix = if text.starts_with("error: ") || text.starts_with("warning: ") {
                    ""
                } else {
                    "error: "
                };
                writeln!(f, "{prefix}{text}")
            }
            Self::Config(report) => report.fmt(f),
            Self::Usage(message) => writeln!(f, "error: {message}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<Report>() {
            Ok(report) => report.into(),
            Err(error) => Self::Failed(error),
        }
    }
}

impl From<Report> for Failure {
    fn from(report: Report) -> Self {
        Self::Config(Box::new(report))
    }
}

impl Cli {
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Check(check) => check.run(),
            Command::Run(run) => run.run(),
            Command::Status(status) => status.run(),
            Command::Reload(reload) => reload.run(),
            Command::Failover(failover) => failover.run(),
            Command::Flows(flows) => flows.run(),
            Command::Drain(drain) => drain.run(),
            Command::Undrain(undrain) => undrain.run(),
            Command::Stop(stop) => stop.run(),
            Command::Backend(backend) => backend.run(),
            Command::Load(load) => load.run(),
        }
    }
}

/// Runs one future on this thread.
fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(anyhow::Error::new(error).context("cannot start")))?
        .block_on(future)
}
