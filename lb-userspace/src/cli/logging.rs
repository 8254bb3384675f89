//! Where the daemon's log goes: stderr, as much of it as `RUST_LOG` asks for.

use std::{env, io::IsTerminal as _};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use super::{Failure, output};

const VARIABLE: &str = "RUST_LOG";

/// Once per process.
pub(super) fn start() -> Result<(), Failure> {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(env::var(VARIABLE).unwrap_or_default())
        .map_err(|error| {
            Failure::Usage(format!(
                "{VARIABLE} is not a log filter ({error}); write a level such as `debug`, or `lb_userspace::net=debug,info`"
            ))
        })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(output::may_colour(std::io::stderr().is_terminal()))
        .with_writer(std::io::stderr);
    // systemd sets it for what it connects to the journal, which has its own timestamps.
    if env::var_os("JOURNAL_STREAM").is_some() {
        log.without_time().init();
    } else {
        log.init();
    }
    Ok(())
}
