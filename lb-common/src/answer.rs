//! Answers that the load balancer gives in the VIP's name: ICMP errors to the sender of a packet that cannot go on, and echo replies.
//!
//! Nothing is answered that must not be (RFC 1122 §3.2.2, RFC 4443 §2.4 (e)): ICMP errors and later fragments never come here, and
//! senders that are no single host, or were addressed together with others, get nothing.

use zerocopy::network_endian::{U16, U32};

use crate::{
    address::Address,
    checksum::{self, Difference, Sum},
    frame::Frame,
    ip::{Ip, V4, V6},
    job::{Job, Outcome},
    link::Exit,
    parse::{self, Link, Piece, PortPair},
    reason::Reason,
    tables::{Tables, flags},
    tunnel,
    wire::{
        ETHERTYPE_IPV4, Ethernet, Icmp, Ipv4, Ipv6, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP,
        Ports, Tcp, VlanTag, Wire,
    },
};

/// Bytes of the packet that an error quotes, at most: its headers, with room for options and for a tunnel's or a transport's within.
const MAX_QUOTE: usize = 128;
/// Least MTU that IPv6 knows (RFC 8200 §5).
const LEAST_MTU_V6: usize = 1280;
const HOPS: u8 = 64;

/// A packet that cannot go on. Nothing else of it is kept for an answer, which parses it anew: packets without one do not pay for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// [`Reason::TooBig`], [`Reason::TtlExpired`] or [`Reason::Unmatched`].
    pub reason: Reason,
    /// Record of a service that has the packet's destination.
    pub service: u32,
    /// Record of the backend that it was for; 0 for none.
    pub backend: u32,
}

impl Default for Case {
    /// Of no service.
    fn default() -> Self {
        Self {
            reason: Reason::NotOurs,
            service: 0,
            backend: 0,
        }
    }
}

/// The job of answering a packet: what it was taken for at first, found out once more.
#[inline(always)]
pub fn describe<F: Frame>(frame: &F, case: Case) -> Option<Job> {
    let link = parse::link(frame)?;
    let network = if link.ethertype == ETHERTYPE_IPV4 {
        V4::parse(frame, link.length())
    } else {
        V6::parse(frame, link.length())
    };
    let no_ports = PortPair {
        source: 0,
        destination: 0,
    };
    let network = network.ok()?;
    Some(Job::new(
        link,
        &network,
        no_ports,
        case.service,
        case.backend,
    ))
}

/// Answers the packet, if it may be.
///
/// The outcome is the reason, or the policy for [`Reason::Unmatched`], where there is no answer; the packet is then unchanged.
#[inline(always)]
pub fn answer<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    job: &Job,
    reason: Reason,
) -> Outcome {
    let result = if job.ethertype == ETHERTYPE_IPV4 {
        answer_packet::<V4, F, T>(frame, tables, job, reason)
    } else {
        answer_packet::<V6, F, T>(frame, tables, job, reason)
    };
    match result {
        Ok(reason) => Outcome {
            reason,
            exit: Some(Exit::SameInterface),
        },
        Err(reason) => Outcome::not_sent(reason),
    }
}

#[inline(always)]
fn answer_packet<V: Answers, F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    job: &Job,
    reason: Reason,
) -> Result<Reason, Reason> {
    let service = tables.service(job.service).ok_or(Reason::TableDefect)?;
    let policy = service.flags & flags::UNMATCHED;
    let echo = reason as u32 == Reason::Unmatched as u32 && job.protocol == V::ICMP;
    let (outcome, silent) = if reason as u32 != Reason::Unmatched as u32 {
        (Reason::Answered, reason)
    } else if echo {
        if service.flags & flags::ECHO == 0 {
            return Err(unanswered(policy));
        }
        (Reason::EchoReply, unanswered(policy))
    } else if policy == flags::UNMATCHED_REJECT {
        (Reason::Rejected, Reason::UnmatchedDropped)
    } else {
        return Err(unanswered(policy));
    };
    // The only other ICMP that goes to a backend is an error.
    let is_error = job.protocol == V::ICMP && !echo;
    let later = job.piece == Piece::Later as u8;
    if is_error || !is_host(job.source) || !is_alone(frame) || later {
        return Err(silent);
    }
    if echo && job.piece != Piece::Whole as u8 {
        return Err(silent);
    }
    if echo {
        return match reply_to_echo::<V, F, T>(frame, tables, job) {
            Ok(()) => Ok(outcome),
            Err(()) => Err(silent),
        };
    }
    let mut value = 0;
    if reason as u32 == Reason::TooBig as u32 {
        let backend = tables.backend(job.backend).ok_or(Reason::TableDefect)?;
        let mtu = backend.next_hop(backend.state()).mtu as usize;
        let overhead = tunnel::overhead(service.mode, backend.address.is_v4());
        value = V::mtu(mtu.saturating_sub(overhead)) as u32;
    }
    if !tables.may_answer() {
        return Err(silent);
    }
    match send_error::<V, F>(frame, job, V::error(reason), value) {
        Some(()) => Ok(outcome),
        None => Err(Reason::NoHeadroom),
    }
}

