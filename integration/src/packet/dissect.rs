//! What an independent parser makes of a frame, with all checksums recomputed in full.

use std::net::IpAddr;

use etherparse::{Icmpv4Header, LinkExtSlice, LinkSlice, NetSlice, SlicedPacket, TransportSlice};

use super::frame::Mac;

/// A frame that holds together: lengths fit, checksums are right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dissected {
    /// Destination, source.
    pub macs: [Mac; 2],
    /// VLAN ids, outermost first.
    pub vlans: Vec<u16>,
    /// Source, destination.
    pub addresses: [IpAddr; 2],
    pub hops: u8,
    /// Source, destination; `None` if it is neither TCP nor UDP or only a part of a packet.
    pub ports: Option<[u16; 2]>,
    /// An ICMP message; its checksum is right, too.
    pub icmp: bool,
    /// Of TCP or UDP; else of IP.
    pub payload: Vec<u8>,
}

/// Takes a frame apart.
///
/// # Errors
/// What is wrong with it, in words.
pub fn dissect(frame: &[u8]) -> Result<Dissected, String> {
    let packet = SlicedPacket::from_ethernet(frame).map_err(|error| error.to_string())?;
    let Some(LinkSlice::Ethernet2(ethernet)) = &packet.link else {
        return Err("no Ethernet header".to_owned());
    };
    let vlans = packet.link_exts.iter().map(|extension| match extension {
        LinkExtSlice::Vlan(tag) => Ok(tag.vlan_identifier().value()),
        LinkExtSlice::Macsec(_) => Err("MACsec".to_owned()),
    });
    let (addresses, hops, payload) = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            let computed = header.calc_header_checksum();
            same("IPv4", header.header_checksum, computed)?;
            let addresses = [header.source.into(), header.destination.into()];
            (addresses, header.time_to_live, ip.payload())
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header().to_header();
            let addresses = [header.source.into(), header.destination.into()];
            (addresses, header.hop_limit, ip.payload())
        }
        _ => return Err("not IP".to_owned()),
    };
    let (ports, payload) = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let computed = match addresses {
                [IpAddr::V4(a), IpAddr::V4(b)] => tcp.calc_checksum_ipv4(a.octets(), b.octets()),
                [IpAddr::V6(a), IpAddr::V6(b)] => tcp.calc_checksum_ipv6(a.octets(), b.octets()),
                _ => return Err("two families".to_owned()),
            };
            let computed = computed.map_err(|error| error.to_string())?;
            same("TCP", tcp.checksum(), computed)?;
            let ports = [tcp.source_port(), tcp.destination_port()];
            (Some(ports), tcp.payload())
        }
        Some(TransportSlice::Udp(udp)) => {
            let header = udp.to_header();
            if usize::from(udp.length()) != payload.payload.len() {
                return Err(format!("UDP length {}", udp.length()));
            }
            let data = udp.payload();
            let computed = match addresses {
                [IpAddr::V4(a), IpAddr::V4(b)] => {
                    header.calc_checksum_ipv4_raw(a.octets(), b.octets(), data)
                }
                [IpAddr::V6(a), IpAddr::V6(b)] => {
                    header.calc_checksum_ipv6_raw(a.octets(), b.octets(), data)
                }
                _ => return Err("two families".to_owned()),
            };
            let computed = computed.map_err(|error| error.to_string())?;
            if udp.checksum() != 0 {
                same("UDP", udp.checksum(), computed)?;
            }
            (Some([udp.source_port(), udp.destination_port()]), data)
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            let full = Icmpv4Header::with_checksum(icmp.icmp_type(), icmp.payload());
            same("ICMP", icmp.header().checksum, full.checksum)?;
            (None, payload.payload)
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            let [IpAddr::V6(a), IpAddr::V6(b)] = addresses else {
                return Err("two families".to_owned());
            };
            let valid = icmp.is_checksum_valid(a.octets(), b.octets());
            if !valid {
                return Err("ICMPv6 checksum".to_owned());
            }
            (None, payload.payload)
        }
        _ => (None, payload.payload),
    };
    let icmp = matches!(
        packet.transport,
        Some(TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_))
    );
    Ok(Dissected {
        macs: [ethernet.destination(), ethernet.source()],
        vlans: vlans.collect::<Result<_, _>>()?,
        addresses,
        hops,
        ports,
        icmp,
        payload: payload.to_vec(),
    })
}

fn same(of: &str, is: u16, should: u16) -> Result<(), String> {
    if is == should {
        return Ok(());
    }
    Err(format!("{of} checksum is {is:04x}, not {should:04x}"))
}
