//! What the subcommands that talk to a running daemon have in common.

use std::path::PathBuf;

use super::Failure;
use crate::api::{
    DEFAULT_SOCKET,
    client::{Client, ClientError},
};

#[derive(Debug, clap::Args)]
pub(super) struct SocketArgument {
    /// The daemon's socket
    #[arg(long, value_name = "PATH", env = "FUTAGO_SOCKET", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

impl SocketArgument {
    pub fn client(&self) -> Client {
        Client::new(&self.socket)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Failed(error.into())
    }
}
