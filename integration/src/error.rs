//! What can go wrong in a lab, said so that the reader of a failed test knows what to do.

use std::{io, time::Duration};

/// Result of everything in the lab.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the lab could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not root.
    #[error(
        "the lab needs root: it makes network namespaces, mounts and XDP programs; run it as root or with sudo"
    )]
    NeedsRoot,
    /// A system call or a file operation failed.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried, to be read after "cannot".
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A program that the lab runs is not there.
    #[error("`{program}` is not installed; on Debian and Ubuntu: apt-get install {package}")]
    Missing {
        /// The program looked for in `PATH`.
        program: String,
        /// Debian's package that contains it.
        package: &'static str,
    },
    /// A program ran and ended badly.
    #[error("`{command}` in {host} failed ({status}): {stderr}")]
    Command {
        /// Program and arguments.
        command: String,
        /// Host it ran in.
        host: String,
        /// Exit status or signal.
        status: String,
        /// What it wrote to stderr (or stdout, when stderr was empty).
        stderr: String,
    },
    /// A name that the lab does not have.
    #[error("the lab has no {kind} {name:?}; it has: {known}")]
    Unknown {
        /// "host", "switch", "interface".
        kind: &'static str,
        /// The name asked for.
        name: String,
        /// Names there are.
        known: String,
    },
    /// A name that cannot be used.
    #[error("{name:?} cannot be the name of {of}: use {rule}")]
    BadName {
        /// The name given.
        name: String,
        /// What it was to name.
        of: &'static str,
        /// What is allowed.
        rule: &'static str,
    },
    /// An address that does not parse.
    #[error("{text:?} is not an address with a prefix length, such as 10.0.1.2/24 or fd00:1::2/64")]
    BadAddress {
        /// The text given.
        text: String,
    },
    /// Waited long enough.
    #[error("{what} did not happen within {limit:?}{detail}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
        /// What is known, such as the log so far; begins with a separator, or is empty.
        detail: String,
    },
    /// A peer answered something else than it should.
    #[error("{what}")]
    Unexpected {
        /// What came and what should have come.
        what: String,
    },
}

/// Gives an [`io::Error`] the words that say what was tried.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::System {
            what: what(),
            source: source.into(),
        })
    }
}
