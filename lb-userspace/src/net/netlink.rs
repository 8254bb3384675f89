//! Two rtnetlink sockets with different failure modes: requests, where the kernel waits for the reader and nothing is
//! lost, and notifications, where a slow reader loses messages and must be told so.

use std::io;

use bytes::BytesMut;
use futures_util::{FutureExt, StreamExt};
use rtnetlink::{
    MulticastGroup,
    packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
    sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE},
};

/// Why the kernel could not be asked, or what it answered instead.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("cannot open a netlink socket: {0}")]
    Open(#[source] io::Error),
    #[error("cannot read netlink notifications: {0}")]
    Read(#[source] io::Error),
    #[error("the kernel refused to {what}: {source}{}", permission_hint(.source))]
    Refused {
        what: &'static str,
        source: io::Error,
    },
    #[error("the netlink socket closed while asked to {what}")]
    Closed { what: &'static str },
}

fn permission_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => " (run as root or with CAP_NET_ADMIN)",
        _ => "",
    }
}

impl NetlinkError {
    /// The kernel's error number, when it was the kernel that refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// Asks and tells the kernel. Cheap to clone; belongs to the network namespace of the thread that opened it.
#[derive(Debug, Clone)]
pub struct Netlink {
    handle: rtnetlink::Handle,
}

impl Netlink {
    /// Opens the socket and spawns its driver on the current tokio runtime; the driver ends with the last clone.
    pub fn open() -> Result<Self, NetlinkError> {
        let (driver, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Open)?;
        tokio::spawn(driver);
        Ok(Self { handle })
    }

    /// Every object of the kind that `message` asks for.
    pub async fn dump(
        &self,
        what: &'static str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.request(what, message, NLM_F_DUMP).await
    }

    /// One question, its answers.
    pub async fn ask(
        &self,
        what: &'static str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.request(what, message, 0).await
    }

    /// One change; returns when the kernel has made it.
    pub async fn change(
        &self,
        what: &'static str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        self.request(what, message, NLM_F_ACK | flags)
            .await
            .map(drop)
    }

    async fn request(
        &self,
        what: &'static str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        let mut handle = self.handle.clone();
        let mut answers = handle
            .request(request)
            .map_err(|_| NetlinkError::Closed { what })?;
        let mut found = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(inner) => found.push(inner),
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(NetlinkError::Refused {
                        what,
                        source: error.to_io(),
                    });
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

/// What a notification socket delivered.
#[derive(Debug)]
pub enum Heard {
    Messages(Vec<Notification>),
    /// The kernel dropped notifications because the receive buffer was full (`ENOBUFS`): whatever was built from
    /// them is out of date.
    Lost,
}

#[derive(Debug)]
pub enum Notification {
    Route(Box<RouteNetlinkMessage>),
    /// A nexthop object changed (`RTM_NEWNEXTHOP`, `RTM_DELNEXTHOP`), which changes routes without naming them.
    NexthopObject,
}

/// Notifications about links, addresses, routes, rules and neighbours.
pub struct Monitor {
    socket: TokioSocket,
    buffer: BytesMut,
}

const GROUPS: [MulticastGroup; 9] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Nexthop,
];

/// The largest datagram that the kernel builds for a notification or dump (32 KiB since Linux 4.9), and some.
const DATAGRAM_BYTES: usize = 64 * 1024;
const HEADER_BYTES: usize = 16;
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;

impl Monitor {
    /// Subscribes. `receive_buffer_bytes` bounds what may queue before messages are lost; the kernel caps it at
    /// `net.core.rmem_max`.
    pub fn open(receive_buffer_bytes: usize) -> Result<Self, NetlinkError> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(NetlinkError::Open)?;
        let inner = socket.socket_mut();
        inner
            .set_rx_buf_sz(i32::try_from(receive_buffer_bytes).unwrap_or(i32::MAX))
            .map_err(NetlinkError::Open)?;
        inner
            .bind(&SocketAddr::new(0, 0))
            .map_err(NetlinkError::Open)?;
        for group in GROUPS {
            inner
                .add_membership(group as u32)
                .map_err(NetlinkError::Open)?;
        }
        Ok(Self {
            socket,
            buffer: BytesMut::with_capacity(DATAGRAM_BYTES),
        })
    }

    /// Waits for the next datagram. Cancel safe.
    pub async fn next(&mut self) -> Result<Heard, NetlinkError> {
        self.buffer.clear();
        self.buffer.reserve(DATAGRAM_BYTES);
        match self.socket.recv_from(&mut self.buffer).await {
            // Port 0 is the kernel.
            Ok(from) if from.port_number() == 0 => Ok(Heard::Messages(messages(&self.buffer))),
            Ok(_) => Ok(Heard::Messages(Vec::new())),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(Heard::Lost),
            Err(error) => Err(NetlinkError::Read(error)),
        }
    }

    /// The next datagram if it is there already.
    pub fn try_next(&mut self) -> Option<Result<Heard, NetlinkError>> {
        self.next().now_or_never()
    }
}

fn messages(mut datagram: &[u8]) -> Vec<Notification> {
    let mut found = Vec::new();
    while let Some(header) = datagram.first_chunk::<HEADER_BYTES>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let Some(message) = datagram
            .get(..length)
            .filter(|message| message.len() >= HEADER_BYTES)
        else {
            break;
        };
        if matches!(kind, RTM_NEWNEXTHOP | RTM_DELNEXTHOP) {
            found.push(Notification::NexthopObject);
        } else {
            match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) {
                Ok(NetlinkMessage {
                    payload: NetlinkPayload::InnerMessage(inner),
                    ..
                }) => {
                    found.push(Notification::Route(Box::new(inner)));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(kind, %error, "a netlink notification could not be read")
                }
            }
        }
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((HEADER_BYTES as u32 + payload.len() as u32).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_datagram_may_hold_several_messages_and_unreadable_ones_are_skipped() {
        let mut datagram = message(RTM_NEWNEXTHOP, &[1, 2, 3]);
        datagram.extend(message(28, &[0xff])); // RTM_NEWNEIGH, too short for its header
        datagram.extend(message(RTM_DELNEXTHOP, &[]));
        assert_eq!(messages(&datagram).len(), 2);
    }

    #[test]
    fn lengths_that_lie_end_the_datagram() {
        for length in [0u32, 15, 17, 4000, u32::MAX] {
            let mut datagram = message(RTM_NEWNEXTHOP, &[]);
            datagram[..4].copy_from_slice(&length.to_ne_bytes());
            assert!(messages(&datagram).is_empty(), "{length}");
        }
        assert!(messages(&[1, 2, 3]).is_empty());
    }
}
