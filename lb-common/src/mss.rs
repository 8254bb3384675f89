//! `mss_clamp`: the largest segment that a SYN asks for, lowered to what fits the way.

use crate::{
    checksum::Difference,
    frame::Frame,
    ip::MAX_TRANSPORT,
    job::Job,
    tables::{Backend, Mode, Service},
    tunnel,
    wire::{Ipv4, Ipv6, Tcp},
};

/// [`Service::mss`] that stands for "what fits the way to the backend".
pub const AUTO: u16 = 1;

/// SYN, with or without ACK.
pub const SYN: u8 = 2;
/// Kinds of TCP options (RFC 9293 §3.2).
const END: u8 = 0;
const NOTHING: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;
/// Options are looked at up to here; a SYN has 40 bytes of them at most.
const MAX_OPTIONS: usize = 10;

/// The largest segment for a service's flow by way of `backend`; 0 for no limit.
#[inline(always)]
pub fn limit(service: &Service, backend: &Backend) -> u16 {
    if service.mss != AUTO {
        return service.mss;
    }
    let mtu = backend.next_hop(backend.state()).mtu;
    let ip = if service.key.address.is_v4() {
        size_of::<Ipv4>()
    } else {
        size_of::<Ipv6>()
    };
    let tunnel = match Mode::from_number(service.mode) {
        Some(Mode::Ipip | Mode::Gre | Mode::Gue) => {
            tunnel::overhead(service.mode, backend.address.is_v4())
        }
        _ => 0,
    };
    let headers = tunnel + ip + size_of::<Tcp>();
    mtu.saturating_sub(headers as u16)
}

/// Lowers the option of the SYN of `job`; a SYN without one is left alone: it asks for what always fits (RFC 9293 §3.7.1).
#[inline(always)]
pub fn clamp<F: Frame>(frame: &mut F, job: &Job, limit: u16) -> Option<()> {
    let transport = job.transport as usize & MAX_TRANSPORT;
    let end = (frame.get::<Tcp>(transport)?.data_offset >> 4) as usize * 4;
    let mut at = size_of::<Tcp>();
    let mut found = 0;
    for _ in 0..MAX_OPTIONS {
        if at + 4 > end || found != 0 {
            break;
        }
        let [kind, length] = *frame.get::<[u8; 2]>(transport + (at & 63))?;
        if kind == MAXIMUM_SEGMENT_SIZE && length == 4 {
            found = at;
        } else if kind == END {
            break;
        } else if kind == NOTHING {
            at += 1;
        } else if length < 2 {
            break;
        } else {
            at += length as usize;
        }
    }
    if found == 0 {
        return None;
    }
    let place = transport + (found & 63) + 2;
    let field = frame.get_mut::<[u8; 2]>(place)?;
    let old = *field;
    if u16::from_be_bytes(old) <= limit {
        return None;
    }
    let new = limit.to_be_bytes();
    *field = new;
    // At an odd offset the two bytes are of two words of the sum, each the other's half: swapped, they add the same.
    let change = if found & 1 == 0 {
        Difference::default().field(old, new)
    } else {
        let ([a, b], [c, d]) = (old, new);
        Difference::default().field([b, a], [d, c])
    };
    let header = frame.get_mut::<Tcp>(transport)?;
    header.checksum = change.apply(header.checksum);
    Some(())
}
