//! Fragments: only the first one of a packet shows its ports, so the packet path remembers them for the others.
//!
//! A table of fixed size, a cache line for four packets. Fragments of one packet may come in on several CPUs: an entry is two words, each
//! written whole, and the second repeats a part of the first, so that a mixture of two entries is seen. A full line forgets its oldest entry.
//! The table holds no packets: what comes before its first fragment cannot wait for it.

use zerocopy::network_endian::U32;

use crate::{
    address::Address,
    frame::Frame,
    hash,
    index::{self, Entry},
    ip::MAX_TRANSPORT,
    job::Job,
    parse::{self, Piece, PortPair},
    reason::Reason,
    tables::{HashPolicy, Key, Service, Tables, flags},
    wire::{ETHERTYPE_IPV4, Ipv4},
};

/// Lines of the table; a power of two.
const LINES: u32 = 4096;
/// Packets that a line remembers.
const WAYS: u32 = 4;
/// Words of the table.
pub const WORDS: u32 = LINES * WAYS * 2;

/// An eighth of a second, near enough: 2²⁷ ns.
const TICK_SHIFT: u32 = 27;
/// Ticks after which a packet is forgotten: 15 s, as a receiver waits for the rest (RFC 791 §3.2, RFC 1122 §3.3.2).
const LIFE: u16 = 112;
/// Not secret: whoever may send fragments can fill the table in any case.
const SEED: u64 = 0x6675_7461_676f_0002;

/// Ports of a fragment, in one word that is not 0, or why it goes no further.
pub type Found = Result<PortPair, Reason>;

/// In one word; undone by [`unpack`].
#[inline(always)]
pub const fn pack(found: Found) -> u64 {
    match found {
        Ok(ports) => 1 << 63 | (ports.source as u64) << 16 | ports.destination as u64,
        Err(reason) => reason as u64,
    }
}

#[inline(always)]
pub const fn unpack(word: u64) -> Found {
    if word >> 63 != 0 {
        return Ok(PortPair {
            source: (word >> 16) as u16,
            destination: word as u16,
        });
    }
    match Reason::from_number(word as u32) {
        Some(reason) => Err(reason),
        None => Err(Reason::TableDefect),
    }
}

/// The ports of the packet that the fragment of `job` is of. Those of a first fragment to a service, or from a backend, are remembered.
///
/// # Errors
/// [`Reason::NotOurs`] if it is of no service as far as can be seen, [`Reason::Fragment`] where the service wants none,
/// [`Reason::FragmentUnknown`], [`Reason::MalformedTransport`].
#[inline(always)]
pub fn ports<F: Frame, T: Tables>(frame: &F, tables: &T, job: &Job) -> Found {
    let transport = job.transport as usize & MAX_TRANSPORT;
    let identification = if job.ethertype == ETHERTYPE_IPV4 {
        let header = frame.get::<Ipv4>(job.link().length());
        u32::from(header.ok_or(Reason::MalformedIp)?.identification.get())
    } else {
        // RFC 8200 §4.5: the last four bytes of the fragment header, with which the chain ends.
        let field = frame.get::<U32>((transport - 4) & MAX_TRANSPORT);
        field.ok_or(Reason::MalformedIp)?.get()
    };
    let tag = tag(job, identification);
    let now = (tables.boot_ns() >> TICK_SHIFT) as u16;
    if job.piece == Piece::First as u8 {
        let ports = parse::ports_at(frame, job.protocol, transport, job.payload as usize)
            .ok_or(Reason::MalformedTransport)?;
        if !of_service(tables, job, ports)? && !of_backend(tables, job, ports) {
            return Err(Reason::NotOurs);
        }
        remember(tables, tag, ports, now);
        return Ok(ports);
    }
    match recall(tables, tag, now) {
        Some(ports) => Ok(ports),
        None => without_first(tables, job),
    }
}

