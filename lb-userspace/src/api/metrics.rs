//! The status as Prometheus text (exposition format 0.0.4): one list of families behind `GET /metrics` and its docs.

use std::{
    fmt::{Display, Write as _},
    net::SocketAddr,
};

use lb_core::vrrp::router::State;

use super::status::{BackendStatus, Status};
use crate::vrrp::status::VirtualRouter;

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All samples of one name.
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    /// The HELP line, and the docs.
    pub help: &'static str,
    samples: fn(&Status, &mut Samples<'_>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

use Kind::{Counter, Gauge};

const BACKEND: &[&str] = &["service", "backend"];
const REASON: &[&str] = &["reason", "class"];
const ROUTER: &[&str] = &["router"];
const STATES: [State; 4] = [
    State::Initialize,
    State::Backup,
    State::Active,
    State::Fault,
];

/// All of them, in the order of the output.
pub const FAMILIES: &[Family] = &[
    Family {
        name: "futago_info",
        kind: Gauge,
        labels: &["node", "version", "config_digest"],
        help: "Always 1. Nodes of a pair have read the same configuration if their digests are equal.",
        samples: |status, out| {
            out.push(&[&status.node, &status.version, &status.config_digest], 1);
        },
    },
    Family {
        name: "futago_uptime_seconds",
        kind: Gauge,
        labels: &[],
        help: "Time since the daemon started. The kernel may have forwarded for longer.",
        samples: |status, out| out.push(&[], status.uptime_s),
    },
    Family {
        name: "futago_adopted",
        kind: Gauge,
        labels: &[],
        help: "1 if the daemon took over the tables of an earlier one when it started.",
        samples: |status, out| out.push(&[], u8::from(status.adopted)),
    },
    Family {
        name: "futago_interface_attached",
        kind: Gauge,
        labels: &["interface", "xdp"],
        help: "1 if the XDP program is attached; xdp is native, generic (slower) or absent.",
        samples: |status, out| {
            for interface in &status.interfaces {
                let attached = interface.program_id.is_some();
                out.push(&[&interface.name, &interface.xdp], u8::from(attached));
            }
        },
    },
    Family {
        name: "futago_service_packets_total",
        kind: Counter,
        labels: &["service"],
        help: "Packets forwarded to backends of the service.",
        samples: |status, out| {
            for service in &status.services {
                out.push(&[&service.name], service.packets);
            }
        },
    },
    Family {
        name: "futago_service_bytes_total",
        kind: Counter,
        labels: &["service"],
        help: "Bytes forwarded to backends of the service.",
        samples: |status, out| {
            for service in &status.services {
                out.push(&[&service.name], service.bytes);
            }
        },
    },
    Family {
        name: "futago_service_failed",
        kind: Gauge,
        labels: &["service"],
        help: "1 if the last change of the service could not be written and the one before is in force.",
        samples: |status, out| {
            for service in &status.services {
                out.push(&[&service.name], u8::from(service.error.is_some()));
            }
        },
    },
    Family {
        name: "futago_service_slots_in_change",
        kind: Gauge,
        labels: &["service"],
        help: "Slots of the service that a change of backends has not done with; packets of their flows are looked up.",
        samples: |status, out| {
            for service in &status.services {
                out.push(&[&service.name], service.slots_in_change);
            }
        },
    },
    Family {
        name: "futago_flow_table_entries",
        kind: Gauge,
        labels: &["table"],
        help: "Entries of a table of flows that are in use, as of the last round through it.",
        samples: |status, out| {
            for table in &status.flow_tables {
                out.push(&[&table.table], table.entries);
            }
        },
    },
    Family {
        name: "futago_flow_table_free",
        kind: Gauge,
        labels: &["table"],
        help: "Entries of a table of flows that are free.",
        samples: |status, out| {
            for table in &status.flow_tables {
                out.push(
                    &[&table.table],
                    table.capacity.saturating_sub(table.entries),
                );
            }
        },
    },
    Family {
        name: "futago_flows_removed_total",
        kind: Counter,
        labels: &[],
        help: "Flows that were forgotten: silent for too long, or not needed any more.",
        samples: |status, out| out.push(&[], status.flows_removed),
    },
    Family {
        name: "futago_backend_packets_total",
        kind: Counter,
        labels: BACKEND,
        help: "Packets forwarded to the backend.",
        samples: |status, out| out.backends(status, |backend| backend.packets),
    },
    Family {
        name: "futago_backend_bytes_total",
        kind: Counter,
        labels: BACKEND,
        help: "Bytes forwarded to the backend.",
        samples: |status, out| out.backends(status, |backend| backend.bytes),
    },
    Family {
        name: "futago_backend_up",
        kind: Gauge,
        labels: BACKEND,
        help: "1 if the backend's health allows new flows; 0 if it is down or not probed yet.",
        samples: |status, out| {
            out.backends(status, |backend| u8::from(backend.state.serves()));
        },
    },
    Family {
        name: "futago_backend_state_seconds",
        kind: Gauge,
        labels: BACKEND,
        help: "For how long the backend has been in its state.",
        samples: |status, out| {
            out.backends(status, |backend| backend.since_ms as f64 / 1000.0);
        },
    },
    Family {
        name: "futago_backend_weight",
        kind: Gauge,
        labels: BACKEND,
        help: "The weight that the configuration gives the backend.",
        samples: |status, out| out.backends(status, |backend| backend.weight),
    },
    Family {
        name: "futago_backend_share_ratio",
        kind: Gauge,
        labels: BACKEND,
        help: "Share of the service's slots that the backend owns, 0 to 1.",
        samples: |status, out| out.backends(status, |backend| backend.share),
    },
    Family {
        name: "futago_backend_info",
        kind: Gauge,
        labels: &["service", "backend", "name"],
        help: "Always 1, for backends that have a name.",
        samples: |status, out| {
            for service in &status.services {
                for backend in &service.backends {
                    if let Some(name) = &backend.name {
                        out.push(&[&service.name, &label(backend), name], 1);
                    }
                }
            }
        },
    },
    Family {
        name: "futago_reason_packets_total",
        kind: Counter,
        labels: REASON,
        help: "Packets by the reason for which they left the packet path; class is forwarded, passed or dropped.",
        samples: |status, out| {
            for reason in &status.reasons {
                out.push(&[&reason.reason, &reason.class], reason.packets);
            }
        },
    },
    Family {
        name: "futago_reason_bytes_total",
        kind: Counter,
        labels: REASON,
        help: "Bytes by the reason for which their packets left the packet path; class is forwarded, passed or dropped.",
        samples: |status, out| {
            for reason in &status.reasons {
                out.push(&[&reason.reason, &reason.class], reason.bytes);
            }
        },
    },
    Family {
        name: "futago_vrrp_state",
        kind: Gauge,
        labels: &["router", "state"],
        help: "1 for the state that the virtual router is in, 0 for the others.",
        samples: |status, out| {
            for router in routers(status) {
                for state in STATES.map(State::label) {
                    out.push(&[&router.name, state], u8::from(router.state == state));
                }
            }
        },
    },
    Family {
        name: "futago_vrrp_priority",
        kind: Gauge,
        labels: ROUTER,
        help: "The priority that the node claims now, after what tracking takes away.",
        samples: |status, out| {
            for router in routers(status) {
                out.push(&[&router.name], router.priority);
            }
        },
    },
    Family {
        name: "futago_vrrp_state_seconds_total",
        kind: Counter,
        labels: &["router", "state"],
        help: "Time spent in each state since the daemon started.",
        samples: |status, out| {
            for router in routers(status) {
                for (state, ms) in &router.time_ms {
                    out.push(&[&router.name, state], *ms as f64 / 1000.0);
                }
            }
        },
    },
    Family {
        name: "futago_vrrp_transitions_total",
        kind: Counter,
        labels: &["router", "to", "reason"],
        help: "Changes of state since the daemon started, by the new state and the reason.",
        samples: |status, out| {
            for router in routers(status) {
                for (to, reasons) in &router.reasons {
                    for (reason, count) in reasons {
                        out.push(&[&router.name, to, reason], count);
                    }
                }
            }
        },
    },
    Family {
        name: "futago_vrrp_notices_total",
        kind: Counter,
        labels: &["router", "notice"],
        help: "What was worth a line in the log without a change of state, such as adverts_missing, rival or stalled.",
        samples: |status, out| {
            for router in routers(status) {
                for (notice, count) in &router.notices {
                    out.push(&[&router.name, notice], count);
                }
            }
        },
    },
    Family {
        name: "futago_vrrp_adverts_rejected_total",
        kind: Counter,
        labels: &["router", "reason"],
        help: "Adverts that were not used; router is empty for those that belong to no virtual router of this node.",
        samples: |status, out| {
            for router in routers(status) {
                for (reason, count) in &router.rejects {
                    out.push(&[&router.name, reason], count);
                }
            }
            for (reason, count) in status.election.iter().flat_map(|e| &e.stray_rejects) {
                out.push(&["", reason], count);
            }
        },
    },
    Family {
        name: "futago_vrrp_path_up",
        kind: Gauge,
        labels: &["router", "peer", "interface"],
        help: "1 if the peer's XDP program answers the echo over this interface.",
        samples: |status, out| {
            for router in routers(status) {
                for path in &router.paths {
                    let labels = [router.name.as_str(), &path.node, &path.interface];
                    out.push(&labels, u8::from(path.up));
                }
            }
        },
    },
    Family {
        name: "futago_vrrp_realtime",
        kind: Gauge,
        labels: &[],
        help: "1 if the election runs with real-time scheduling.",
        samples: |status, out| {
            if let Some(election) = &status.election {
                out.push(&[], u8::from(election.realtime));
            }
        },
    },
];

fn routers(status: &Status) -> impl Iterator<Item = &VirtualRouter> {
    status
        .election
        .iter()
        .flat_map(|election| &election.routers)
}

/// The whole answer of `GET /metrics`.
pub fn render(status: &Status) -> String {
    let mut text = String::new();
    for family in FAMILIES {
        text.push_str(&format!(
            "# HELP {name} {help}\n# TYPE {name} {kind}\n",
            name = family.name,
            help = family.help,
            kind = family.kind.as_str(),
        ));
        let mut samples = Samples {
            family,
            text: &mut text,
        };
        (family.samples)(status, &mut samples);
    }
    text
}

struct Samples<'a> {
    family: &'a Family,
    text: &'a mut String,
}

