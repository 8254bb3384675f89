//! What the load generator writes and its receiver reads: the same code in the kernel and in the tests of the host.
//!
//! A frame is a template with the flow's source address and port in it, all checksums right. A stamp, where one is asked for, is the
//! frame's end, so that it is found whatever a load balancer has put before the packet.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    network_endian::{U16, U32},
};

use crate::{
    checksum::Difference,
    frame::Frame,
    hash,
    wire::{Ethernet, Ipv4, Ipv6, Ports},
};

/// Bytes of a frame that are written anew for every packet: whole headers, and all of the smallest IPv4 frame.
pub const V4_HEADER: usize = 60;
/// As [`V4_HEADER`]; IPv6 with TCP takes 74 bytes, a stamp 16 more.
pub const V6_HEADER: usize = 96;

/// Marks a stamp.
pub const MAGIC: u32 = 0x6c6f_6164;

/// What to send, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Plan {
    /// The start of a frame whose source address ends in four zero bytes, whose source port is 0 and whose stamp is zero.
    pub template: [u8; V6_HEADER],
    /// Frame in bytes.
    pub length: u32,
    /// 4 or 6.
    pub version: u32,
    /// Where the transport's checksum stands in the frame; 0: none is kept.
    pub checksum: u32,
    /// The last four bytes of flow 0's source address, as a number.
    pub first_source: u32,
    /// Source ports of an address, a power of two: this many bits of a flow's number.
    pub port_bits: u32,
    pub first_port: u32,
    /// Flows at a time, 1 or more.
    pub flows: u32,
    /// An [`Order`].
    pub order: u32,
    /// After this many packets the oldest flow is replaced by a new one; 0: never.
    pub packets_per_new_flow: u64,
    /// Time between packets in units of 2⁻¹⁶ ns; 0: as fast as it goes.
    pub interval: u64,
    /// By `CLOCK_MONOTONIC`; no packet leaves later. 0: no end.
    pub end_ns: u64,
    /// Packets at most.
    pub packets: u64,
    /// Nothing leaves by another interface.
    pub ifindex: u32,
    /// Whether frames end in a [`Stamp`].
    pub stamped: u32,
}

/// In which order flows send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Order {
    /// One after the other.
    Sequential = 0,
    /// By a hash of the packet's number.
    Random = 1,
}

/// How far a generator is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Progress {
    pub sent: u64,
    /// When the next packet is due, in units of 2⁻¹⁶ ns since the first.
    pub due: u64,
    pub started_ns: u64,
    /// The next flow of [`Order::Sequential`].
    pub cursor: u64,
}

/// The last bytes of a frame.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Unaligned,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct Stamp {
    pub magic: U32,
    /// The low half of the packet's number.
    pub number: U32,
    /// By the sender's `CLOCK_MONOTONIC`.
    pub sent_ns: [u8; 8],
}

/// What a receiver has seen on one CPU.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Received {
    pub packets: u64,
    pub bytes: u64,
    /// Packets with a stamp.
    pub stamped: u64,
    /// Packets with a lower number than one before.
    pub reordered: u64,
    /// The highest number so far, plus one.
    pub next_number: u64,
}

/// Buckets of the latency histogram: eight for each power of two nanoseconds.
pub const BUCKETS: u32 = 512;
const STEP_BITS: u32 = 3;

/// The flow that packet `number` belongs to.
#[inline(always)]
pub fn flow(plan: &Plan, progress: &mut Progress, number: u64) -> u32 {
    let among = if plan.order == Order::Random as u32 {
        hash::reduce((hash::mix(number) >> 32) as u32, plan.flows)
    } else {
        let cursor = progress.cursor as u32;
        progress.cursor = if cursor + 1 >= plan.flows {
            0
        } else {
            u64::from(cursor + 1)
        };
        cursor
    };
    if plan.packets_per_new_flow == 0 {
        return among;
    }
    among.wrapping_add((number / plan.packets_per_new_flow) as u32)
}

/// Writes the headers, and the stamp if there is one, into a frame of the plan's length. `None` if it is shorter.
#[inline(always)]
pub fn write<F: Frame>(frame: &mut F, plan: &Plan, flow: u32, stamp: Option<Stamp>) -> Option<()> {
    let source = plan
        .first_source
        .wrapping_add(flow >> (plan.port_bits & 31))
        .to_be_bytes();
    let port = plan.first_port + (flow & ((1 << (plan.port_bits & 31)) - 1));
    let port = (port as u16).to_be_bytes();
    let [a, b, c, d] = source;
    // The template has zeros where these go.
    let address = Difference::default()
        .field([0; 2], [a, b])
        .field([0; 2], [c, d]);
    let mut transport = address.field([0; 2], port);
    let ports_at = if plan.version == 4 {
        let start: &[u8; V4_HEADER] = plan.template.first_chunk()?;
        *frame.get_mut::<[u8; V4_HEADER]>(0)? = *start;
        let header = frame.get_mut::<Ipv4>(size_of::<Ethernet>())?;
        header.checksum = address.apply(header.checksum);
        header.source = source;
        size_of::<Ethernet>() + size_of::<Ipv4>()
    } else {
        *frame.get_mut::<[u8; V6_HEADER]>(0)? = plan.template;
        let header = frame.get_mut::<Ipv6>(size_of::<Ethernet>())?;
        let [.., e, f, g, h] = &mut header.source;
        [*e, *f, *g, *h] = source;
        size_of::<Ethernet>() + size_of::<Ipv6>()
    };
    frame.get_mut::<Ports>(ports_at)?.source = U16::from_bytes(port);
    if let Some(stamp) = stamp {
        let at = (plan.length as usize).wrapping_sub(size_of::<Stamp>()) & 0x3fff;
        *frame.get_mut::<Stamp>(at)? = stamp;
        let words: [[u8; 2]; size_of::<Stamp>() / 2] = zerocopy::transmute!(stamp);
        for [a, b] in words {
            // At an odd place a word's bytes count the other way round.
            let word = if at & 1 == 0 { [a, b] } else { [b, a] };
            transport = transport.field([0; 2], word);
        }
    }
    if plan.checksum != 0 {
        let at = plan.checksum as usize & 0x7f;
        let field = frame.get_mut::<[u8; 2]>(at)?;
        let sum = transport.apply(*field);
        // A computed zero of UDP is sent as all ones (RFC 768); for TCP both mean the same.
        *field = if sum == [0; 2] { [0xff; 2] } else { sum };
    }
    Some(())
}