/// Answers the TCP segment of `job` with a reset (RFC 9293 §3.10.7.1): one whose backend is [gone](Reason::BackendGone), or one to no
/// service, if the policy says so.
///
/// The outcome is the policy where there is no answer; the packet is then unchanged.
#[inline(always)]
pub fn reset<F: Frame, T: Tables>(frame: &mut F, tables: &T, job: &Job, reason: Reason) -> Outcome {
    let result = if job.ethertype == ETHERTYPE_IPV4 {
        reset_packet::<V4, F, T>(frame, tables, job, reason)
    } else {
        reset_packet::<V6, F, T>(frame, tables, job, reason)
    };
    match result {
        Ok(answered) => Outcome {
            reason: answered,
            exit: Some(Exit::SameInterface),
        },
        Err(reason) => Outcome::not_sent(reason),
    }
}

/// Flags of a TCP header.
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

#[inline(always)]
fn reset_packet<V: Answers, F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    job: &Job,
    reason: Reason,
) -> Result<Reason, Reason> {
    let gone = reason as u32 == Reason::BackendGone as u32;
    if !gone {
        let service = tables.service(job.service).ok_or(Reason::TableDefect)?;
        let policy = service.flags & flags::UNMATCHED;
        if policy != flags::UNMATCHED_REJECT {
            return Err(unanswered(policy));
        }
    }
    let (answered, silent) = if gone {
        (Reason::ConnectionReset, Reason::BackendGone)
    } else {
        (Reason::Rejected, Reason::UnmatchedDropped)
    };
    if !is_host(job.source) || !is_alone(frame) {
        return Err(silent);
    }
    let at = job.transport as usize & crate::ip::MAX_TRANSPORT;
    let segment = frame.get::<Tcp>(at).ok_or(silent)?;
    let (flags, ports) = (segment.flags, segment.ports);
    let (sequence, acknowledged) = (segment.sequence.get(), segment.acknowledgement.get());
    let header_length = (segment.data_offset >> 4) as u16 * 4;
    if flags & RST != 0 || header_length > job.payload || job.piece != Piece::Whole as u8 {
        return Err(silent);
    }
    if !tables.may_answer() {
        return Err(silent);
    }
    let length = (job.payload - header_length) as u32
        + (flags & SYN != 0) as u32
        + (flags & FIN != 0) as u32;
    let mut answer = Tcp {
        ports: Ports {
            source: ports.destination,
            destination: ports.source,
        },
        sequence: U32::new(0),
        acknowledgement: U32::new(sequence.wrapping_add(length)),
        data_offset: 5 << 4,
        flags: RST | ACK,
        window: U16::new(0),
        checksum: [0; 2],
        urgent: U16::new(0),
    };
    if flags & ACK != 0 {
        answer.sequence = U32::new(acknowledged);
        answer.acknowledgement = U32::new(0);
        answer.flags = RST;
    }
    let sum = Sum::default()
        .address(job.source)
        .address(job.destination)
        .word((size_of::<Tcp>() as u32).to_be_bytes())
        .word([0, 0, 0, PROTOCOL_TCP]);
    let words: [[u8; 4]; 5] = zerocopy::transmute!(answer);
    let [a, b, c, d, e] = words;
    let sum = sum.word(a).word(b).word(c).word(d).word(e);
    answer.checksum = if job.ethertype == ETHERTYPE_IPV4 {
        // The constant part of two mapped addresses is no part of the pseudo-header of IPv4.
        sum.without(Address::from_v4([0; 4])).finish()
    } else {
        sum.finish()
    };
    let start = job.link().length();
    if !frame.truncate(start + size_of::<V::Header>() + size_of::<Tcp>()) {
        return Err(silent);
    }
    turn_link(frame).ok_or(silent)?;
    let header = V::header(job, size_of::<Tcp>() as u16, PROTOCOL_TCP);
    put(frame, start, header).ok_or(silent)?;
    put(frame, start + size_of::<V::Header>(), answer).ok_or(silent)?;
    Ok(answered)
}

