//! Tells the segment which MAC a VIP has now: gratuitous ARP for IPv4, unsolicited neighbour advertisements for IPv6.
//! Building the frames is pure; repeats and refresh are the caller's, who knows about roles and time.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use super::Mac;

/// One VIP to be announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcement {
    pub vip: IpAddr,
    pub mac: Mac,
    pub arp: ArpForm,
    /// IPv6: sets the router flag, which must say what the host's own advertisements say: true where IPv6 forwarding is
    /// on (nodes that see it fall drop the sender as their router, RFC 4861 §7.2.5).
    pub router: bool,
}

/// Which ARP operation carries the news. RFC 5227 §3 prefers the request; some switches and hosts heed only
/// replies, so the default is to send both, as two frames of 60 bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ArpForm {
    Request,
    Reply,
    #[default]
    Both,
}

impl Announcement {
    /// The frames to send, each without the frame check sequence.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        match self.vip {
            IpAddr::V4(vip) => {
                let operations: &[u16] = match self.arp {
                    ArpForm::Request => &[ARP_REQUEST],
                    ArpForm::Reply => &[ARP_REPLY],
                    ArpForm::Both => &[ARP_REQUEST, ARP_REPLY],
                };
                operations
                    .iter()
                    .map(|operation| gratuitous_arp(*operation, vip, self.mac))
                    .collect()
            }
            IpAddr::V6(vip) => vec![unsolicited_advertisement(vip, self.mac, self.router)],
        }
    }
}

const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Shortest Ethernet frame without frame check sequence.
const SHORTEST_FRAME_BYTES: usize = 60;

fn ethernet(destination: Mac, source: Mac, ethertype: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(86);
    frame.extend(destination);
    frame.extend(source);
    frame.extend(ethertype.to_be_bytes());
    frame
}

fn gratuitous_arp(operation: u16, vip: Ipv4Addr, mac: Mac) -> Vec<u8> {
    let mut frame = ethernet([0xff; 6], mac, ETHERTYPE_ARP);
    // Ethernet (1), IPv4, and their address lengths.
    frame.extend([0, 1, 8, 0, 6, 4]);
    frame.extend(operation.to_be_bytes());
    frame.extend(mac);
    frame.extend(vip.octets());
    // RFC 5227 §2.3: the target hardware address of an announcement is ignored and should be zero. RFC 2002 §4.6
    // wants the sender's in a reply.
    frame.extend(if operation == ARP_REPLY { mac } else { [0; 6] });
    frame.extend(vip.octets());
    frame.resize(SHORTEST_FRAME_BYTES, 0);
    frame
}