/// The stamp at the end of a frame, if it has one.
#[inline(always)]
pub fn stamp<F: Frame>(frame: &F) -> Option<Stamp> {
    let at = frame.length().wrapping_sub(size_of::<Stamp>()) & 0x3fff;
    let stamp = *frame.get::<Stamp>(at)?;
    (stamp.magic.get() == MAGIC).then_some(stamp)
}

impl Stamp {
    #[inline(always)]
    pub fn new(number: u64, now_ns: u64) -> Self {
        Self {
            magic: U32::new(MAGIC),
            number: U32::new(number as u32),
            sent_ns: now_ns.to_ne_bytes(),
        }
    }
}

impl Received {
    /// Counts a frame.
    #[inline(always)]
    pub fn count(&mut self, bytes: u32, stamp: Option<&Stamp>) {
        self.packets += 1;
        self.bytes += u64::from(bytes);
        let Some(stamp) = stamp else { return };
        self.stamped += 1;
        // Numbers are 32 bits: the one that is nearest to the highest is meant.
        let ahead = stamp.number.get().wrapping_sub(self.next_number as u32);
        if ahead < 1 << 31 {
            self.next_number += u64::from(ahead) + 1;
        } else {
            self.reordered += 1;
        }
    }
}

/// The bucket of a latency.
#[inline(always)]
pub fn bucket(nanoseconds: u64) -> u32 {
    // No count of leading zeros on the BPF target.
    let mut power = 0;
    let mut rest = nanoseconds;
    let mut step = 32;
    while step > 0 {
        if rest >> step != 0 {
            rest >>= step;
            power += step;
        }
        step >>= 1;
    }
    if power < STEP_BITS {
        return nanoseconds as u32 & ((1 << STEP_BITS) - 1);
    }
    let fine = (nanoseconds >> (power - STEP_BITS)) as u32 & ((1 << STEP_BITS) - 1);
    ((power - STEP_BITS + 1) << STEP_BITS | fine) & (BUCKETS - 1)
}

/// The largest latency of a bucket, in nanoseconds.
pub const fn bucket_end(bucket: u32) -> u64 {
    let (power, fine) = (
        bucket >> STEP_BITS,
        (bucket & ((1 << STEP_BITS) - 1)) as u64,
    );
    if power == 0 {
        return fine;
    }
    let lowest = (1 << STEP_BITS | fine) << (power - 1);
    lowest + (1 << (power - 1)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_ends_where_the_next_begins() {
        for bits in 0..60 {
            for offset in [0_u64, 1, 3, 77] {
                let ns = (1_u64 << bits) + offset;
                let at = bucket(ns);
                assert!(bucket_end(at) >= ns, "{ns} in {at}");
                assert!(at == 0 || bucket_end(at - 1) < ns, "{ns} in {at}");
                assert_eq!(bucket(bucket_end(at)), at);
                // No coarser than an eighth.
                assert!(bucket_end(at) <= ns + ns / 8, "{ns} in {at}");
            }
        }
    }

    #[test]
    fn order_is_seen_across_the_wrap_of_numbers() {
        let mut received = Received {
            next_number: u64::from(u32::MAX) - 1,
            ..Received::default()
        };
        let numbers = [
            u64::from(u32::MAX) - 1,
            1 << 32,
            (1 << 32) + 2,
            (1 << 32) + 1,
        ];
        for number in numbers {
            received.count(60, Some(&Stamp::new(number, 0)));
        }
        received.count(60, None);
        assert_eq!(received.packets, 5);
        assert_eq!(received.stamped, 4);
        assert_eq!(received.reordered, 1);
        assert_eq!(received.next_number, (1 << 32) + 3);
    }

    #[test]
    fn flows_stay_in_their_window_and_move_on() {
        use zerocopy::FromZeros as _;
        let mut plan = Plan::new_zeroed();
        plan.flows = 7;
        let mut progress = Progress::default();
        let sequential: std::vec::Vec<u32> =
            (0..9).map(|n| flow(&plan, &mut progress, n)).collect();
        assert_eq!(sequential, [0, 1, 2, 3, 4, 5, 6, 0, 1]);
        plan.order = Order::Random as u32;
        plan.packets_per_new_flow = 100;
        let mut seen = [false; 7];
        for number in 5000..5100 {
            let flow = flow(&plan, &mut progress, number);
            assert!((50..57).contains(&flow), "{flow}");
            seen[flow as usize - 50] = true;
        }
        assert_eq!(seen, [true; 7]);
    }
}
