//! What a veth pair needs before an XDP program at one end behaves as on a network card.
//!
//! Found by trying each on kernel 6.18 (`integration/tests/veth.rs` repeats it):
//!
//! * **Partial checksums.** A veth hands packets over with the checksum "to be filled in by hardware" that never comes; a
//!   program that rewrites addresses then updates garbage. So every end that sends has transmit checksums off. With
//!   them off, the kernel segments whatever needs a checksum in software, also where a feature flag (GRE, SCTP) stays on; TSO
//!   and generic segmentation are switched off by name, so that no frame of up to 64 kB arrives.
//! * **XDP_TX** at one end is delivered only if the other end runs an XDP program: [`crate::xdp::PASS`]. Without one the
//!   kernel drops the packet and counts nothing that the program could see.
//! * **XDP_REDIRECT** into an end needs NAPI at the other, which an XDP program there (or GRO) switches on.
//! * **GRO** comes with an XDP program unless it is switched off afterwards; then the switch merges TCP segments and the
//!   balancer sees frames that no wire carries. Hence off at switch ports, after the program is attached.

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
