//! What was found on a server, for people and for programs.

use std::fmt::Write as _;

use lb_common::{real_server::Outcome, tables::Counter};
use lb_core::{
    backend_host::{Duty, Finding, Kind, Severity},
    model::{Mode, Protocol, ServiceName},
};
use serde::Serialize;

/// `futago backend --check --json`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether nothing is wrong; advice does not count.
    pub good: bool,
    pub services: Vec<ServedService>,
    pub findings: Vec<FoundFinding>,
    /// What the XDP program has counted since it was attached or replaced; empty without one.
    pub received: Vec<Received>,
}

/// One way that packets took through the XDP program.
#[derive(Debug, Serialize)]
pub struct Received {
    pub outcome: &'static str,
    pub packets: u64,
    pub bytes: u64,
}

/// A service that this host is a backend of.
#[derive(Debug, Serialize)]
pub struct ServedService {
    pub name: ServiceName,
    pub vip: std::net::IpAddr,
    pub port: u16,
    pub protocol: Protocol,
    pub mode: Mode,
    pub backend: std::net::IpAddr,
    pub interface: String,
}

#[derive(Debug, Serialize)]
pub struct FoundFinding {
    pub kind: Kind,
    pub severity: Severity,
    pub services: Vec<ServiceName>,
    pub what: String,
    /// What mends it; `null` where no command can.
    pub command: Option<String>,
}

impl Report {
    pub fn new(duties: &[Duty], findings: &[Finding], received: &[(Outcome, Counter)]) -> Self {
        Self {
            good: count_wrong(findings) == 0,
            services: duties
                .iter()
                .map(|duty| ServedService {
                    name: duty.service.clone(),
                    vip: duty.key.vip,
                    port: duty.key.port,
                    protocol: duty.key.protocol,
                    mode: duty.mode,
                    backend: duty.backend.address,
                    interface: duty.interface.clone(),
                })
                .collect(),
            findings: findings
                .iter()
                .map(|finding| FoundFinding {
                    kind: finding.kind,
                    severity: finding.kind.severity(),
                    services: finding.services.clone(),
                    what: finding.what.clone(),
                    command: Some(finding.command()).filter(|command| !command.is_empty()),
                })
                .collect(),
            received: received
                .iter()
                .map(|(outcome, counter)| Received {
                    outcome: outcome.label(),
                    packets: counter.packets,
                    bytes: counter.bytes,
                })
                .collect(),
        }
    }
}

pub fn count_wrong(findings: &[Finding]) -> usize {
    let wrong = |finding: &&Finding| finding.kind.severity() == Severity::Wrong;
    findings.iter().filter(wrong).count()
}

/// A line for each way through the XDP program that packets took.
pub fn received(received: &[(Outcome, Counter)]) -> String {
    let seen = received.iter().filter(|(_, counter)| counter.packets > 0);
    seen.map(|(outcome, counter)| {
        let label = outcome.label();
        format!(
            "packets: {label} {} ({} bytes)\n",
            counter.packets, counter.bytes
        )
    })
    .collect()
}

/// A paragraph for each finding; empty where there is none.
pub fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let names: Vec<_> = finding.services.iter().map(ServiceName::as_str).collect();
        let _ = writeln!(
            text,
            "{}: {} ({})",
            finding.kind.severity(),
            finding.what,
            names.join(", ")
        );
        let command = finding.command();
        if !command.is_empty() {
            // No command of this one mends what it finds.
            let verb = if finding.kind == Kind::NotListening {
                "look"
            } else {
                "mend"
            };
            let _ = writeln!(text, "  {verb}: {command}");
        }
    }
    text
}
