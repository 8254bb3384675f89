//! What a veth pair needs before an XDP program at one end behaves as on a network card.
//!
//! Tried on kernel 6.18 only; `integration/tests/veth.rs` repeats what is marked *tested*.
//!
//! * **Partial checksums** (*tested*). A veth hands packets over with the checksum "to be filled in by hardware" that never
//!   comes; a program that rewrites addresses then updates garbage. One end on the way with transmit checksums off is
//!   enough to complete them: the sender's or the port's that leads to the receiver. Both are off, so that a capture
//!   anywhere on the way is right too.
//! * **Frame size** (*tested* with all of it off, not one by one). TSO and generic segmentation are off, so that no frame is
//!   larger than the MTU. Flags for GRE, SCTP and the like stay on.
//! * **XDP_TX** at one end is delivered only if the other end runs an XDP program, [`crate::xdp::PASS`] (*tested*). With GRO in
//!   its place, frames wait in a queue until an ordinary frame of the same sender wakes it (*tested*): a few stray packets,
//!   such as IPv6's at start-up, make that look as if it worked.
//! * **XDP_REDIRECT** into an end is lost unless the other has NAPI, which the pass program brings (*tested*).
//! * **GRO** is off at switch ports, and stays off when a program is attached (*tested*). It is set explicitly, because merged
//!   TCP segments would be frames that no wire carries.

use std::{ffi::CString, io, os::fd::AsRawFd};

use crate::{
    error::{Context, Result},
    host::Host,
};

/// `ETHTOOL_STXCSUM`, `ETHTOOL_STSO`, `ETHTOOL_SGSO`, `ETHTOOL_SGRO` of `linux/ethtool.h`.
const OFF: [(u32, &str); 4] = [
    (0x17, "transmit checksums"),
    (0x1f, "TSO"),
    (0x24, "GSO"),
    (0x2c, "GRO"),
];
const SIOCETHTOOL: u64 = 0x8946;

/// Switches off every offload that makes a veth carry frames that a wire would not.
///
/// # Errors
/// No such interface in this host, or the kernel refuses.
pub fn offloads_off(host: &Host, interface: &str) -> Result<()> {
    for (command, what) in OFF {
        host.enter(|| set(interface, command, 0))?
            .context(|| format!("switch off {what} of {interface} in {}", host.name()))?;
    }
    Ok(())
}

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

fn set(interface: &str, command: u32, data: u32) -> io::Result<()> {
    let name = CString::new(interface)?;
    let name = name.as_bytes_with_nul();
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let mut value = EthtoolValue { command, data };
    // SAFETY: `ifreq` is plain old data, for which zeroes are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() > request.ifr_name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: SIOCETHTOOL takes an `ifreq` whose data points to the command's structure, which for these
    // commands is `ethtool_value`; both live until the call returns.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
