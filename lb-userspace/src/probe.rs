//! Asks a backend whether it serves: one file per kind of check. Each ends by itself; the health machine decides when to ask.

mod tcp;

use std::net::SocketAddr;

use lb_core::{health::Outcome, model::CheckKind};

/// Runs one probe. It may take longer than the caller waits: a late outcome is ignored there.
pub async fn run(kind: &CheckKind, target: SocketAddr) -> Outcome {
    match kind {
        CheckKind::Tcp => tcp::connect(target).await,
    }
}
