//! `futago load` between two hosts: what is sent arrives, is counted, and goes nowhere else.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use integration::{Host, Segments, Topology, daemon};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

fn send(host: &Host, arguments: &[&str]) -> Result<Result<Value, String>> {
    let mut command = daemon::command(host)?;
    command.args(["load", "send", "--json", "--seconds", "1"]);
    let output = command.args(arguments).output()?;
    if output.status.success() {
        return Ok(Ok(serde_json::from_slice(&output.stdout)?));
    }
    Ok(Err(String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn number(report: &Value, field: &str) -> Result<u64> {
    report[field]
        .as_u64()
        .with_context(|| format!("no {field} in {report}"))
}

#[test]
fn what_is_sent_arrives_in_order_and_within_its_rate() -> Result<()> {
    let lab = Topology::new(Segments::One).servers(1).build("load")?;
    let (client, server) = (lab.host("client")?, lab.host("server1")?);
    for (to, kind) in [("10.0.2.21:9", "udp"), ("[fd00:2::21]:9", "syn")] {
        let mut command = daemon::command(server)?;
        command.args(["load", "receive", "--json", "--interface", "eth0"]);
        // As long as the sender may take on a busy machine.
        command.args(["--seconds", "8"]);
        let mut receiver = server.spawn_command(command)?;
        receiver.wait_for("receiving on eth0", LIMIT)?;
        let report = send(
            client,
            &[
                "--interface",
                "eth0",
                "--to",
                to,
                "--kind",
                kind,
                "--rate",
                "20000",
                "--flows",
                "100",
            ],
        )?
        .map_err(anyhow::Error::msg)?;
        let sent = number(&report, "sent")?;
        ensure!((1000..=20_001).contains(&sent), "{report}");
        receiver.wait(LIMIT)?;
        let seen: Value = serde_json::from_str(&receiver.stdout())?;
        ensure!(number(&seen, "received")? == sent, "{report} {seen}");
        ensure!(number(&seen, "reordered")? == 0, "{seen}");
        ensure!(number(&seen["latency_ns"], "p50")? > 0, "{seen}");
    }
    Ok(())
}

#[test]
fn nothing_is_sent_to_where_it_was_not_told() -> Result<()> {
    let lab = Topology::new(Segments::Two).servers(1).build("load-no")?;
    let balancer = lab.host("lb1")?;
    // The route leaves by the other interface; nobody has the address; more than one host has it.
    for (interface, to, reason) in [
        ("eth0", "10.0.2.21:9", "does not leave by eth0"),
        ("eth0", "10.0.1.77:9", "no next hop"),
        ("eth0", "224.0.0.1:9", ""),
    ] {
        let refused = send(
            balancer,
            &["--interface", interface, "--to", to, "--rate", "1000"],
        )?;
        let text = refused.err().context("it was sent")?;
        ensure!(text.contains(reason), "{text}");
    }
    Ok(())
}
