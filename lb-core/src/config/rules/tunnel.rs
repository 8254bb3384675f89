//! `tunnel_source`: at most one address of each family, the IPv4 one perhaps as a prefix.

use core::net::IpAddr;

use crate::{
    config::{
        address,
        diagnostic::{Diagnostic, Sink},
        file,
        reader::At,
    },
    model::TunnelSources,
};

/// The shortest IPv4 prefix: 15 bits of entropy are more than any receiver has queues.
const SHORTEST: u8 = 17;

pub(super) fn sources(node: &file::Node, sink: &Sink) -> TunnelSources {
    let mut sources = TunnelSources::default();
    let written = node.tunnel_source.iter().flat_map(|list| &list.value);
    for text in written {
        let (host, length) = match text.value.split_once('/') {
            Some((host, length)) => (host, Some(length)),
            None => (text.value.as_str(), None),
        };
        let address = match address::parse("tunnel_source", host, text.span.clone()) {
            Ok(address) => address,
            Err(diagnostic) => {
                sink.push(diagnostic);
                continue;
            }
        };
        let twice = match address {
            IpAddr::V4(v4) => prefix(length, text, sink)
                .and_then(|length| sources.ipv4.replace((masked(v4, length), length)))
                .is_some(),
            IpAddr::V6(v6) => {
                if length.is_some() {
                    sink.push(
                        Diagnostic::error(text.span.clone(), "an IPv6 source has no prefix")
                            .label(format!("write \"{v6}\""))
                            .help("over IPv6 the flow label carries the entropy"),
                    );
                }
                sources.ipv6.replace(v6).is_some()
            }
        };
        if twice {
            sink.push(
                Diagnostic::error(text.span.clone(), "a second `tunnel_source` of this family")
                    .label("remove one"),
            );
        }
    }
    sources
}

fn prefix(length: Option<&str>, text: &At<String>, sink: &Sink) -> Option<u8> {
    let Some(length) = length else {
        return Some(32);
    };
    let parsed = length.parse().ok().filter(|n| (SHORTEST..=32).contains(n));
    if parsed.is_none() {
        sink.push(
            Diagnostic::error(
                text.span.clone(),
                format!("the prefix length is {length:?}, not {SHORTEST} to 32"),
            )
            .label("a prefix of a few addresses, such as \"10.0.0.16/28\""),
        );
    }
    parsed
}

/// The first address of the prefix.
fn masked(address: core::net::Ipv4Addr, length: u8) -> core::net::Ipv4Addr {
    let mask = u32::MAX << (32 - u32::from(length));
    (u32::from(address) & mask).into()
}
