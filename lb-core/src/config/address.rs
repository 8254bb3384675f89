//! Which IP addresses a VIP or a backend may have.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::diagnostic::{Diagnostic, Span};

/// `Err` says what is wrong with `text` as the unicast address of a host on the network, and what to write.
pub(super) fn parse(key: &str, text: &str, span: Span) -> Result<IpAddr, Diagnostic> {
    let wrong = |message: String| Diagnostic::error(span.clone(), message);
    let address: IpAddr = text.trim().parse().map_err(|_| {
        let diagnostic = wrong(format!("`{key}` is {text:?}, which is not an IP address"));
        if let Some((host, _)) = text
            .split_once('/')
            .filter(|(host, _)| host.parse::<IpAddr>().is_ok())
        {
            diagnostic
                .label("no prefix length here")
                .help(format!("write \"{host}\""))
        } else if let Ok(with_port) = text.parse::<SocketAddr>() {
            diagnostic
                .label("the port is a key of its own")
                .help(format!(
                    "write {key} = \"{}\" and port = {}",
                    with_port.ip(),
                    with_port.port()
                ))
        } else if let Some(host) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            diagnostic
                .label("no brackets here")
                .help(format!("write \"{host}\""))
        } else {
            diagnostic.label("an IPv4 or IPv6 address, such as \"192.0.2.10\" or \"2001:db8::10\"")
        }
    })?;

    let help = match address {
        _ if address.is_unspecified() => "unspecified: every host means itself by it",
        _ if address.is_multicast() => "a multicast address: it names a group, not a host",
        _ if address.is_loopback() => "a loopback address: it never leaves a host",
        IpAddr::V4(Ipv4Addr::BROADCAST) => "the broadcast address: it names every host",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            "a link-local address: it means nothing without an interface; use a global or unique local one"
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => {
                return Err(wrong(format!("`{key}` is an IPv4 address in IPv6 clothes"))
                    .label("packets carry it as IPv4")
                    .help(format!("write \"{v4}\"")));
            }
            None => return Ok(address),
        },
        IpAddr::V4(_) => return Ok(address),
    };
    Err(wrong(format!("`{key}` cannot be {address}")).label(help))
}