/// What happens to a packet for no service that gets no answer.
#[inline(always)]
const fn unanswered(policy: u16) -> Reason {
    if policy == flags::UNMATCHED_PASS {
        Reason::Unmatched
    } else {
        Reason::UnmatchedDropped
    }
}

/// Whether an address may be a single host's.
#[inline(always)]
pub fn is_host(address: Address) -> bool {
    if address.is_v4() {
        let [first, ..] = address.to_v4();
        first != 0 && first != 127 && first < 224
    } else {
        let octets = address.to_v6();
        octets[0] != 0xff && (address.high != 0 || u64::from_be(address.low) > 1)
    }
}

/// Whether the frame was sent to this host alone.
#[inline(always)]
fn is_alone<F: Frame>(frame: &F) -> bool {
    match frame.get::<Ethernet>(0) {
        Some(header) => header.destination[0] & 1 == 0,
        None => false,
    }
}

/// Turns an echo request round. `Err`: it is none, or there have been too many.
#[inline(always)]
fn reply_to_echo<V: Answers, F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    job: &Job,
) -> Result<(), ()> {
    let at = job.transport as usize & crate::ip::MAX_TRANSPORT;
    let icmp = *frame.get::<Icmp>(at).ok_or(())?;
    if icmp.kind != V::ECHO_REQUEST || icmp.code != 0 || !tables.may_answer() {
        return Err(());
    }
    let header = frame.get_mut::<Icmp>(at).ok_or(())?;
    header.kind = V::ECHO_REPLY;
    // The addresses change places, which changes no sum.
    header.checksum = Difference::default()
        .field([V::ECHO_REQUEST, 0], [V::ECHO_REPLY, 0])
        .apply(icmp.checksum);
    let network = frame.get_mut::<V::Header>(job.link().length()).ok_or(())?;
    V::turn(network, job);
    turn_link(frame).ok_or(())
}

/// Exchanges the MAC addresses.
#[inline(always)]
fn turn_link<F: Frame>(frame: &mut F) -> Option<()> {
    let header = frame.get_mut::<Ethernet>(0)?;
    core::mem::swap(&mut header.source, &mut header.destination);
    Some(())
}

/// Makes of the packet an ICMP error that quotes it.
#[inline(always)]
fn send_error<V: Answers, F: Frame>(
    frame: &mut F,
    job: &Job,
    (kind, code): (u8, u8),
    value: u32,
) -> Option<()> {
    let link = job.link();
    let start = link.length();
    let quote = if job.length as usize > MAX_QUOTE {
        MAX_QUOTE
    } else {
        job.length as usize & !3
    };
    let mut sum = Sum::default();
    let mut at = 0;
    while at < MAX_QUOTE {
        // How far the packet reaches and where the loop stops following it must be forgotten each time: Linux 6.1 else verifies what
        // follows once for every end, more than a million instructions.
        frame.renew();
        if (at as u32) < core::hint::black_box(quote as u32) {
            // Masked and hidden, or the compiler counts from before the frame's start.
            let place = core::hint::black_box(start + at) & 0xff;
            sum = sum.word(*frame.get::<[u8; 4]>(place)?);
        }
        at += 4;
    }
    let mut icmp = Icmp {
        kind,
        code,
        checksum: [0; 2],
        value: U32::new(value),
    };
    let length = quote + size_of::<Icmp>();
    icmp.checksum = V::pseudo_header(sum, job, length as u32)
        .word([kind, code, 0, 0])
        .word(value.to_be_bytes())
        .finish();

    let ethernet = *frame.get::<Ethernet>(0)?;
    let tags = tags(frame, link)?;
    if !frame.truncate(start + quote) {
        return None;
    }
    let room = size_of::<V::Header>() + size_of::<Icmp>();
    if !frame.adjust_head(-(room as i32)) {
        return None;
    }
    put(
        frame,
        0,
        Ethernet {
            destination: ethernet.source,
            source: ethernet.destination,
            ethertype: ethernet.ethertype,
        },
    )?;
    if link.tags > 0 {
        put(frame, size_of::<Ethernet>(), tags[0])?;
    }
    if link.tags > 1 {
        put(frame, size_of::<Ethernet>() + size_of::<VlanTag>(), tags[1])?;
    }
    put(frame, start, V::header(job, length as u16, V::ICMP))?;
    put(frame, start + size_of::<V::Header>(), icmp)
}

