//! Raw sockets of the election: VRRP over IPv4 and IPv6, and the echo, each bound to one interface and never waiting.

use std::{
    io,
    mem::size_of,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use lb_core::vrrp::{Family, GROUP_V4, GROUP_V6, IP_PROTOCOL, TTL, codec::Meta, echo};

use crate::net::Mac;

/// Network control (RFC 4594 §3.1, CS6).
const TRAFFIC_CLASS: i32 = 0xc0;
/// Shortest Ethernet payload.
const SHORTEST_PAYLOAD: usize = 46;
const RECEIVE_BUFFER: i32 = 1 << 20;

/// Sends and receives adverts on one interface, in one family.
#[derive(Debug)]
pub struct VrrpSocket {
    fd: OwnedFd,
    pub family: Family,
    pub ifindex: u32,
}

impl VrrpSocket {
    pub fn open(family: Family, ifindex: u32, interface: &str) -> io::Result<Self> {
        let domain = match family {
            Family::V4 => libc::AF_INET,
            Family::V6 => libc::AF_INET6,
        };
        let fd = socket(domain, libc::SOCK_RAW, i32::from(IP_PROTOCOL))?;
        set_bytes(
            &fd,
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            interface.as_bytes(),
        )?;
        set(&fd, libc::SOL_SOCKET, libc::SO_PRIORITY, &6_i32)?;
        // A full buffer after a stall would hide what decides about it; the system's limit may be lower.
        let _ = set(&fd, libc::SOL_SOCKET, libc::SO_RCVBUF, &RECEIVE_BUFFER);
        let ttl = i32::from(TTL);
        match family {
            Family::V4 => {
                let group = libc::ip_mreqn {
                    imr_multiaddr: in_addr(GROUP_V4),
                    imr_address: in_addr(Ipv4Addr::UNSPECIFIED),
                    imr_ifindex: index(ifindex)?,
                };
                set(&fd, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &group)?;
                set(&fd, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &group)?;
                set(&fd, libc::IPPROTO_IP, libc::IP_MULTICAST_TTL, &ttl)?;
                set(&fd, libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP, &0_i32)?;
                set(&fd, libc::IPPROTO_IP, libc::IP_TTL, &ttl)?;
                set(&fd, libc::IPPROTO_IP, libc::IP_TOS, &TRAFFIC_CLASS)?;
            }
            Family::V6 => {
                let interface = index(ifindex)?;
                let group = libc::ipv6_mreq {
                    ipv6mr_multiaddr: in6_addr(GROUP_V6),
                    ipv6mr_interface: ifindex,
                };
                let level = libc::IPPROTO_IPV6;
                set(&fd, level, libc::IPV6_MULTICAST_IF, &interface)?;
                set(&fd, level, libc::IPV6_ADD_MEMBERSHIP, &group)?;
                set(&fd, level, libc::IPV6_MULTICAST_HOPS, &ttl)?;
                set(&fd, level, libc::IPV6_MULTICAST_LOOP, &0_i32)?;
                set(&fd, level, libc::IPV6_UNICAST_HOPS, &ttl)?;
                set(&fd, level, libc::IPV6_TCLASS, &TRAFFIC_CLASS)?;
                set(&fd, level, libc::IPV6_RECVHOPLIMIT, &1_i32)?;
                set(&fd, level, libc::IPV6_RECVPKTINFO, &1_i32)?;
            }
        }
        Ok(Self {
            fd,
            family,
            ifindex,
        })
    }

    /// Sends one message from one of the interface's addresses.
    pub fn send(&self, source: IpAddr, destination: IpAddr, payload: &[u8]) -> io::Result<()> {
        let mut control = Control::default();
        let mut storage = Storage::default();
        let name = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: index(self.ifindex)?,
                    ipi_spec_dst: in_addr(source),
                    ipi_addr: in_addr(Ipv4Addr::UNSPECIFIED),
                };
                control.put(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
                storage.put(&libc::sockaddr_in {
                    sin_family: libc::AF_INET as u16,
                    sin_port: 0,
                    sin_addr: in_addr(destination),
                    sin_zero: [0; 8],
                })
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: in6_addr(source),
                    ipi6_ifindex: self.ifindex,
                };
                control.put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
                storage.put(&libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as u16,
                    sin6_port: 0,
                    sin6_flowinfo: 0,
                    sin6_addr: in6_addr(destination),
                    sin6_scope_id: self.ifindex,
                })
            }
            _ => return Err(io::Error::from(io::ErrorKind::InvalidInput)),
        };
        let mut part = libc::iovec {
            iov_base: payload.as_ptr().cast_mut().cast(),
            iov_len: payload.len(),
        };
        // SAFETY: plain integers and pointers, for which all zeroes is a value.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = (&raw mut storage).cast();
        message.msg_namelen = name;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.bytes.as_mut_ptr().cast();
        message.msg_controllen = control.length;
        // SAFETY: all that the header points to lives until the call returns and is as long as said; the payload is only
        // read.
        let sent = unsafe { libc::sendmsg(self.fd.as_raw_fd(), &raw const message, 0) };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// The next message that waits, as the payload's place in `buffer`; `None` if none does.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<(Meta, std::ops::Range<usize>)>> {
        let mut control = Control::default();
        let mut storage = Storage::default();
        let mut part = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        // SAFETY: as in `send`.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = (&raw mut storage).cast();
        message.msg_namelen = size_of::<Storage>() as u32;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.bytes.as_mut_ptr().cast();
        message.msg_controllen = control.bytes.len();
        // SAFETY: as in `send`; buffers are writable and as long as said.
        let got = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, 0) };
        let Ok(length) = usize::try_from(got) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock => Ok(None),
                _ => Err(error),
            };
        };
        let Some(packet) = buffer.get(..length) else {
            return Ok(None);
        };
        Ok(Some(match self.family {
            Family::V4 => v4_meta(packet).unwrap_or((UNKNOWN, 0..0)),
            Family::V6 => {
                control.length = message.msg_controllen;
                let source = storage.v6().unwrap_or(Ipv6Addr::UNSPECIFIED);
                (control.v6_meta(source), 0..length)
            }
        }))
    }
}

