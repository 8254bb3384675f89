//! `futago flows`: which connections are recorded, and where they go.

use std::{io::Write as _, net::IpAddr};

use anyhow::Context as _;
use lb_core::{
    flows::{Count, FlowState},
    model::Protocol,
};
use serde::Deserialize;

use super::{
    Failure, block_on,
    client::SocketArgument,
    output::{duration, grouped, print},
};
use crate::api::flows::FlowQuery;

/// Show the recorded flows, or count them
///
/// With tracking = "adaptive" these are the flows that a change of backends would have moved, and none while nothing changes; with
/// tracking = "full" and in snat they are all.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  futago flows --count                            how many each backend has
  futago flows --service web --backend 10.0.0.11  what a backend still has before its maintenance
  futago flows --client 198.51.100.7              where a client's connections go
  futago flows --json | jq -r .client             one JSON object a line, also for millions

Flows come in no order, while packets go on: one that changes meanwhile may be shown twice.

Exit codes: 0 shown, also if there is none; 1 no such service or backend, no daemon or no answer.")]
pub(super) struct Flows {
    /// Of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// To this backend: its address, address and port, or name
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
    /// From this client
    #[arg(long, value_name = "ADDRESS")]
    client: Option<IpAddr>,
    /// tcp or udp
    #[arg(long, value_name = "PROTOCOL", value_parser = word::<Protocol>)]
    protocol: Option<Protocol>,
    /// half-open, established, closing, closed, reset or udp
    #[arg(long, value_name = "STATE", value_parser = word::<FlowState>)]
    state: Option<FlowState>,
    /// Stop after so many
    #[arg(long, value_name = "COUNT", conflicts_with = "count")]
    limit: Option<u64>,
    /// How many, by service, backend and state
    #[arg(long)]
    count: bool,
    /// One JSON object a line; with --count, one object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArgument,
}

impl Flows {
    pub fn run(self) -> Result<(), Failure> {
        let client = self.socket.client();
        let query = FlowQuery {
            service: self.service,
            backend: self.backend,
            client: self.client,
            protocol: self.protocol,
            state: self.state,
            limit: self.limit,
        };
        let json = self.json;
        if self.count {
            let count = block_on(async { Ok(client.count_flows(&query).await?) })?;
            let text = if json {
                serde_json::to_string(&count).context("cannot write the count as JSON")? + "\n"
            } else {
                counts(&count)
            };
            return Ok(print(&text)?);
        }
        let mut table = Table::default();
        block_on(async {
            client
                .flows(
                    &query,
                    |chunk| {
                        if json { write(chunk) } else { table.add(chunk) }
                    },
                )
                .await?;
            Ok(())
        })
    }
}

/// A word as JSON writes it.
fn word<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

/// A line of the API's answer.
#[derive(Deserialize)]
struct Line<'l> {
    service: &'l str,
    protocol: &'l str,
    vip: &'l str,
    client: &'l str,
    backend: Option<&'l str>,
    state: &'l str,
    idle_s: u64,
    source: Option<&'l str>,
}

/// Lines of the answer as lines for people: columns have a width that fits IPv4, and longer ones push the rest.
#[derive(Default)]
struct Table {
    /// The beginning of a line whose end has not come yet.
    rest: Vec<u8>,
    begun: bool,
}

impl Table {
    fn add(&mut self, chunk: &[u8]) -> anyhow::Result<()> {
        self.rest.extend_from_slice(chunk);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(());
        };
        let mut text = String::new();
        if !self.begun {
            self.begun = true;
            text += &row(
                "SERVICE", "PROTO", "CLIENT", "VIP", "BACKEND", "STATE", "IDLE", "SOURCE",
            );
        }
        for line in self.rest[..end].split(|byte| *byte == b'\n') {
            let line: Line<'_> =
                serde_json::from_slice(line).context("a line of the answer is not understood")?;
            text += &row(
                line.service,
                line.protocol,
                line.client,
                line.vip,
                line.backend.unwrap_or("gone"),
                line.state,
                &duration(line.idle_s),
                line.source.unwrap_or_default(),
            );
        }
        self.rest.drain(..=end);
        write(text.as_bytes())
    }
}

#[expect(clippy::too_many_arguments, reason = "the columns of a table")]
fn row(
    service: &str,
    protocol: &str,
    client: &str,
    vip: &str,
    backend: &str,
    state: &str,
    idle: &str,
    source: &str,
) -> String {
    let line = format!(
        "{service:<12}  {protocol:<5}  {client:<21}  {vip:<21}  {backend:<21}  {state:<11}  {idle:<7}  {source}"
    );
    line.trim_end().to_owned() + "\n"
}

fn counts(count: &Count) -> String {
    let mut text = String::new();
    for service in &count.services {
        text += &format!("{}  {}\n", service.service, flows(service.total));
        let name = |backend: &Option<String>| backend.clone().unwrap_or_else(|| "gone".to_owned());
        let width = service
            .backends
            .iter()
            .map(|backend| name(&backend.backend).len())
            .max()
            .unwrap_or_default();
        for backend in &service.backends {
            let states: Vec<_> = backend
                .states
                .iter()
                .map(|(state, count)| format!("{} {}", grouped(*count), state.word()))
                .collect();
            let line = format!(
                "  {:<width$}  {}  {}",
                name(&backend.backend),
                flows(backend.total),
                states.join(", ")
            );
            text += line.trim_end();
            text.push('\n');
        }
    }
    text
}

fn flows(count: u64) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{} flow{s}", grouped(count))
}

/// As [`print`], without text in between.
fn write(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.context("cannot write to stdout"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_say_what_there_is() {
        let count: Count = serde_json::from_value(serde_json::json!({"services": [
            {"service": "web", "total": 1235, "backends": [
                {"backend": "10.0.0.1:80", "total": 1234, "states": {"established": 1200, "half-open": 34}},
                {"backend": null, "total": 1, "states": {"reset": 1}},
                {"backend": "10.0.0.2:8080", "total": 0, "states": {}},
            ]},
        ]}))
        .expect("a count");
        assert_eq!(
            counts(&count),
            "web  1,235 flows\n\
             \x20 10.0.0.1:80    1,234 flows  34 half-open, 1,200 established\n\
             \x20 gone           1 flow  1 reset\n\
             \x20 10.0.0.2:8080  0 flows\n"
        );
    }

    #[test]
    fn words_are_those_of_the_answers() {
        assert_eq!(word("half-open"), Ok(FlowState::HalfOpen));
        assert!(
            word::<FlowState>("open")
                .expect_err("none")
                .contains("established")
        );
    }
}
