//! What packets look like, as a user says it, and the plan that the generator follows.

use std::net::{IpAddr, SocketAddr};

use lb_common::load::{MAGIC, Order, Plan, Stamp, V4_HEADER, V6_HEADER};

use crate::net::Mac;

const ETHERNET: usize = 14;
/// The kernel runs live frames in one page, with room before and behind.
const LONGEST: usize = 3500;

/// Which packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Udp,
    /// Segments with data, as of an established connection.
    Tcp,
    /// The first segment of a connection.
    Syn,
}

/// A load: whom from, whom to, how many flows.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Interface that packets leave by.
    pub ifindex: u32,
    /// Destination and source.
    pub macs: [Mac; 2],
    /// Of flow 0; later flows count its last four bytes up.
    pub source: IpAddr,
    pub destination: SocketAddr,
    pub kind: Kind,
    /// Frame in bytes, without its checksum.
    pub length: usize,
    pub flows: u32,
    /// Flows of one source address, as a power of two.
    pub port_bits: u32,
    pub order: Order,
    pub stamped: bool,
}

/// Why there are no such packets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    #[error(
        "the source {source_address} and the destination {destination} are of different IP versions"
    )]
    Families {
        source_address: IpAddr,
        destination: IpAddr,
    },
    #[error("a frame of this kind has {shortest} to {LONGEST} bytes, not {length}")]
    Length { shortest: usize, length: usize },
    #[error(
        "{flows} flows, {per_address} an address, take more source addresses than there are after {first}"
    )]
    Sources {
        flows: u32,
        per_address: u32,
        first: IpAddr,
    },
    #[error("there cannot be 2^{0} flows on one source address; 0 to 15 bits")]
    PortBits(u32),
    #[error("there have to be flows")]
    NoFlows,
    #[error("packets to {0} would reach more than one host, or none")]
    Destination(IpAddr),
}

/// Source ports begin here.
const FIRST_PORT: u32 = 1024;

impl Shape {
    /// The shortest frame that has room for headers and stamp.
    pub fn shortest(version_6: bool, kind: Kind, stamped: bool) -> usize {
        let headers =
            ETHERNET + if version_6 { 40 } else { 20 } + if kind == Kind::Udp { 8 } else { 20 };
        let floor = if version_6 { V6_HEADER } else { V4_HEADER };
        let stamp = if stamped { size_of::<Stamp>() } else { 0 };
        // The template is written whole, and the stamp after it.
        floor.max(headers + stamp)
    }

    /// The plan, with no end and no limit of its rate.
    ///
    /// # Errors
    /// If there are no such packets.
    pub fn plan(&self) -> Result<Plan, ShapeError> {
        let (source, to) = (self.source, self.destination);
        if source.is_ipv4() != to.is_ipv4() {
            return Err(ShapeError::Families {
                source_address: source,
                destination: to.ip(),
            });
        }
        let unfit = match to.ip() {
            IpAddr::V4(v4) => v4.is_broadcast(),
            IpAddr::V6(_) => false,
        };
        if unfit || to.ip().is_multicast() || to.ip().is_unspecified() || to.ip().is_loopback() {
            return Err(ShapeError::Destination(to.ip()));
        }
        let shortest = Self::shortest(to.is_ipv6(), self.kind, self.stamped);
        if !(shortest..=LONGEST).contains(&self.length) {
            return Err(ShapeError::Length {
                shortest,
                length: self.length,
            });
        }
        if self.port_bits > 15 {
            return Err(ShapeError::PortBits(self.port_bits));
        }
        if self.flows == 0 {
            return Err(ShapeError::NoFlows);
        }
        let first_source = match source {
            IpAddr::V4(v4) => v4.to_bits(),
            IpAddr::V6(v6) => v6.to_bits() as u32,
        };
        if first_source
            .checked_add((self.flows - 1) >> self.port_bits)
            .is_none()
        {
            return Err(ShapeError::Sources {
                flows: self.flows,
                per_address: 1 << self.port_bits,
                first: source,
            });
        }
        let frame = self.frame();
        let mut template = [0; V6_HEADER];
        for (to, from) in template.iter_mut().zip(&frame) {
            *to = *from;
        }
        let transport = ETHERNET + if to.is_ipv6() { 40 } else { 20 };
        Ok(Plan {
            template,
            length: self.length as u32,
            version: if to.is_ipv6() { 6 } else { 4 },
            checksum: (transport + self.checksum_offset()) as u32,
            first_source,
            port_bits: self.port_bits,
            first_port: FIRST_PORT,
            flows: self.flows,
            order: self.order as u32,
            packets_per_new_flow: 0,
            interval: 0,
            end_ns: 0,
            packets: u64::MAX,
            ifindex: self.ifindex,
            stamped: self.stamped.into(),
        })
    }

