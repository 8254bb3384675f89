//! The binary `futago`: command line in, exit code out.

use std::process::ExitCode;

use clap::Parser as _;
use lb_userspace::cli::{Cli, Failure};

/// 0: fine. 1: what was asked for failed. 2: the question was wrong; clap's own errors end the process with it too.
fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprint!("{failure}");
            match failure {
                Failure::Failed(_) | Failure::Config(_) => ExitCode::from(1),
                Failure::Usage(_) => ExitCode::from(2),
            }
        }
    }
}
