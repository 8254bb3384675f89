//! Flows as lines of JSON, one object each, made fast enough for millions: what all flows of a service and a backend have in
//! common is written once.

use core::{
    fmt::Write as _,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use lb_common::{flow_table::Ticks, rewrite::Endpoint};

use super::{
    directory::{Directory, FlowState},
    tables::Flow,
};
use crate::model::BackendKey;

/// Writes flows as lines.
pub struct Lines<'d> {
    directory: &'d Directory,
    /// Of each service: what stands before the client.
    heads: Vec<String>,
    /// Of each service, by a backend's number − 1: what stands between the client and the state.
    backends: Vec<Vec<String>>,
}

const NO_BACKEND: &str = r#"","backend":null,"state":""#;

impl<'d> Lines<'d> {
    pub fn new(directory: &'d Directory) -> Self {
        let backend = |backend: &Option<BackendKey>| match backend {
            Some(key) => format!(r#"","backend":"{key}","state":""#),
            None => NO_BACKEND.to_owned(),
        };
        let services = directory.services();
        Self {
            heads: services
                .iter()
                .map(|service| {
                    let vip = SocketAddr::new(service.key.vip, service.key.port);
                    // A name has nothing that JSON escapes.
                    format!(
                        r#"{{"service":"{}","protocol":"{}","vip":"{vip}","client":""#,
                        service.name, service.key.protocol
                    )
                })
                .collect(),
            backends: services
                .iter()
                .map(|service| service.backends.iter().map(backend).collect())
                .collect(),
            directory,
        }
    }

    /// Adds the flow's line if the directory's filter lets it pass; false if not.
    pub fn push(&self, flow: &Flow, now: Ticks, out: &mut String) -> bool {
        let Some(at) = self.directory.shows(flow) else {
            return false;
        };
        out.push_str(&self.heads[at]);
        push_endpoint(flow.key.source, out);
        let number = usize::from(flow.value.backend);
        let backend = number
            .checked_sub(1)
            .and_then(|number| self.backends[at].get(number));
        out.push_str(backend.map_or(NO_BACKEND, String::as_str));
        out.push_str(FlowState::from(flow.phase).word());
        out.push_str(r#"","idle_s":"#);
        push_number(now.since(flow.value.seen), out);
        if let Some(translation) = &flow.translation {
            out.push_str(r#","source":""#);
            push_endpoint(translation.source, out);
            out.push('"');
        }
        out.push_str("}\n");
        true
    }
}

fn push_endpoint(endpoint: Endpoint, out: &mut String) {
    if endpoint.address.is_v4() {
        for (at, octet) in endpoint.address.to_v4().into_iter().enumerate() {
            if at > 0 {
                out.push('.');
            }
            push_number(octet.into(), out);
        }
        out.push(':');
    } else if let IpAddr::V6(address) = endpoint.address.into() {
        push_v6(address, out);
    }
    push_number(endpoint.port.into(), out);
}

fn push_v6(address: Ipv6Addr, out: &mut String) {
    // A String takes everything.
    let _ = write!(out, "[{address}]:");
}

fn push_number(mut number: u32, out: &mut String) {
    let mut digits = [b'0'; 10];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] += (number % 10) as u8;
        number /= 10;
        if number == 0 || at == 0 {
            break;
        }
    }
    for digit in &digits[at..] {
        out.push(char::from(*digit));
    }
}