impl AsRawFd for VrrpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// What no router takes: counted as too short.
const UNKNOWN: Meta = Meta {
    source: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    destination: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    ttl: 0,
};

/// A raw IPv4 socket delivers the header (raw(7)).
fn v4_meta(packet: &[u8]) -> Option<(Meta, std::ops::Range<usize>)> {
    let header: &[u8; 20] = packet.first_chunk()?;
    let length = usize::from(header[0] & 0xf) * 4;
    let address = |at: usize| {
        let octets: [u8; 4] = *header.get(at..)?.first_chunk()?;
        Some(IpAddr::V4(octets.into()))
    };
    let meta = Meta {
        source: address(12)?,
        destination: address(16)?,
        ttl: header[8],
    };
    (length >= 20 && length <= packet.len()).then_some((meta, length..packet.len()))
}

/// Asks and answers the echo on one interface.
#[derive(Debug)]
pub struct EchoSocket {
    fd: OwnedFd,
    pub ifindex: u32,
}

impl EchoSocket {
    pub fn open(ifindex: u32) -> io::Result<Self> {
        let fd = socket(
            libc::AF_PACKET,
            libc::SOCK_DGRAM,
            i32::from(echo::ETHERTYPE.to_be()),
        )?;
        let address = link_address(ifindex, [0; 6])?;
        // SAFETY: the address is valid for the length given, for the duration of the call.
        let bound = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        if bound < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { fd, ifindex })
    }

    pub fn send(&self, to: Mac, frame: &[u8; echo::FRAME_LEN]) -> io::Result<()> {
        let mut padded = [0; SHORTEST_PAYLOAD];
        for (place, byte) in padded.iter_mut().zip(frame) {
            *place = *byte;
        }
        let address = link_address(self.ifindex, to)?;
        // SAFETY: both pointers are valid for the lengths given, for the duration of the call.
        let sent = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                padded.as_ptr().cast(),
                padded.len(),
                0,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// The next frame that waits and who sent it.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<(Mac, usize)>> {
        // SAFETY: plain integers, for which all zeroes is a value.
        let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: all pointers are valid for the lengths given, for the duration of the call.
        let got = unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
                (&raw mut from).cast(),
                &raw mut length,
            )
        };
        let Ok(got) = usize::try_from(got) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock => Ok(None),
                _ => Err(error),
            };
        };
        let [a, b, c, d, e, f, ..] = from.sll_addr;
        Ok(Some(([a, b, c, d, e, f], got)))
    }
}

impl AsRawFd for EchoSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

fn link_address(ifindex: u32, mac: Mac) -> io::Result<libc::sockaddr_ll> {
    let [a, b, c, d, e, f] = mac;
    Ok(libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: echo::ETHERTYPE.to_be(),
        sll_ifindex: index(ifindex)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [a, b, c, d, e, f, 0, 0],
    })
}

