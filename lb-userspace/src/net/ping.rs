//! One echo request and its answer (RFC 792, RFC 4443), by a raw socket of its own.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU16, Ordering},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

static SEQUENCE: AtomicU16 = AtomicU16::new(1);

/// What tells our request from those of other programs and from earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Id {
    identifier: u16,
    sequence: u16,
}

/// Waits until the address answers. The caller sets the limit.
///
/// # Errors
/// The request cannot be sent: no route, or no right to raw sockets (root, or CAP_NET_RAW).
pub async fn answers(address: IpAddr) -> io::Result<bool> {
    let (domain, protocol) = if address.is_ipv4() {
        (Domain::IPV4, Protocol::ICMPV4)
    } else {
        (Domain::IPV6, Protocol::ICMPV6)
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    // From now on the socket receives from this address alone.
    socket.connect(&SocketAddr::new(address, 0).into())?;
    let id = Id {
        identifier: std::process::id() as u16,
        sequence: SEQUENCE.fetch_add(1, Ordering::Relaxed),
    };
    socket.send(&request(address.is_ipv4(), id))?;
    // To tokio it is a datagram socket like any other.
    let socket = UdpSocket::from_std(socket.into())?;
    let mut buffer = [0; 256];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let packet = buffer.get(..length).unwrap_or_default();
        if reply(address.is_ipv4(), packet) == Some(id) {
            return Ok(true);
        }
    }
}

fn request(ipv4: bool, id: Id) -> [u8; 16] {
    let mut message = [0; 16];
    message[0] = if ipv4 { 8 } else { 128 };
    message[4..6].copy_from_slice(&id.identifier.to_be_bytes());
    message[6..8].copy_from_slice(&id.sequence.to_be_bytes());
    message[8..].copy_from_slice(b"futago!!");
    if ipv4 {
        // Of ICMPv6 the kernel computes it.
        let sum: u32 = message
            .as_chunks::<2>()
            .0
            .iter()
            .map(|&pair| u32::from(u16::from_be_bytes(pair)))
            .sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        message[2..4].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    }
    message
}

/// What an echo reply answers; `None` for anything else. A raw IPv4 socket delivers the IP header as well.
fn reply(ipv4: bool, packet: &[u8]) -> Option<Id> {
    let message = if ipv4 {
        packet.get(usize::from(packet.first()? & 0xf) * 4..)?
    } else {
        packet
    };
    let [kind, _, _, _, a, b, c, d] = *message.first_chunk::<8>()?;
    (kind == if ipv4 { 0 } else { 129 }).then(|| Id {
        identifier: u16::from_be_bytes([a, b]),
        sequence: u16::from_be_bytes([c, d]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Id = Id {
        identifier: 0x1234,
        sequence: 7,
    };

    #[test]
    fn a_request_is_what_another_implementation_reads() {
        let message = request(true, ID);
        let read = etherparse::Icmpv4Slice::from_slice(&message).expect("ICMP");
        let header = read.header();
        let echo = etherparse::IcmpEchoHeader { id: 0x1234, seq: 7 };
        assert_eq!(header.icmp_type, etherparse::Icmpv4Type::EchoRequest(echo));
        let computed = header.icmp_type.calc_checksum(read.payload());
        assert_eq!(header.checksum, computed);
        assert_eq!(request(false, ID)[0], 128);
    }

    #[test]
    fn only_replies_count_and_damaged_packets_are_none() {
        let mut packet = vec![0x46; 24];
        packet.extend(request(true, ID));
        assert_eq!(reply(true, &packet), None, "a request");
        packet[24] = 0;
        assert_eq!(
            reply(true, &packet),
            Some(ID),
            "after a header with options"
        );
        for length in 0..32 {
            assert_eq!(reply(true, &packet[..length]), None);
        }
        let mut message = request(false, ID);
        message[0] = 129;
        assert_eq!(reply(false, &message), Some(ID));
    }
}
