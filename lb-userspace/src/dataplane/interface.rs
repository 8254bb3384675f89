//! What XDP program an interface runs, asked of the kernel: bpf(2) answers this for links only.

use std::{ffi::CString, fmt, io};

use rtnetlink::{
    packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};
use serde::Serialize;

/// Where in the receive path a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachedMode {
    /// In the driver, before the kernel has made anything of the frame.
    Native,
    /// In the kernel's stack, on a packet that costs as much as any other already.
    Generic,
    /// In the network card, or in several places at once; never Futago's own.
    Other,
}

impl fmt::Display for AttachedMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Other => "other",
        })
    }
}

/// The program of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    pub program_id: u32,
    pub mode: AttachedMode,
}

/// Number of the interface in this network namespace; `None` if there is no such interface.
pub fn index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name ends in a zero byte and outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

/// The XDP program that runs on an interface, whoever attached it.
pub fn attached(ifindex: u32) -> io::Result<Option<Attached>> {
    let link = get_link(ifindex)?;
    let attributes = link
        .attributes
        .into_iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Xdp(attributes) => Some(attributes),
            _ => None,
        });
    let mut mode = None;
    let mut program_id = None;
    for attribute in attributes.unwrap_or_default() {
        match attribute {
            LinkXdp::Attached(XdpAttached::None) => return Ok(None),
            LinkXdp::Attached(XdpAttached::Driver) => mode = Some(AttachedMode::Native),
            LinkXdp::Attached(XdpAttached::SocketBuffer) => mode = Some(AttachedMode::Generic),
            LinkXdp::Attached(_) => mode = Some(AttachedMode::Other),
            LinkXdp::ProgId(id)
            | LinkXdp::DrvProgId(id)
            | LinkXdp::SkbProgId(id)
            | LinkXdp::HwProgId(id) => program_id = Some(id),
            _ => {}
        }
    }
    Ok(mode.map(|mode| Attached {
        program_id: program_id.unwrap_or_default(),
        mode,
    }))
}

fn get_link(ifindex: u32) -> io::Result<LinkMessage> {
    let mut query = LinkMessage::default();
    query.header.index = ifindex;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let payload = NetlinkPayload::from(RouteNetlinkMessage::GetLink(query));
    let mut query = NetlinkMessage::new(header, payload);
    query.finalize();
    let mut buffer = vec![0; query.buffer_len()];
    query.serialize(&mut buffer);

    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&buffer, 0)?;
    // The kernel puts the answer into the socket's queue before `send` returns.
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer);
    match answer.map_err(io::Error::other)?.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(link),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        other => Err(io::Error::other(format!(
            "unexpected answer to RTM_GETLINK: {other:?}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_exists_and_runs_nothing() {
        let index = index("lo").expect("loopback");
        assert_eq!(attached(index).expect("netlink"), None);
    }

    #[test]
    fn what_does_not_exist_is_told_apart() {
        assert_eq!(index("no-such-if0"), None);
        assert_eq!(index("with\0zero"), None);
        let error = attached(u32::MAX >> 1).expect_err("no such interface");
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }
}
