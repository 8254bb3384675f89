//! One owner loop: the only writer of the tables, which everything that happens passes through.
//!
//! ```text
//! file ─► model ──┐
//! probes ─► checks ┤─► dirty services ─► plan ─► tables
//! netlink ─► next hops ┘
//! ```
//!
//! The daemon may end at any moment: the kernel forwards with what it was told last, and the next daemon adopts it.

mod ageing;
mod checks;
pub mod command;
mod drains;
mod elector;
mod flows;
mod kernel_settings;
mod owner;
mod report;
mod tracker;
mod vips;

use std::path::PathBuf;

use anyhow::Context;

use crate::api::socket::Socket;

pub(crate) use owner::table_capacity;

/// What `futago run` was told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// Which `[node.NAME]` this host is.
    pub node: String,
    /// Where the API listens.
    pub socket: PathBuf,
    /// Where maps and links are pinned: a directory on a BPF file system.
    pub bpf_dir: PathBuf,
    /// On SIGTERM leave the kernel forwarding and the VIPs in place.
    pub keep: bool,
}

/// Runs until told to stop. Needs a current-thread runtime in the network namespace that is to be served.
pub async fn run(options: Options) -> anyhow::Result<()> {
    // Before anything is touched: a second daemon must not come between the tables and the first one.
    let socket = Socket::bind(&options.socket).await?;
    let (handle, commands) = command::Handle::new();
    let owner = owner::Owner::start(options).await?;
    let path = socket.path().to_owned();
    let api = async {
        let served = socket.serve(handle).await;
        served.with_context(|| format!("the API at {} ended", path.display()))
    };
    // The API ends after the owner loop, when it has told the client that asked for it.
    tokio::try_join!(owner.run(commands), api).map(drop)
}
