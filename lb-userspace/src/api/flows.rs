//! Flows over the API: as a stream of lines, never all of them in memory, or counted. Threads of their own go through the tables, so
//! that the owner loop does not wait for them.

use std::{
    net::IpAddr,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::header,
    response::{IntoResponse, Response},
};
use hyper::body::Frame;
use lb_common::flow_table::{Memory, Ticks};
use lb_core::{
    flows::{Count, Counter, Directory, Flow, FlowState, FlowTables, Lines, Walk},
    model::Protocol,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// Entries that are looked at before what was found is sent.
const PORTION: u32 = 8192;
/// Bytes of lines that make a chunk.
const CHUNK: usize = 64 << 10;
/// Chunks that wait for a slow reader.
const AHEAD: usize = 4;

pub const CONTENT_TYPE: &str = "application/x-ndjson";

/// Which flows: the query of `GET /v1/flows` and `GET /v1/flows/count`. A flow must fit all that is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowQuery {
    /// Name of a service.
    pub service: Option<String>,
    /// Address, address and port, or name of a backend.
    pub backend: Option<String>,
    /// The client's address.
    pub client: Option<IpAddr>,
    pub protocol: Option<Protocol>,
    pub state: Option<FlowState>,
    /// Lines at most.
    pub limit: Option<u64>,
}

impl FlowQuery {
    /// As a URI writes it, with its question mark; nothing if nothing is said.
    pub fn to_uri(&self) -> String {
        let state = self.state.map(|state| state.word().to_owned());
        let pairs = [
            ("service", self.service.clone()),
            ("backend", self.backend.clone()),
            ("client", self.client.map(|client| client.to_string())),
            (
                "protocol",
                self.protocol.map(|protocol| protocol.to_string()),
            ),
            ("state", state),
            ("limit", self.limit.map(|limit| limit.to_string())),
        ];
        let pairs: Vec<_> = pairs
            .into_iter()
            .filter_map(|(key, value)| Some(format!("{key}={}", encoded(&value?))))
            .collect();
        if pairs.is_empty() {
            String::new()
        } else {
            format!("?{}", pairs.join("&"))
        }
    }
}

/// RFC 3986 §2.1, everything but unreserved characters.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded += &format!("%{byte:02X}");
        }
    }
    encoded
}

/// Tables of flows, whatever their memory is.
pub trait Source: Send {
    /// [`FlowTables::walk`]
    fn walk(&self, walk: &mut Walk, budget: u32, show: &mut dyn FnMut(&Flow)) -> bool;
}

impl<M: Memory + Send> Source for FlowTables<M> {
    fn walk(&self, walk: &mut Walk, budget: u32, show: &mut dyn FnMut(&Flow)) -> bool {
        Self::walk(self, walk, budget, show)
    }
}

/// What the owner loop gives to whoever asks for flows.
pub struct View {
    pub source: Box<dyn Source>,
    /// With the filter that was asked for.
    pub directory: Directory,
    pub now: Ticks,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").finish_non_exhaustive()
    }
}

impl View {
    /// A line for each flow, `limit` at most. Needs a tokio runtime.
    pub(super) fn stream(self, limit: Option<u64>) -> Response {
        let (chunks, receiver) = mpsc::channel(AHEAD);
        tokio::task::spawn_blocking(move || {
            // Nobody listens any more: that is how an impatient reader ends it.
            let _ = self.send(limit.unwrap_or(u64::MAX), |chunk| {
                chunks.blocking_send(chunk).map_err(|_| Gone)
            });
        });
        let headers = [(header::CONTENT_TYPE, CONTENT_TYPE)];
        (headers, Body::new(Chunks(receiver))).into_response()
    }

    fn send(
        &self,
        limit: u64,
        mut send: impl FnMut(Bytes) -> Result<(), Gone>,
    ) -> Result<(), Gone> {
        let lines = Lines::new(&self.directory);
        let (mut left, mut walk) = (limit, Walk::default());
        let mut text = String::with_capacity(2 * CHUNK);
        let mut goes_on = left > 0;
        while goes_on {
            goes_on = self.source.walk(&mut walk, PORTION, &mut |flow| {
                if left > 0 && lines.push(flow, self.now, &mut text) {
                    left -= 1;
                }
            }) && left > 0;
            if text.len() >= CHUNK || !goes_on {
                let full = std::mem::replace(&mut text, String::with_capacity(2 * CHUNK));
                send(full.into())?;
            }
        }
        Ok(())
    }

    /// How many there are. Takes a while.
    pub(super) fn count(&self) -> Count {
        let (mut counter, mut walk) = (Counter::new(&self.directory), Walk::default());
        while self
            .source
            .walk(&mut walk, PORTION, &mut |flow| counter.add(flow))
        {}
        counter.finish()
    }
}

/// The reader has gone.
#[derive(Debug)]
struct Gone;

/// A body that is being made.
struct Chunks(mpsc::Receiver<Bytes>);

impl HttpBody for Chunks {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0
            .poll_recv(context)
            .map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_written_as_a_uri_has_it() {
        assert_eq!(FlowQuery::default().to_uri(), "");
        let query = FlowQuery {
            service: Some("web".to_owned()),
            backend: Some("rack 2/[::1]:80".to_owned()),
            state: Some(FlowState::HalfOpen),
            ..FlowQuery::default()
        };
        assert_eq!(
            query.to_uri(),
            "?service=web&backend=rack%202%2F%5B%3A%3A1%5D%3A80&state=half-open"
        );
    }
}