fn socket(domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    let kind = kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket(2) takes no pointers.
    let fd = unsafe { libc::socket(domain, kind, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just returned to us and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set<T>(fd: &OwnedFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: the value is valid for its own size, for the duration of the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const *value).cast(),
            size_of::<T>() as u32,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn set_bytes(fd: &OwnedFd, level: i32, option: i32, value: &[u8]) -> io::Result<()> {
    let length = u32::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the bytes are valid for the length given, for the duration of the call.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, value.as_ptr().cast(), length) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn index(ifindex: u32) -> io::Result<i32> {
    i32::try_from(ifindex).map_err(io::Error::other)
}

fn in_addr(address: Ipv4Addr) -> libc::in_addr {
    libc::in_addr {
        s_addr: u32::from_ne_bytes(address.octets()),
    }
}

fn in6_addr(address: Ipv6Addr) -> libc::in6_addr {
    libc::in6_addr {
        s6_addr: address.octets(),
    }
}

/// Room for a socket address of either family.
#[repr(C, align(8))]
#[derive(Default)]
struct Storage([u8; 28]);

impl Storage {
    /// Its length in bytes.
    fn put<T>(&mut self, address: &T) -> u32 {
        const { assert!(size_of::<T>() <= size_of::<Self>()) };
        // SAFETY: checked to fit; addresses are plain integers without padding that matters.
        unsafe {
            std::ptr::copy_nonoverlapping(
                (&raw const *address).cast::<u8>(),
                self.0.as_mut_ptr(),
                size_of::<T>(),
            );
        }
        size_of::<T>() as u32
    }

    /// The address of a `sockaddr_in6`: after family, port and flow label.
    fn v6(&self) -> Option<Ipv6Addr> {
        let octets: [u8; 16] = *self.0.get(8..)?.first_chunk()?;
        Some(octets.into())
    }
}

/// Ancillary data: a few `cmsghdr` with their values.
#[repr(C, align(8))]
struct Control {
    bytes: [u8; 128],
    length: usize,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            bytes: [0; 128],
            length: 0,
        }
    }
}

/// `struct cmsghdr` on 64-bit Linux: length with the header (8 bytes), level, type.
const CONTROL_HEADER: usize = size_of::<libc::cmsghdr>();

impl Control {
    fn put<T>(&mut self, level: i32, kind: i32, value: &T) {
        const { assert!(CONTROL_HEADER + size_of::<T>() <= 128) };
        let header = libc::cmsghdr {
            cmsg_len: CONTROL_HEADER + size_of::<T>(),
            cmsg_level: level,
            cmsg_type: kind,
        };
        // SAFETY: the buffer is aligned for the header, and header and value fit, as checked.
        unsafe {
            self.bytes
                .as_mut_ptr()
                .cast::<libc::cmsghdr>()
                .write(header);
            std::ptr::copy_nonoverlapping(
                (&raw const *value).cast::<u8>(),
                self.bytes.as_mut_ptr().add(CONTROL_HEADER),
                size_of::<T>(),
            );
        }
        self.length = (CONTROL_HEADER + size_of::<T>()).next_multiple_of(size_of::<usize>());
    }

    /// Hop limit and destination of a received IPv6 packet.
    fn v6_meta(&self, source: Ipv6Addr) -> Meta {
        let mut meta = Meta {
            source: IpAddr::V6(source),
            destination: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            ttl: 0,
        };
        let word = |bytes: &[u8], at: usize| -> Option<i32> {
            Some(i32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
        };
        let mut rest = self.bytes.get(..self.length).unwrap_or_default();
        while let Some(length) = rest.first_chunk().map(|bytes| usize::from_ne_bytes(*bytes)) {
            let Some(value) = rest.get(CONTROL_HEADER..length) else {
                break;
            };
            let kind = (word(rest, 8), word(rest, 12));
            if kind == (Some(libc::IPPROTO_IPV6), Some(libc::IPV6_HOPLIMIT)) {
                meta.ttl = word(value, 0)
                    .and_then(|ttl| u8::try_from(ttl).ok())
                    .unwrap_or(0);
            } else if kind == (Some(libc::IPPROTO_IPV6), Some(libc::IPV6_PKTINFO))
                && let Some(octets) = value.first_chunk::<16>()
            {
                meta.destination = IpAddr::V6((*octets).into());
            }
            let next = length.next_multiple_of(size_of::<usize>());
            rest = rest.get(next..).unwrap_or_default();
        }
        meta
    }
}
