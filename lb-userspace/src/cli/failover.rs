//! `futago failover`: let another node be active, without losing a packet.

use super::{Failure, block_on, client::SocketArgument, output::print};

/// Hand the VIPs over to another node, or take part in the election again
///
/// Run it on the active node. Returns when another node was heard to be active; this one forwards what still arrives, and
/// does not preempt until it is told to.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  futago failover              before maintenance: the other node takes over
  futago failover --to lb2     the same, by name
  futago failover --to lb1     on lb1 itself, afterwards: take part again, and preempt if the priority is higher

Exit codes: 0 done, 1 no other node took over (this one stays active), no daemon or no answer.")]
pub(super) struct Failover {
    /// Which node is to be active
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
    #[command(flatten)]
    socket: SocketArgument,
}

impl Failover {
    pub fn run(self) -> Result<(), Failure> {
        let client = self.socket.client();
        block_on(async { Ok(client.failover(self.to).await?) })?;
        Ok(print("done\n")?)
    }
}