#[inline(always)]
fn tags<F: Frame>(frame: &F, link: Link) -> Option<[VlanTag; 2]> {
    let mut tags = [VlanTag {
        control: U16::new(0),
        ethertype: U16::new(0),
    }; 2];
    if link.tags > 0 {
        tags[0] = *frame.get::<VlanTag>(size_of::<Ethernet>())?;
    }
    if link.tags > 1 {
        tags[1] = *frame.get::<VlanTag>(size_of::<Ethernet>() + size_of::<VlanTag>())?;
    }
    Some(tags)
}

#[inline(always)]
fn put<H: Wire, F: Frame>(frame: &mut F, offset: usize, header: H) -> Option<()> {
    *frame.get_mut::<H>(offset)? = header;
    Some(())
}

/// What differs between ICMP and ICMPv6.
trait Answers: Ip {
    const ICMP: u8;
    const ECHO_REQUEST: u8;
    const ECHO_REPLY: u8;

    /// Type and code.
    fn error(reason: Reason) -> (u8, u8);

    /// The MTU to tell, from the room that there is.
    fn mtu(room: usize) -> usize;

    /// Adds what the checksum covers besides the message.
    fn pseudo_header(sum: Sum, job: &Job, length: u32) -> Sum;

    /// From the packet's destination to its source.
    fn header(job: &Job, payload: u16, protocol: u8) -> Self::Header;

    /// Exchanges the addresses and gives the packet new hops.
    fn turn(header: &mut Self::Header, job: &Job);
}

impl Answers for V4 {
    const ICMP: u8 = PROTOCOL_ICMP;
    const ECHO_REQUEST: u8 = 8;
    const ECHO_REPLY: u8 = 0;

    #[inline(always)]
    fn error(reason: Reason) -> (u8, u8) {
        if reason as u32 == Reason::TooBig as u32 {
            (3, 4)
        } else if reason as u32 == Reason::TtlExpired as u32 {
            (11, 0)
        } else {
            (3, 3)
        }
    }

    #[inline(always)]
    fn mtu(room: usize) -> usize {
        room
    }

    #[inline(always)]
    fn pseudo_header(sum: Sum, _job: &Job, _length: u32) -> Sum {
        sum
    }

    #[inline(always)]
    fn header(job: &Job, payload: u16, protocol: u8) -> Ipv4 {
        let mut header = Ipv4 {
            version_ihl: 0x45,
            tos: 0,
            total_length: U16::new(payload + size_of::<Ipv4>() as u16),
            identification: U16::new(0),
            fragment: U16::new(0),
            ttl: HOPS,
            protocol,
            checksum: [0; 2],
            source: job.destination.to_v4(),
            destination: job.source.to_v4(),
        };
        header.checksum = checksum::ipv4(&header);
        header
    }

    #[inline(always)]
    fn turn(header: &mut Ipv4, job: &Job) {
        let old = [header.ttl, header.protocol];
        header.ttl = HOPS;
        header.checksum = Difference::default()
            .field(old, [HOPS, header.protocol])
            .apply(header.checksum);
        header.source = job.destination.to_v4();
        header.destination = job.source.to_v4();
    }
}

impl Answers for V6 {
    const ICMP: u8 = PROTOCOL_ICMPV6;
    const ECHO_REQUEST: u8 = 128;
    const ECHO_REPLY: u8 = 129;

    #[inline(always)]
    fn error(reason: Reason) -> (u8, u8) {
        if reason as u32 == Reason::TooBig as u32 {
            (2, 0)
        } else if reason as u32 == Reason::TtlExpired as u32 {
            (3, 0)
        } else {
            (1, 4)
        }
    }

    #[inline(always)]
    fn mtu(room: usize) -> usize {
        if room < LEAST_MTU_V6 {
            LEAST_MTU_V6
        } else {
            room
        }
    }

    #[inline(always)]
    fn pseudo_header(sum: Sum, job: &Job, length: u32) -> Sum {
        sum.address(job.source)
            .address(job.destination)
            .word(length.to_be_bytes())
            .word([0, 0, 0, PROTOCOL_ICMPV6])
    }

    #[inline(always)]
    fn header(job: &Job, payload: u16, protocol: u8) -> Ipv6 {
        Ipv6 {
            version_class_flow: U32::new(6 << 28),
            payload_length: U16::new(payload),
            next_header: protocol,
            hop_limit: HOPS,
            source: job.destination.to_v6(),
            destination: job.source.to_v6(),
        }
    }

    #[inline(always)]
    fn turn(header: &mut Ipv6, job: &Job) {
        header.hop_limit = HOPS;
        header.source = job.destination.to_v6();
        header.destination = job.source.to_v6();
    }
}
