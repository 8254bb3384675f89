//! What the API and the signals ask of the daemon's owner loop.

use tokio::sync::{mpsc, oneshot};

use crate::api::{
    Drain, Drained, Undrain,
    flows::{FlowQuery, View},
    status::Status,
};

/// One request; the answer comes through its channel.
#[derive(Debug)]
pub enum Command {
    Status(oneshot::Sender<Status>),
    /// Read the configuration file again and apply the difference, or nothing at all.
    Reload(oneshot::Sender<Result<Reloaded, String>>),
    /// Hand the virtual routers over to another node, or take part again when this node is named.
    Failover {
        to: Option<String>,
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// Send no new connections to a backend.
    Drain {
        request: Drain,
        answer: oneshot::Sender<Result<Drained, String>>,
    },
    /// End a drain.
    Undrain {
        request: Undrain,
        answer: oneshot::Sender<Result<Undrain, String>>,
    },
    /// A view of the flow tables.
    Flows {
        query: FlowQuery,
        answer: oneshot::Sender<Result<View, String>>,
    },
    /// End the daemon. `keep`: leave the kernel forwarding and the VIPs in place.
    Stop {
        keep: bool,
        done: oneshot::Sender<Result<(), String>>,
    },
}

/// What a reload changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reloaded {
    /// Names of services.
    pub added: Vec<String>,
    pub removed: Vec<String>,
    pub changed: Vec<String>,
    /// Lines for the operator: what is in the file and takes effect only at a restart, for example.
    pub notes: Vec<String>,
}

/// The way to the owner loop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

/// The owner loop has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the daemon is stopping")]
pub struct Stopping;

impl Handle {
    /// A handle and the end that the owner loop listens at.
    pub fn new() -> (Self, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(64);
        (Self { commands }, receiver)
    }

    pub async fn status(&self) -> Result<Status, Stopping> {
        self.ask(Command::Status).await
    }

    pub async fn reload(&self) -> Result<Result<Reloaded, String>, Stopping> {
        self.ask(Command::Reload).await
    }

    /// The inner error says why nobody took over.
    pub async fn failover(&self, to: Option<String>) -> Result<Result<(), String>, Stopping> {
        self.ask(|answer| Command::Failover { to, answer }).await
    }

    /// The inner error says what is wrong with the request.
    pub async fn drain(&self, request: Drain) -> Result<Result<Drained, String>, Stopping> {
        self.ask(|answer| Command::Drain { request, answer }).await
    }

    /// The inner error says what is wrong with the request.
    pub async fn undrain(&self, request: Undrain) -> Result<Result<Undrain, String>, Stopping> {
        self.ask(|answer| Command::Undrain { request, answer })
            .await
    }

    /// The inner error says what of the query is not there.
    pub async fn flows(&self, query: FlowQuery) -> Result<Result<View, String>, Stopping> {
        self.ask(|answer| Command::Flows { query, answer }).await
    }

    /// The inner error says what could not be cleaned up.
    pub async fn stop(&self, keep: bool) -> Result<Result<(), String>, Stopping> {
        self.ask(|done| Command::Stop { keep, done }).await
    }

    /// Waits until nobody listens to commands any more.
    pub async fn ended(&self) {
        self.commands.closed().await;
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Stopping> {
        let (sender, receiver) = oneshot::channel();
        self.commands
            .send(command(sender))
            .await
            .map_err(|_| Stopping)?;
        receiver.await.map_err(|_| Stopping)
    }
}