impl Samples<'_> {
    /// `values` belong to the family's labels, in their order.
    fn push(&mut self, values: &[&str], value: impl Display) {
        debug_assert_eq!(values.len(), self.family.labels.len());
        let labels: Vec<_> = self
            .family
            .labels
            .iter()
            .zip(values)
            .map(|(label, value)| format!("{label}=\"{}\"", escape(value)))
            .collect();
        let labels = match labels.as_slice() {
            [] => String::new(),
            labels => format!("{{{}}}", labels.join(",")),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{}{labels} {value}", self.family.name);
    }

    fn backends<T: Display>(&mut self, status: &Status, value: impl Fn(&BackendStatus) -> T) {
        for service in &status.services {
            for backend in &service.backends {
                self.push(&[&service.name, &label(backend)], value(backend));
            }
        }
    }
}

/// What tells backends of a service apart; names need not.
fn label(backend: &BackendStatus) -> String {
    SocketAddr::new(backend.address, backend.port).to_string()
}

fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Status {
        serde_json::from_str(include_str!("../../tests/data/status.json")).expect("a status")
    }

    #[test]
    fn the_text_is_as_prometheus_reads_it() {
        assert_eq!(
            render(&sample()),
            include_str!("../../tests/data/metrics.txt")
        );
    }

    #[test]
    fn names_follow_the_conventions() {
        for family in FAMILIES {
            assert!(family.name.starts_with("futago_"), "{}", family.name);
            assert_eq!(
                family.name.ends_with("_total"),
                family.kind == Counter,
                "{}",
                family.name
            );
            assert!(!family.help.contains(['\n', '\\']), "{}", family.name);
            assert_eq!(FAMILIES.iter().filter(|f| f.name == family.name).count(), 1);
        }
    }

    #[test]
    fn label_values_are_escaped() {
        let mut status = sample();
        status.node = "a\"b\\c\nd".to_owned();
        assert!(render(&status).contains(r#"futago_info{node="a\"b\\c\nd","#));
    }
}
