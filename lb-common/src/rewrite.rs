//! Address translation of one packet: one rewrite for both families and both directions.

use zerocopy::network_endian::U16;

use crate::{
    address::Address,
    checksum::Difference,
    frame::Frame,
    ip::{End, Ip, transport_checksum_offset},
    parse::{Link, Network},
    reason::Reason,
    related::Requote,
    wire::{PROTOCOL_UDP, Ports},
};

/// An address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: Address,
    pub port: u16,
}

/// Replaces one end of a packet, `old` by `new`, counts down its hops and keeps all checksums right.
///
/// Of SCTP the port has to stay: see [`PROTOCOL_SCTP`](crate::wire::PROTOCOL_SCTP).
///
/// # Errors
/// [`Reason::TtlExpired`] or [`Reason::MalformedTransport`]; the packet is then unchanged.
#[inline(always)]
pub fn translate<V: Ip, F: Frame>(
    frame: &mut F,
    link: Link,
    network: &Network,
    end: End,
    old: Endpoint,
    new: Endpoint,
) -> Result<(), Reason> {
    let change = Requote {
        old,
        new,
        end,
        inside: true,
    };
    change_end::<V, F>(frame, link, network, &change)
}

/// As [`translate`], but in an ICMP error what it quotes stays: the receiver undoes the change, and knows nothing of it inside.
#[inline(always)]
pub fn translate_outside<V: Ip, F: Frame>(
    frame: &mut F,
    link: Link,
    network: &Network,
    end: End,
    old: Endpoint,
    new: Endpoint,
) -> Result<(), Reason> {
    let change = Requote {
        old,
        new,
        end,
        inside: false,
    };
    change_end::<V, F>(frame, link, network, &change)
}

#[inline(always)]
fn change_end<V: Ip, F: Frame>(
    frame: &mut F,
    link: Link,
    network: &Network,
    change: &Requote,
) -> Result<(), Reason> {
    let Requote { old, new, end, .. } = *change;
    if network.piece.is_quoted() {
        let header = frame
            .get::<V::Header>(link.length())
            .ok_or(Reason::MalformedIp)?;
        if V::hops(header) <= 1 {
            return Err(Reason::TtlExpired);
        }
        return match frame.requote(change) {
            true => Ok(()),
            false => Err(Reason::MalformedTransport),
        };
    }
    let checksum_at = transport_checksum_offset(network.protocol);
    let checksum = match checksum_at {
        Some(at) if !network.piece.is_later() => *frame
            .get::<[u8; 2]>(network.transport + at)
            .ok_or(Reason::MalformedTransport)?,
        _ => [0; 2],
    };
    let header = frame
        .get_mut::<V::Header>(link.length())
        .ok_or(Reason::MalformedIp)?;
    if V::hops(header) <= 1 {
        return Err(Reason::TtlExpired);
    }
    V::decrement_hops(header);
    V::set_address(header, end, old.address, new.address);

    if network.piece.is_later() {
        return Ok(());
    }
    let Some(checksum_at) = checksum_at else {
        return Ok(());
    };
    // A UDP checksum of zero over IPv4 stands for "none" (RFC 768) and stays; a computed zero is sent as all ones.
    let udp = network.protocol == PROTOCOL_UDP;
    if !(udp && checksum == [0, 0]) {
        let mut updated = Difference::default()
            .address(old.address, new.address)
            .field(old.port.to_be_bytes(), new.port.to_be_bytes())
            .apply(checksum);
        if udp && updated == [0, 0] {
            updated = [0xff, 0xff];
        }
        *frame
            .get_mut::<[u8; 2]>(network.transport + checksum_at)
            .ok_or(Reason::MalformedTransport)? = updated;
    }
    let ports = frame
        .get_mut::<Ports>(network.transport)
        .ok_or(Reason::MalformedTransport)?;
    match end {
        End::Source => ports.source = U16::new(new.port),
        End::Destination => ports.destination = U16::new(new.port),
    }
    Ok(())
}
