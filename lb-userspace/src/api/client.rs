//! The subcommands' side of the admin API: typed questions over the daemon's unix socket.

use std::{
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use lb_core::flows::Count;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::{Drain, Drained, ErrorBody, Failover, Stop, Undrain, flows::FlowQuery, status::Status};
use crate::daemon::command::Reloaded;

/// For what the owner loop answers at once.
const TIMEOUT: Duration = Duration::from_secs(5);
/// For what writes tables and changes addresses.
const TIMEOUT_OF_CHANGES: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "no daemon listens at {}: start it with `futago run --config FILE --node NAME`, or name its socket with --socket",
        .path.display()
    )]
    NoDaemon { path: PathBuf },
    #[error("{} is not for this user: run futago as the user of the daemon, usually root", .path.display())]
    Denied { path: PathBuf },
    #[error("cannot connect to {}: {source}", .path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("the daemon at {} did not answer within {} s: its log may say why", .path.display(), .after.as_secs())]
    TimedOut { path: PathBuf, after: Duration },
    #[error("the daemon at {} broke off before its answer was complete: {source}", .path.display())]
    Broken { path: PathBuf, source: hyper::Error },
    /// The daemon says why.
    #[error("{message}")]
    Refused { status: StatusCode, message: String },
    #[error("the answer at {} is not understood ({reason}): is it a futago of another version?", .path.display())]
    NotUnderstood { path: PathBuf, reason: String },
}

/// One daemon; a connection for each question. Needs a tokio runtime.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub async fn status(&self) -> Result<Status, ClientError> {
        self.ask(Method::GET, "/v1/status", None::<()>, TIMEOUT)
            .await
    }

    /// [`ClientError::Refused`] has the mistakes of the file; nothing has changed then.
    pub async fn reload(&self) -> Result<Reloaded, ClientError> {
        self.ask(Method::POST, "/v1/reload", None::<()>, TIMEOUT_OF_CHANGES)
            .await
    }

    /// Returns when another node is active; [`ClientError::Refused`] says why none is.
    pub async fn failover(&self, to: Option<String>) -> Result<(), ClientError> {
        let Failover { .. } = self
            .ask(
                Method::POST,
                "/v1/failover",
                Some(Failover { to }),
                TIMEOUT_OF_CHANGES,
            )
            .await?;
        Ok(())
    }

    /// Gives the lines of the flows to `take`, as they come: whole chunks, which begin and end anywhere.
    pub async fn flows(
        &self,
        query: &FlowQuery,
        mut take: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let path = format!("/v1/flows{}", query.to_uri());
        let read = async |response: Response<Incoming>| {
            let (status, mut body) = (response.status(), response.into_body());
            if !status.is_success() {
                return Ok((status, body.collect().await?.to_bytes(), Ok(())));
            }
            while let Some(frame) = body.frame().await {
                if let Ok(chunk) = frame?.into_data()
                    && let Err(error) = take(&chunk)
                {
                    return Ok((status, Bytes::new(), Err(error)));
                }
            }
            Ok((status, Bytes::new(), Ok(())))
        };
        let (status, body, taken) = self.converse(Method::GET, &path, None, read).await?;
        if !status.is_success() {
            return Err(self.refused(status, &body).into());
        }
        taken
    }

    pub async fn count_flows(&self, query: &FlowQuery) -> Result<Count, ClientError> {
        let path = format!("/v1/flows/count{}", query.to_uri());
        self.ask(Method::GET, &path, None::<()>, TIMEOUT_OF_CHANGES)
            .await
    }

    /// [`ClientError::Refused`] says what is wrong with the request.
    pub async fn drain(&self, request: &Drain) -> Result<Drained, ClientError> {
        self.ask(Method::POST, "/v1/drain", Some(request), TIMEOUT_OF_CHANGES)
            .await
    }

    /// [`ClientError::Refused`] says what is wrong with the request.
    pub async fn undrain(&self, request: &Undrain) -> Result<Undrain, ClientError> {
        self.ask(
            Method::POST,
            "/v1/undrain",
            Some(request),
            TIMEOUT_OF_CHANGES,
        )
        .await
    }

    /// Returns when the daemon has cleaned up, or, with `keep`, left everything in place.
    pub async fn stop(&self, keep: bool) -> Result<(), ClientError> {
        let Stop { .. } = self
            .ask(
                Method::POST,
                "/v1/stop",
                Some(Stop { keep }),
                TIMEOUT_OF_CHANGES,
            )
            .await?;
        Ok(())
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<impl Serialize>,
        timeout: Duration,
    ) -> Result<T, ClientError> {
        let body = body.map(|body| serde_json::to_vec(&body)).transpose();
        let (status, answer) = async {
            let body = body.map_err(|error| self.not_understood(&error))?;
            tokio::time::timeout(timeout, self.exchange(method, path, body))
                .await
                .map_err(|_| ClientError::TimedOut {
                    path: self.socket.clone(),
                    after: timeout,
                })?
        }
        .await?;

        if status.is_success() {
            return serde_json::from_slice(&answer).map_err(|error| self.not_understood(&error));
        }
        Err(self.refused(status, &answer))
    }

    /// What an answer that is no success says.
    fn refused(&self, status: StatusCode, answer: &[u8]) -> ClientError {
        match serde_json::from_slice::<ErrorBody>(answer) {
            Ok(ErrorBody { error }) => ClientError::Refused {
                status,
                message: error,
            },
            Err(_) => self.not_understood(&status),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let read = async |response: Response<Incoming>| {
            let status = response.status();
            Ok((status, response.into_body().collect().await?.to_bytes()))
        };
        self.converse(method, path, body, read).await
    }

    /// Asks, and has `read` read the answer.
    async fn converse<T>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        read: impl AsyncFnOnce(Response<Incoming>) -> Result<T, hyper::Error>,
    ) -> Result<T, ClientError> {
        let broken = |source| ClientError::Broken {
            path: self.socket.clone(),
            source,
        };
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| self.connect_error(error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "futago")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| self.not_understood(&error))?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            read(response).await
        };
        let drive = async {
            // What goes wrong with the connection, the exchange reports.
            let _ = connection.await;
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            result = exchange => result.map_err(broken),
            never = drive => match never {},
        }
    }

    fn connect_error(&self, source: io::Error) -> ClientError {
        let path = self.socket.clone();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NoDaemon { path }
            }
            io::ErrorKind::PermissionDenied => ClientError::Denied { path },
            _ => ClientError::Connect { path, source },
        }
    }

    fn not_understood(&self, reason: &dyn std::fmt::Display) -> ClientError {
        ClientError::NotUnderstood {
            path: self.socket.clone(),
            reason: reason.to_string(),
        }
    }
}
