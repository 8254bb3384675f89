//! `futago stop`: end the daemon, with or without the forwarding.

use super::{Failure, block_on, client::SocketArgument, output::print};

/// End the daemon, and the forwarding with it unless --keep is given
///
/// Returns when it is done.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  futago stop            detach the programs, remove the VIPs
  futago stop --keep     before an upgrade: the kernel forwards until the next daemon takes over

Exit codes: 0 stopped, 1 no daemon or no answer.")]
pub(super) struct Stop {
    /// Leave the kernel forwarding and the VIPs in place
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    socket: SocketArgument,
}

impl Stop {
    pub fn run(self) -> Result<(), Failure> {
        let client = self.socket.client();
        block_on(async { Ok(client.stop(self.keep).await?) })?;
        Ok(print(if self.keep {
            "stopped; the kernel goes on forwarding, with the backends as they were\n"
        } else {
            "stopped; this node forwards nothing any more\n"
        })?)
    }
}
