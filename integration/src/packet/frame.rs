//! What a test says of a packet, and its bytes: every length and checksum computed in full, by code that the packet path does not share.

use std::net::IpAddr;

pub type Mac = [u8; 6];

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMP6: u8 = 58;
pub const SCTP: u8 = 132;

/// A packet with Ethernet header. [`Packet::bytes`] makes a frame of it that every receiver accepts.
#[derive(Clone, Debug, PartialEq)]
pub struct Packet {
    /// Destination, source.
    pub macs: [Mac; 2],
    /// (ethertype, control field) of every tag, outermost first.
    pub tags: Vec<(u16, u16)>,
    /// Source, destination; of one family.
    pub addresses: [IpAddr; 2],
    /// Source, destination; for [`TCP`] and [`UDP`].
    pub ports: [u16; 2],
    pub protocol: u8,
    pub hops: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// IPv4 options, padded to 4 bytes with "end of options".
    pub options: Vec<u8>,
    /// IPv6 extension headers: type and length in units of 8 bytes, without the first 8.
    pub extensions: Vec<(u8, u8)>,
    /// Fragment offset in units of 8 bytes, and whether more follow.
    pub fragment: Option<(u16, bool)>,
    /// TCP options, padded to 4 bytes.
    pub tcp_options: Vec<u8>,
    /// False: a UDP checksum of zero, "none computed".
    pub checksum: bool,
    pub payload: Vec<u8>,
    /// Bytes behind the IP packet.
    pub padding: usize,
}

impl Packet {
    /// A segment or datagram of a dozen bytes, TTL 64, neither tagged nor padded. MACs are those of nobody.
    pub fn new(protocol: u8, source: (IpAddr, u16), destination: (IpAddr, u16)) -> Self {
        assert_eq!(source.0.is_ipv4(), destination.0.is_ipv4(), "one family");
        Self {
            macs: [[2, 0, 0, 0, 9, 1], [2, 0, 0, 0, 9, 2]],
            tags: Vec::new(),
            addresses: [source.0, destination.0],
            ports: [source.1, destination.1],
            protocol,
            hops: 64,
            tos: 0,
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: None,
            tcp_options: Vec::new(),
            checksum: true,
            payload: b"twelve bytes".to_vec(),
            padding: 0,
        }
    }

    /// The same packet on its way back: ends swapped.
    #[must_use]
    pub fn reversed(&self) -> Self {
        let ([source, destination], [from, to]) = (self.addresses, self.ports);
        Self {
            addresses: [destination, source],
            ports: [to, from],
            ..self.clone()
        }
    }

    /// The frame.
    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = [self.macs[0], self.macs[1]].concat();
        for (ethertype, control) in &self.tags {
            frame.extend(ethertype.to_be_bytes());
            frame.extend(control.to_be_bytes());
        }
        let transport = self.transport();
        match self.addresses {
            [IpAddr::V4(source), IpAddr::V4(destination)] => {
                frame.extend([8, 0]);
                frame.extend(self.ipv4([source.octets(), destination.octets()], transport.len()));
            }
            [IpAddr::V6(source), IpAddr::V6(destination)] => {
                frame.extend([0x86, 0xdd]);
                frame.extend(self.ipv6([source.octets(), destination.octets()], transport.len()));
            }
            _ => unreachable!("checked when it was made"),
        }
        frame.extend(transport);
        frame.extend((0..self.padding).map(|n| n as u8 ^ 0x5a));
        frame
    }

    fn ipv4(&self, addresses: [[u8; 4]; 2], transport: usize) -> Vec<u8> {
        let options = padded(&self.options);
        let length = 20 + options.len();
        let (offset, more) = self.fragment.unwrap_or((0, false));
        let mut header = vec![0x40 | (length / 4) as u8, self.tos];
        header.extend(((length + transport) as u16).to_be_bytes());
        header.extend([0x12, 0x34]);
        header.extend((offset | if more { 0x2000 } else { 0 }).to_be_bytes());
        header.extend([self.hops, self.protocol, 0, 0]);
        header.extend(addresses.concat());
        header.extend(options);
        let sum = checksum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }

    fn ipv6(&self, addresses: [[u8; 16]; 2], transport: usize) -> Vec<u8> {
        let mut types: Vec<u8> = self.extensions.iter().map(|(kind, _)| *kind).collect();
        let mut bodies: Vec<Vec<u8>> = Vec::new();
        for (kind, length) in &self.extensions {
            // One PadN option (RFC 8200 §4.2) fills options headers; a routing header has no segments left.
            let mut body = vec![*length];
            let filled = usize::from(*length) * 8 + 6;
            body.extend(if *kind == 43 {
                [0, 0]
            } else {
                [1, (filled - 2) as u8]
            });
            body.resize(1 + filled, 0);
            bodies.push(body);
        }
        if let Some((offset, more)) = self.fragment {
            types.push(44);
            let field = (offset << 3 | u16::from(more)).to_be_bytes();
            bodies.push([&[0], &field[..], &[0, 0, 0x12, 0x34]].concat());
        }
        types.push(self.protocol);
        let extensions: Vec<u8> = bodies
            .iter()
            .zip(&types[1..])
            .flat_map(|(body, next)| [&[*next], &body[..]].concat())
            .collect();
        let mut header = vec![0x60 | self.tos >> 4, self.tos << 4 | 0x0b, 0xad, 0xf0];
        header.extend(((extensions.len() + transport) as u16).to_be_bytes());
        header.extend([types[0], self.hops]);
        header.extend(addresses.concat());
        header.extend(extensions);
        header
    }

    fn transport(&self) -> Vec<u8> {
        // Of a later fragment there is only data.
        if self.fragment.is_some_and(|(offset, _)| offset > 0) {
            return self.payload.clone();
        }
        let ports = [self.ports[0].to_be_bytes(), self.ports[1].to_be_bytes()].concat();
        let (mut header, at) = match self.protocol {
            TCP => {
                let options = padded(&self.tcp_options);
                let offset = (((20 + options.len()) / 4) << 4) as u8;
                let rest = [1, 2, 3, 4, 5, 6, 7, 8, offset, 0x18, 0x20, 0, 0, 0, 0, 0];
                ([&ports, &rest[..], &options].concat(), 16)
            }
            UDP => {
                let length = (8 + self.payload.len()) as u16;
                ([&ports, &length.to_be_bytes()[..], &[0, 0]].concat(), 6)
            }
            _ => return self.payload.clone(),
        };
        if self.checksum {
            let length = (header.len() + self.payload.len()) as u32;
            let pseudo = match self.addresses {
                [IpAddr::V4(source), IpAddr::V4(destination)] => {
                    [source.octets(), destination.octets()].concat()
                }
                [IpAddr::V6(source), IpAddr::V6(destination)] => {
                    [source.octets(), destination.octets()].concat()
                }
                _ => unreachable!("checked when it was made"),
            };
            let length = length.to_be_bytes();
            let sum = checksum(&[
                &pseudo,
                &length,
                &[0, self.protocol],
                &header,
                &self.payload,
            ]);
            // RFC 768: a computed zero is sent as all ones.
            let sum = if self.protocol == UDP && sum == 0 {
                0xffff
            } else {
                sum
            };
            header[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        [header, self.payload.clone()].concat()
    }
}

fn padded(options: &[u8]) -> Vec<u8> {
    let mut options = options.to_vec();
    options.resize(options.len().next_multiple_of(4), 0);
    options
}

/// RFC 1071, the plain way. All parts but the last have an even length.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
