//! `futago run`: the daemon.

use std::path::PathBuf;

use super::{Failure, block_on, client::SocketArgument, logging};
use crate::daemon::{self, Options};

/// Run the daemon of a node: forward, watch the backends, own the VIPs
///
/// Stays in the foreground and logs to stderr; RUST_LOG sets how much (RUST_LOG=debug), and under systemd
/// the journal adds the time. SIGTERM and SIGINT end it and the forwarding, unless --keep is given. If it is
/// killed, the kernel goes on forwarding, and the next start takes over without a gap.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  futago run --config /etc/futago.toml --node lb1
  futago run --config /etc/futago.toml --node lb1 --keep     a stop leaves the kernel forwarding
  RUST_LOG=debug futago run --config /etc/futago.toml --node lb1

Exit codes: 0 ended as asked, 1 could not start or go on, 2 wrong usage.")]
pub(super) struct Run {
    /// The configuration file (TOML), the same on both nodes
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Which [node.NAME] section of the file is this host
    #[arg(long, value_name = "NAME")]
    node: String,
    #[command(flatten)]
    socket: SocketArgument,
    /// Where maps and links are pinned (in a bpffs)
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/futago")]
    bpf_dir: PathBuf,
    /// On SIGTERM or SIGINT, leave the kernel forwarding and the VIPs in place
    #[arg(long)]
    keep: bool,
}

impl Run {
    pub fn run(self) -> Result<(), Failure> {
        logging::start()?;
        let options = Options {
            config: self.config,
            node: self.node,
            socket: self.socket.socket,
            bpf_dir: self.bpf_dir,
            keep: self.keep,
        };
        block_on(async { Ok(daemon::run(options).await?) })
    }
}
