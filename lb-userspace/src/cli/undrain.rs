//! `futago undrain`: a backend takes new connections again.

use super::{Failure, block_on, client::SocketArgument, output::print};
use crate::api::Undrain as Request;

/// End a drain: the backend takes new connections again
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  futago undrain web 10.0.0.11

Exit codes: 0 done, 1 it is not drained, or by the file; no daemon or no answer.")]
pub(super) struct Undrain {
    /// Name of the service
    service: String,
    /// The backend: its address, address and port, or name
    backend: String,
    #[command(flatten)]
    socket: SocketArgument,
}

impl Undrain {
    pub fn run(self) -> Result<(), Failure> {
        let client = self.socket.client();
        let request = Request {
            service: self.service,
            backend: self.backend,
        };
        let done = block_on(async { Ok(client.undrain(&request).await?) })?;
        Ok(print(&format!(
            "{} {}: not drained any more\n",
            done.service, done.backend
        ))?)
    }
}
