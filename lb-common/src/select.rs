//! What chooses a packet's slot beside its source address, where that is neither its ports nor nothing.

use zerocopy::network_endian::U32;

use crate::{
    frame::Frame,
    hash,
    ip::MAX_TRANSPORT,
    job::Job,
    parse::Piece,
    tables::{HashPolicy, Service, Tables},
    wire::{ETHERTYPE_IPV4, Ethernet, Ipv4},
};

/// Whether a service's policy is one of those here.
#[inline(always)]
pub const fn applies(service: &Service) -> bool {
    service.hash > HashPolicy::L3 as u8
}

/// What is hashed beside the source address for the packet of `job`, as it came.
#[inline(always)]
pub fn salt<F: Frame, T: Tables>(frame: &F, tables: &T, job: &Job, service: &Service) -> u32 {
    if service.hash == HashPolicy::L2L3 as u8 {
        return match frame.get::<Ethernet>(0) {
            Some(header) => {
                let [a, b, c, d, e, f] = header.source;
                u32::from_be_bytes([c, d, e, f]) ^ (u32::from(a) << 8 | u32::from(b))
            }
            None => 0,
        };
    }
    match identification(frame, job) {
        // The fragments of one packet have to meet again.
        Some(identification) => identification,
        None => tables.random(),
    }
}

/// What the fragments of a packet have in common; `None` if it is in one piece.
#[inline(always)]
fn identification<F: Frame>(frame: &F, job: &Job) -> Option<u32> {
    if job.piece == Piece::Whole as u8 {
        return None;
    }
    if job.ethertype == ETHERTYPE_IPV4 {
        let header = frame.get::<Ipv4>(job.link().length())?;
        return Some(hash::mix(u64::from(header.identification.get())) as u32);
    }
    let at = (job.transport as usize & MAX_TRANSPORT).wrapping_sub(4) & MAX_TRANSPORT;
    Some(frame.get::<U32>(at)?.get())
}
