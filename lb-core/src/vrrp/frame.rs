//! An advert as an Ethernet frame: with a virtual MAC address it is sent from that address (RFC 9568 §7.3), which is how
//! switches learn behind which port it is now, and which no ordinary socket does.

use core::net::IpAddr;

use super::{Family, GROUP_V4, GROUP_V6, IP_PROTOCOL, TTL};

/// Network control (RFC 4594 §3.1, CS6).
pub const TRAFFIC_CLASS: u8 = 0xc0;
const DONT_FRAGMENT: u16 = 0x4000;

/// The frame, without its check sequence, of a multicast advert; `None` if the source is not of the family, or the payload is longer than an IP packet can say.
#[must_use]
pub fn frame(family: Family, mac: [u8; 6], source: &IpAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(payload.len()).ok()?;
    let mut frame = Vec::with_capacity(14 + 40 + payload.len());
    match (family, source) {
        (Family::V4, IpAddr::V4(source)) => {
            let [_, b, c, d] = GROUP_V4.octets();
            // RFC 1112 §6.4: the low 23 bits of the group.
            frame.extend([1, 0, 0x5e, b & 0x7f, c, d]);
            frame.extend(mac);
            frame.extend([8, 0]);
            let mut header = Vec::with_capacity(20);
            header.extend([0x45, TRAFFIC_CLASS]);
            header.extend(length.checked_add(20)?.to_be_bytes());
            header.extend([0, 0]);
            header.extend(DONT_FRAGMENT.to_be_bytes());
            header.extend([TTL, IP_PROTOCOL, 0, 0]);
            header.extend(source.octets());
            header.extend(GROUP_V4.octets());
            let checksum = !super::codec::fold(super::codec::sum(&header));
            header.splice(10..12, checksum.to_be_bytes());
            frame.extend(header);
        }
        (Family::V6, IpAddr::V6(source)) => {
            let [.., w, x, y, z] = GROUP_V6.octets();
            // RFC 2464 §7: the low 32 bits of the group.
            frame.extend([0x33, 0x33, w, x, y, z]);
            frame.extend(mac);
            frame.extend([0x86, 0xdd]);
            frame.extend([0x60 | TRAFFIC_CLASS >> 4, TRAFFIC_CLASS << 4, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([IP_PROTOCOL, TTL]);
            frame.extend(source.octets());
            frame.extend(GROUP_V6.octets());
        }
        _ => return None,
    }
    frame.extend(payload);
    Some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vrrp::virtual_mac;

    #[test]
    fn an_ipv4_frame_byte_by_byte() {
        let source = IpAddr::from([192, 0, 2, 1]);
        let mac = virtual_mac(Family::V4, 51);
        let frame = frame(Family::V4, mac, &source, &[0x31, 51]).expect("a frame");
        let expected = [
            0x01, 0x00, 0x5e, 0x00, 0x00, 0x12, 0x00, 0x00, 0x5e, 0x00, 0x01, 51, 0x08,
            0x00, // Ethernet
            0x45, 0xc0, 0x00, 22, 0x00, 0x00, 0x40, 0x00, 0xff, 112, 0xd8, 0xa3, // IPv4
            192, 0, 2, 1, 224, 0, 0, 18, 0x31, 51,
        ];
        assert_eq!(frame, expected);
    }

    #[test]
    fn an_ipv6_frame_goes_to_the_group_and_a_foreign_source_nowhere() {
        let local: IpAddr = "fe80::1".parse().expect("an address");
        let mac = virtual_mac(Family::V6, 51);
        let built = frame(Family::V6, mac, &local, &[0; 24]).expect("a frame");
        assert_eq!(
            built[..14],
            [0x33, 0x33, 0, 0, 0, 0x12, 0, 0, 0x5e, 0, 2, 51, 0x86, 0xdd]
        );
        assert_eq!(built[14..22], [0x6c, 0x00, 0, 0, 0, 24, 112, 255]);
        assert_eq!(built.len(), 14 + 40 + 24);
        assert_eq!(frame(Family::V4, mac, &local, &[]), None);
        let long = vec![0; 65_536];
        assert_eq!(frame(Family::V6, mac, &local, &long), None);
    }
}
