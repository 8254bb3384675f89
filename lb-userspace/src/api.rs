//! The admin API: what the daemon tells and takes over its unix socket. The subcommands are its clients.

use serde::{Deserialize, Serialize};

pub mod client;
pub mod flows;
pub mod metrics;
pub mod server;
pub mod socket;
pub mod status;

/// Where the daemon listens unless `--socket` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/futago/futago.sock";

/// OpenAPI 3.1 description of [`server::ROUTES`]; `GET /v1/openapi.json`.
pub const OPENAPI: &str = include_str!("api/openapi.json");

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong and what to do, for people.
    pub error: String,
}

/// The body of `POST /v1/failover`, and of its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failover {
    /// Who is to be active; without it, any other node. This node itself: it takes part in the election again.
    #[serde(default)]
    pub to: Option<String>,
}

/// The body of `POST /v1/drain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// Name of the service.
    pub service: String,
    /// Its address, address and port, or name.
    pub backend: String,
    /// For how long it keeps its connections; without it, as `drain_s` of the service says.
    #[serde(default)]
    pub deadline_s: Option<u64>,
}

/// The answer of `POST /v1/drain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    pub service: String,
    /// Address and port.
    pub backend: String,
    /// `None`: until its connections end.
    pub deadline_s: Option<u64>,
}

/// The body of `POST /v1/undrain`, and of its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Undrain {
    pub service: String,
    pub backend: String,
}

/// The body of `POST /v1/stop`, and of its answer. `keep` has no default: it decides whether traffic goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// Leave the kernel forwarding and the VIPs in place.
    pub keep: bool,
}