/// RFC 4861 §4.4, §7.2.6; sent from the VIP to all nodes.
fn unsolicited_advertisement(vip: Ipv6Addr, mac: Mac, router: bool) -> Vec<u8> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
    const NEXT_HEADER_ICMPV6: u8 = 58;
    const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    const ROUTER: u8 = 0x80;
    const OVERRIDE: u8 = 0x20;
    const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
    const MESSAGE_BYTES: u16 = 32;

    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0];
    message.extend([OVERRIDE | if router { ROUTER } else { 0 }, 0, 0, 0]);
    message.extend(vip.octets());
    // Option length in units of 8 bytes.
    message.extend([TARGET_LINK_LAYER_ADDRESS, 1]);
    message.extend(mac);

    let mut pseudo_header = Vec::with_capacity(72);
    pseudo_header.extend(vip.octets());
    pseudo_header.extend(ALL_NODES.octets());
    pseudo_header.extend(u32::from(MESSAGE_BYTES).to_be_bytes());
    pseudo_header.extend([0, 0, 0, NEXT_HEADER_ICMPV6]);
    pseudo_header.extend(&message);
    let checksum = internet_checksum(&pseudo_header).to_be_bytes();
    message.splice(2..4, checksum);

    let mut frame = ethernet(ALL_NODES_MAC, mac, ETHERTYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(MESSAGE_BYTES.to_be_bytes());
    // Receivers discard neighbour discovery that does not arrive with hop limit 255 (RFC 4861 §7.1.2).
    frame.extend([NEXT_HEADER_ICMPV6, 255]);
    frame.extend(vip.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

/// RFC 1071, of an even number of bytes.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let (words, _) = bytes.as_chunks::<2>();
    let mut sum: u32 = words
        .iter()
        .map(|word| u32::from(u16::from_be_bytes(*word)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A raw socket that sends frames out of one interface and receives nothing. On a VLAN device the kernel adds the tag.
#[derive(Debug)]
pub struct Announcer {
    socket: OwnedFd,
    ifindex: u32,
}

/// Why frames could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    #[error("cannot open a packet socket (run as root or with CAP_NET_RAW): {0}")]
    Open(#[source] io::Error),
    #[error("cannot send out of interface number {ifindex}: {source}")]
    Send { ifindex: u32, source: io::Error },
}

impl Announcer {
    /// Opens a socket for the interface, in the network namespace of the calling thread. It stays valid while the
    /// interface exists; a new interface of the same name needs a new one.
    pub fn open(ifindex: u32) -> Result<Self, AnnounceError> {
        // Protocol 0: nothing is delivered to this socket.
        // SAFETY: socket(2) takes no pointers.
        let fd = unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
                0,
            )
        };
        if fd < 0 {
            return Err(AnnounceError::Open(io::Error::last_os_error()));
        }
        // SAFETY: the descriptor was just returned to us and nobody else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { socket, ifindex })
    }

    /// Sends all frames of one announcement, once. Does not wait.
    pub fn send(&self, announcement: &Announcement) -> Result<(), AnnounceError> {
        announcement
            .frames()
            .iter()
            .try_for_each(|frame| self.send_frame(frame))
    }

    /// Sends one frame as it is.
    pub fn send_frame(&self, frame: &[u8]) -> Result<(), AnnounceError> {
        let failed = |source| AnnounceError::Send {
            ifindex: self.ifindex,
            source,
        };
        // SAFETY: sockaddr_ll is plain integers, for which all zeroes is a value.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_protocol = frame.get(12..14).map_or(0, |ethertype| {
            u16::from_ne_bytes([ethertype[0], ethertype[1]])
        });
        to.sll_ifindex =
            i32::try_from(self.ifindex).map_err(|error| failed(io::Error::other(error)))?;
        // SAFETY: both pointers are valid for the lengths given with them, for the duration of the call.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if sent < 0 {
            Err(failed(io::Error::last_os_error()))
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{
        ArpHardwareId, ArpOperation, EtherType, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice,
    };

    const MAC: Mac = [2, 0, 0, 0xaa, 0xbb, 0xcc];

    fn announcement(vip: &str) -> Announcement {
        Announcement {
            vip: vip.parse().expect("test data"),
            mac: MAC,
            arp: ArpForm::default(),
            router: false,
        }
    }

    #[test]
    fn gratuitous_arp_is_a_request_and_a_reply_for_the_vip_by_its_owner() {
        let frames = announcement("192.0.2.80").frames();
        let mut operations = Vec::new();
        for frame in &frames {
            assert!(frame.len() >= 60);
            let packet = SlicedPacket::from_ethernet(frame).expect("test data");
            let link = packet
                .link
                .expect("test data")
                .to_header()
                .expect("test data")
                .ethernet2()
                .expect("test data");
            assert_eq!((link.source, link.destination), (MAC, [0xff; 6]));
            let Some(NetSlice::Arp(arp)) = packet.net else {
                panic!("not ARP")
            };
            assert_eq!(arp.hw_addr_type(), ArpHardwareId::ETHERNET);
            assert_eq!(arp.proto_addr_type(), EtherType::IPV4);
            assert_eq!(
                (arp.sender_hw_addr(), arp.sender_protocol_addr()),
                (&MAC[..], &[192, 0, 2, 80][..])
            );
            assert_eq!(arp.target_protocol_addr(), [192, 0, 2, 80]);
            operations.push(arp.operation());
        }
        assert_eq!(operations, [ArpOperation::REQUEST, ArpOperation::REPLY]);
    }

    #[test]
    fn one_form_is_one_frame() {
        for (arp, operation) in [(ArpForm::Request, 1), (ArpForm::Reply, 2)] {
            let frames = Announcement {
                arp,
                ..announcement("192.0.2.80")
            }
            .frames();
            assert_eq!(frames.len(), 1);
            assert_eq!(frames[0][20..22], [0, operation]);
        }
    }

    #[test]
    fn the_advertisement_overrides_and_has_the_checksum_that_others_compute() {
        for (router, first) in [(false, 0x20), (true, 0xa0)] {
            let frames = Announcement {
                router,
                ..announcement("2001:db8::80")
            }
            .frames();
            let [frame] = frames.as_slice() else {
                panic!("one frame")
            };
            let packet = SlicedPacket::from_ethernet(frame).expect("test data");
            let link = packet
                .link
                .expect("test data")
                .to_header()
                .expect("test data")
                .ethernet2()
                .expect("test data");
            assert_eq!(
                (link.source, link.destination),
                (MAC, [0x33, 0x33, 0, 0, 0, 1])
            );
            let Some(NetSlice::Ipv6(ip)) = packet.net else {
                panic!("not IPv6")
            };
            let header = ip.header();
            assert_eq!(header.hop_limit(), 255);
            let (from, to) = (header.source_addr(), header.destination_addr());
            assert_eq!(
                (from, to),
                (
                    "2001:db8::80".parse().expect("test data"),
                    "ff02::1".parse().expect("test data")
                )
            );
            let Some(TransportSlice::Icmpv6(icmp)) = packet.transport else {
                panic!("not ICMPv6")
            };
            assert!(icmp.is_checksum_valid(from.octets(), to.octets()));
            let Icmpv6Type::NeighborAdvertisement(flags) = icmp.icmp_type() else {
                panic!("not an advertisement")
            };
            assert_eq!(
                (flags.router, flags.solicited, flags.r#override),
                (router, false, true)
            );
            assert_eq!(icmp.slice()[4], first);
            assert_eq!(icmp.payload()[..16], from.octets());
            assert_eq!(icmp.payload()[16..], [2, 1, 2, 0, 0, 0xaa, 0xbb, 0xcc]);
        }
    }
}