    /// A frame with zeros where the flow and the stamp go.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = self.macs.concat();
        let length = (self.length - ETHERNET) as u16;
        let protocol = if self.kind == Kind::Udp { 17 } else { 6 };
        let pseudo = match (self.source, self.destination.ip()) {
            (IpAddr::V4(_), IpAddr::V4(to)) => {
                frame.extend([8, 0, 0x45, 0]);
                frame.extend(length.to_be_bytes());
                frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 0, 0, 0, 0]);
                frame.extend(to.octets());
                let sum = checksum(&frame[ETHERNET..]);
                frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum);
                to.octets().to_vec()
            }
            (IpAddr::V6(from), to) => {
                let IpAddr::V6(to) = to else {
                    unreachable!("of one family: checked by the plan")
                };
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend((length - 40).to_be_bytes());
                frame.extend([protocol, 64]);
                let mut source = from.octets();
                source[12..].fill(0);
                frame.extend(source);
                frame.extend(to.octets());
                [source, to.octets()].concat()
            }
            _ => unreachable!("of one family: checked by the plan"),
        };
        let transport = frame.len();
        let payload = self.length - transport;
        frame.extend([0, 0]);
        frame.extend(self.destination.port().to_be_bytes());
        match self.kind {
            Kind::Udp => {
                frame.extend((payload as u16).to_be_bytes());
                frame.extend([0, 0]);
            }
            Kind::Tcp | Kind::Syn => {
                let (acknowledgement, flags) = if self.kind == Kind::Syn {
                    (0_u32, 0x02)
                } else {
                    (0x0102_0304, 0x18)
                };
                frame.extend(0x0a0b_0c0d_u32.to_be_bytes());
                frame.extend(acknowledgement.to_be_bytes());
                frame.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
            }
        }
        frame.resize(self.length, 0);
        let mut covered = pseudo;
        covered.extend((payload as u32).to_be_bytes());
        covered.extend([0, 0, 0, protocol]);
        covered.extend(&frame[transport..]);
        let sum = checksum(&covered);
        let at = transport + self.checksum_offset();
        frame[at..at + 2].copy_from_slice(&sum);
        frame
    }

    fn checksum_offset(&self) -> usize {
        if self.kind == Kind::Udp { 6 } else { 16 }
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

const _: () = assert!(MAGIC != 0);

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use lb_common::{
        frame::Frame as _,
        host::SliceFrame,
        load::{self, Progress},
    };

    use super::*;

    fn shape(kind: Kind, v6: bool, length: usize, stamped: bool) -> Shape {
        let (source, destination) = if v6 {
            ("2001:2::fffe", "[fd00:9::1]:443")
        } else {
            ("198.18.0.254", "10.9.0.1:443")
        };
        Shape {
            ifindex: 1,
            macs: [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]],
            source: source.parse().expect("an address"),
            destination: destination.parse().expect("an address"),
            kind,
            length,
            flows: 5000,
            port_bits: 8,
            order: Order::Random,
            stamped,
        }
    }

    #[test]
    fn every_packet_is_right_to_the_last_checksum() {
        for kind in [Kind::Udp, Kind::Tcp, Kind::Syn] {
            for v6 in [false, true] {
                for (length, stamped) in [(96, false), (96, true), (131, true), (1514, true)] {
                    let shape = shape(kind, v6, length, stamped);
                    let plan = shape.plan().expect("a valid shape");
                    let mut progress = Progress::default();
                    let mut frame = SliceFrame::new(&shape.frame(), 1);
                    // The same buffer again and again, as the kernel's pages are.
                    for number in 0..300 {
                        let flow = load::flow(&plan, &mut progress, number);
                        let stamp = stamped.then(|| Stamp::new(number, number * 7919));
                        load::write(&mut frame, &plan, flow, stamp).expect("it fits");
                        check(&shape, frame.bytes(), flow);
                        let found = load::stamp(&frame);
                        assert_eq!(found, stamp);
                        assert_eq!(frame.length(), length);
                    }
                }
            }
        }
    }

    fn check(shape: &Shape, frame: &[u8], flow: u32) {
        let packet = SlicedPacket::from_ethernet(frame).expect("a packet");
        let address = flow >> shape.port_bits;
        let port = (FIRST_PORT + (flow & ((1 << shape.port_bits) - 1))) as u16;
        let expected: IpAddr = match shape.source {
            IpAddr::V4(v4) => std::net::Ipv4Addr::from_bits(v4.to_bits() + address).into(),
            IpAddr::V6(v6) => {
                std::net::Ipv6Addr::from_bits(v6.to_bits() + u128::from(address)).into()
            }
        };
        let net = packet.net.as_ref().expect("IP");
        let source: IpAddr = match net {
            NetSlice::Ipv4(v4) => {
                let header = v4.header().to_header();
                assert_eq!(header.calc_header_checksum(), header.header_checksum);
                v4.header().source_addr().into()
            }
            NetSlice::Ipv6(v6) => v6.header().source_addr().into(),
            NetSlice::Arp(_) => panic!("IP"),
        };
        assert_eq!(source, expected);
        let (ports, sum, right) = match packet.transport.as_ref().expect("TCP or UDP") {
            TransportSlice::Udp(udp) => {
                let header = udp.to_header();
                let right = match net {
                    NetSlice::Ipv4(v4) => {
                        header.calc_checksum_ipv4(&v4.header().to_header(), udp.payload())
                    }
                    NetSlice::Ipv6(v6) => {
                        header.calc_checksum_ipv6(&v6.header().to_header(), udp.payload())
                    }
                    NetSlice::Arp(_) => panic!("IP"),
                };
                let ports = [header.source_port, header.destination_port];
                (ports, header.checksum, right.expect("short enough"))
            }
            TransportSlice::Tcp(tcp) => {
                let header = tcp.to_header();
                let right = match net {
                    NetSlice::Ipv4(v4) => {
                        header.calc_checksum_ipv4(&v4.header().to_header(), tcp.payload())
                    }
                    NetSlice::Ipv6(v6) => {
                        header.calc_checksum_ipv6(&v6.header().to_header(), tcp.payload())
                    }
                    NetSlice::Arp(_) => panic!("IP"),
                };
                assert_eq!(header.syn, shape.kind == Kind::Syn);
                let ports = [header.source_port, header.destination_port];
                (ports, header.checksum, right.expect("short enough"))
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(ports, [port, 443]);
        // Zero and all ones are one number in one's complement.
        assert!(
            sum == right || (sum == 0xffff && right == 0),
            "{sum:x} {right:x}"
        );
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        let refused = |change: fn(&mut Shape)| {
            let mut shape = shape(Kind::Udp, false, 96, true);
            change(&mut shape);
            shape.plan().expect_err("refused")
        };
        let to = |text: &str| -> SocketAddr { text.parse().expect("an address") };
        for unfit in [
            "224.0.0.18:1",
            "255.255.255.255:1",
            "0.0.0.0:1",
            "127.0.0.1:1",
        ] {
            let mut shape = shape(Kind::Udp, false, 96, true);
            shape.destination = to(unfit);
            assert_eq!(shape.plan(), Err(ShapeError::Destination(to(unfit).ip())));
        }
        assert!(matches!(
            refused(|shape| shape.source = "2001:2::1".parse().expect("an address")),
            ShapeError::Families { .. }
        ));
        assert_eq!(
            refused(|shape| shape.length = 59),
            ShapeError::Length {
                shortest: 60,
                length: 59
            }
        );
        assert!(matches!(
            refused(|shape| {
                shape.source = "255.255.255.250".parse().expect("an address");
            }),
            ShapeError::Sources { .. }
        ));
        assert_eq!(refused(|shape| shape.flows = 0), ShapeError::NoFlows);
        assert_eq!(
            refused(|shape| shape.port_bits = 16),
            ShapeError::PortBits(16)
        );
    }
}