/// Whether there is a service for the first fragment, and wants it.
#[inline(always)]
fn of_service<T: Tables>(tables: &T, job: &Job, ports: PortPair) -> Result<bool, Reason> {
    let key = Key::new(job.destination, job.protocol, ports.destination);
    let Some(Entry::Service(record)) = index::find(tables, &key) else {
        return Ok(false);
    };
    match tables.service(record) {
        Some(service) if service.flags & flags::FRAGMENTS == flags::FRAGMENTS_DROP => {
            Err(Reason::Fragment)
        }
        Some(_) => Ok(true),
        None => Err(Reason::TableDefect),
    }
}

#[inline(always)]
fn of_backend<T: Tables>(tables: &T, job: &Job, ports: PortPair) -> bool {
    let key = Key::new(job.source, job.protocol, ports.source);
    matches!(index::find(tables, &key), Some(Entry::Reverse(_)))
}

/// A later fragment of a packet that is not remembered: it can go on where its ports do not matter.
#[inline(always)]
fn without_first<T: Tables>(tables: &T, job: &Job) -> Found {
    let key = Key::new(job.destination, job.protocol, 0);
    if let Some(Entry::Service(record)) = index::find(tables, &key) {
        let service = tables.service(record).ok_or(Reason::TableDefect)?;
        if service.key.address == job.destination && ports_do_not_matter(service) {
            return Ok(PortPair {
                source: 0,
                destination: service.key.port,
            });
        }
    }
    match index::find(tables, &Key::address_only(job.destination)) {
        Some(Entry::Vip(_)) => Err(Reason::FragmentUnknown),
        _ => Err(Reason::NotOurs),
    }
}

#[inline(always)]
const fn ports_do_not_matter(service: &Service) -> bool {
    match service.flags & flags::FRAGMENTS {
        flags::FRAGMENTS_L3 => true,
        flags::FRAGMENTS_TRACK => service.hash == HashPolicy::L3 as u8,
        _ => false,
    }
}

/// Names a packet among those in flight: RFC 791 §3.2, RFC 8200 §4.5 (where the protocol is not asked for; it does no harm).
#[inline(always)]
fn tag(job: &Job, identification: u32) -> u64 {
    let Address { high, low } = job.destination;
    let number = u64::from(identification) << 8 | u64::from(job.protocol);
    let flow = hash::mix(high ^ hash::mix(low ^ SEED));
    hash::mix(job.source.low ^ hash::mix(job.source.high ^ number) ^ flow) | 1
}

#[inline(always)]
const fn line(tag: u64) -> u32 {
    ((tag >> 1) as u32 & (LINES - 1)) * WAYS * 2
}

/// The word behind a tag: ports, time, and sixteen bits of the tag.
#[inline(always)]
const fn value(tag: u64, ports: PortPair, now: u16) -> u64 {
    ports.destination as u64 | (ports.source as u64) << 16 | (now as u64) << 32 | (tag >> 48) << 48
}

#[inline(always)]
fn remember<T: Tables>(tables: &T, tag: u64, ports: PortPair, now: u16) {
    let line = line(tag);
    let mut place = line;
    let mut oldest = 0;
    for way in 0..WAYS {
        let at = line + way * 2;
        let there = tables.fragment_word(at);
        let age = if there == tag {
            u32::MAX
        } else if there == 0 {
            u32::MAX - 1
        } else {
            let time = (tables.fragment_word(at + 1) >> 32) as u16;
            u32::from(now.wrapping_sub(time)) + 1
        };
        if age > oldest {
            oldest = age;
            place = at;
        }
    }
    tables.set_fragment_word(place + 1, value(tag, ports, now));
    tables.set_fragment_word(place, tag);
}

#[inline(always)]
fn recall<T: Tables>(tables: &T, tag: u64, now: u16) -> Option<PortPair> {
    let line = line(tag);
    let mut place = WORDS;
    for way in 0..WAYS {
        let at = line + way * 2;
        if tables.fragment_word(at) == tag {
            place = at;
        }
    }
    if place == WORDS {
        return None;
    }
    let word = tables.fragment_word(place + 1);
    let time = (word >> 32) as u16;
    if word >> 48 != tag >> 48 || now.wrapping_sub(time) > LIFE {
        return None;
    }
    Some(PortPair {
        source: (word >> 16) as u16,
        destination: word as u16,
    })
}
