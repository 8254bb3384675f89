//! The echo frame: a question that the peer's XDP program answers about one virtual router, without its daemon.
//!
//! Allocation-free, because both sides of it run here: the asking daemon and the answering program. It travels as Ethernet payload (EtherType [`ETHERTYPE`]); the answer goes back where the question came
//! from. All fields are big-endian, the MAC is SipHash-2-4 of the first 32 bytes under the pair's key.
//!
//! ```text
//!  0  u16 magic "FG"     2  u8 version    3  u8 kind: 1 question, 2 answer
//!  4  u8  asking node    5  u8 answering node       6  u16 router key (the lease table's index)
//!  8  u64 epoch: random, drawn by the asking daemon at its start
//! 16  u32 sequence      20  u8 path      21  u8 role   22  u8 priority   23  u8 zero
//! 24  u64 rank of the answering node's primary address
//! 32  u64 MAC
//! ```
//!
//! A question has zeros from 21 to 31; the program copies its lease there, sets the kind and computes the MAC anew.
//! Epoch and sequence make a recorded answer worthless; a recorded question gets an answer that nobody waits for.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    frame::Frame,
    lease::{Lease, Role},
    parse::Link,
    tables::Tables,
    wire::Ethernet,
};

/// IEEE 802 local experimental EtherType 1.
pub const ETHERTYPE: u16 = 0x88b5;
/// Bytes of a frame, Ethernet header not included; fits a minimum Ethernet frame.
pub const FRAME_LEN: usize = 40;

const MAGIC: u16 = u16::from_be_bytes(*b"FG");
const VERSION: u8 = 1;
const QUESTION: u8 = 1;
const ANSWER: u8 = 2;
const SIGNED: usize = 32;

/// The pair's secret.
#[derive(Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Key {
    pub k0: u64,
    pub k1: u64,
}

impl Key {
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        let wide = u128::from_le_bytes(bytes);
        Self {
            k0: wide as u64,
            k1: (wide >> 64) as u64,
        }
    }
}

impl core::fmt::Debug for Key {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Who this node is in echo frames.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Identity {
    pub key: Key,
    /// Node number; 0: the echo is off.
    pub node: u8,
    pub reserved: [u8; 7],
}

/// What a question and its answer have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    pub asking: u8,
    pub answering: u8,
    pub router: u16,
    pub epoch: u64,
    pub sequence: u32,
    pub path: u8,
}

/// What the peer's dataplane says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub question: Question,
    pub role: Role,
    pub priority: u8,
    pub rank: u64,
}

/// Why an echo frame was not used. The discriminant is the counter's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EchoReject {
    /// Not [`FRAME_LEN`] bytes with this magic and version.
    Format,
    /// Not an answer.
    Kind,
    /// The MAC is wrong: another key, or a forgery.
    Mac,
    /// A role this version does not know.
    Role,
    /// Answers nothing that this daemon asked.
    NotAsked,
    /// Answers a question that is too old to say anything about now, or was answered before.
    Stale,
}

impl EchoReject {
    pub const ALL: [Self; 6] = [
        Self::Format,
        Self::Kind,
        Self::Mac,
        Self::Role,
        Self::NotAsked,
        Self::Stale,
    ];

    /// Value of the metric's `reason` label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Kind => "kind",
            Self::Mac => "mac",
            Self::Role => "role",
            Self::NotAsked => "not_asked",
            Self::Stale => "stale",
        }
    }
}

impl Question {
    /// The frame that asks it.
    #[must_use]
    pub fn frame(&self, key: &Key) -> [u8; FRAME_LEN] {
        let mut frame = [0; FRAME_LEN];
        put(&mut frame, 0, MAGIC.to_be_bytes());
        put(
            &mut frame,
            2,
            [VERSION, QUESTION, self.asking, self.answering],
        );
        put(&mut frame, 6, self.router.to_be_bytes());
        put(&mut frame, 8, self.epoch.to_be_bytes());
        put(&mut frame, 16, self.sequence.to_be_bytes());
        put(&mut frame, 20, [self.path]);
        seal(&mut frame, key);
        frame
    }
}

/// Turns a question into its answer in place: what the XDP program does. `lease` finds the entry of a router key.
///
/// Returns whether it did; a frame that is no question to `node` or fails the MAC is left as it was.
#[must_use]
#[inline(always)]
pub fn answer(
    frame: &mut [u8; FRAME_LEN],
    key: &Key,
    node: u8,
    now_ns: u64,
    lease: impl Fn(u16) -> Lease,
) -> bool {
    let [m0, m1, version, kind, _, answering, r0, r1, ..] = *frame;
    let ours = u16::from_be_bytes([m0, m1]) == MAGIC
        && version == VERSION
        && kind == QUESTION
        && answering == node;
    if !ours || !sealed(frame, key) {
        return false;
    }
    let lease = lease(u16::from_be_bytes([r0, r1]));
    put(frame, 3, [ANSWER]);
    put(frame, 21, [lease.role_at(now_ns), lease.priority, 0]);
    put(frame, 24, lease.rank.to_be_bytes());
    seal(frame, key);
    true
}

/// Answers the question that a frame may be: in place, back to its sender. False: it is none for this node, and untouched.
///
/// A question to a group goes to the daemon, which answers it by [`answer`]: the program does not know the interface's own
/// address. The asking daemon learns the address from that answer and asks it alone from then on.
#[inline(always)]
pub fn respond<F: Frame, T: Tables>(frame: &mut F, tables: &T, link: Link) -> bool {
    let identity = tables.identity();
    let to_one = frame
        .get::<Ethernet>(0)
        .is_some_and(|ethernet| ethernet.destination[0] & 1 == 0);
    if identity.node == 0 || !to_one {
        return false;
    }
    let Some(payload) = frame.get_mut::<[u8; FRAME_LEN]>(link.length()) else {
        return false;
    };
    let answered = answer(
        payload,
        &identity.key,
        identity.node,
        tables.boot_ns(),
        |router| tables.lease(router),
    );
    if answered && let Some(ethernet) = frame.get_mut::<Ethernet>(0) {
        let Ethernet {
            destination,
            source,
            ..
        } = *ethernet;
        ethernet.destination = source;
        ethernet.source = destination;
    }
    answered
}

impl Answer {
    /// Reads and authenticates an answer.
    ///
    /// # Errors
    /// The reason to count.
    pub fn decode(bytes: &[u8], key: &Key) -> Result<Self, EchoReject> {
        // A minimum Ethernet frame carries 46 bytes: what follows is padding.
        let frame = bytes.first_chunk::<FRAME_LEN>().ok_or(EchoReject::Format)?;
        if take(frame, 0).map(u16::from_be_bytes) != Some(MAGIC) || frame[2] != VERSION {
            return Err(EchoReject::Format);
        }
        if frame[3] != ANSWER {
            return Err(EchoReject::Kind);
        }
        if !sealed(frame, key) {
            return Err(EchoReject::Mac);
        }
        Ok(Self {
            question: Question {
                asking: frame[4],
                answering: frame[5],
                router: take(frame, 6).map_or(0, u16::from_be_bytes),
                epoch: take(frame, 8).map_or(0, u64::from_be_bytes),
                sequence: take(frame, 16).map_or(0, u32::from_be_bytes),
                path: frame[20],
            },
            role: Role::from_number(frame[21]).ok_or(EchoReject::Role)?,
            priority: frame[22],
            rank: take(frame, 24).map_or(0, u64::from_be_bytes),
        })
    }
}

/// SipHash-2-4 of 32 bytes, given as little-endian words: five compressions without a loop over a length.
#[must_use]
#[inline(always)]
pub const fn siphash24(key: &Key, words: [u64; 4]) -> u64 {
    let mut v = [
        key.k0 ^ 0x736f_6d65_7073_6575,
        key.k1 ^ 0x646f_7261_6e64_6f6d,
        key.k0 ^ 0x6c79_6765_6e65_7261,
        key.k1 ^ 0x7465_6462_7974_6573,
    ];
    // The last block has the length in its top byte and no further input.
    let blocks = [
        words[0],
        words[1],
        words[2],
        words[3],
        (SIGNED as u64) << 56,
    ];
    let mut i = 0;
    while i < 5 {
        v[3] ^= blocks[i];
        v = sip_round(sip_round(v));
        v[0] ^= blocks[i];
        i += 1;
    }
    v[2] ^= 0xff;
    v = sip_round(sip_round(sip_round(sip_round(v))));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
const fn sip_round([mut a, mut b, mut c, mut d]: [u64; 4]) -> [u64; 4] {
    a = a.wrapping_add(b);
    b = b.rotate_left(13) ^ a;
    a = a.rotate_left(32);
    c = c.wrapping_add(d);
    d = d.rotate_left(16) ^ c;
    a = a.wrapping_add(d);
    d = d.rotate_left(21) ^ a;
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    c = c.rotate_left(32);
    [a, b, c, d]
}

#[inline(always)]
fn mac(frame: &[u8; FRAME_LEN], key: &Key) -> u64 {
    let word = |at| take(frame, at).map_or(0, u64::from_le_bytes);
    siphash24(key, [word(0), word(8), word(16), word(24)])
}

#[inline(always)]
fn seal(frame: &mut [u8; FRAME_LEN], key: &Key) {
    let mac = mac(frame, key);
    put(frame, SIGNED, mac.to_be_bytes());
}

#[inline(always)]
fn sealed(frame: &[u8; FRAME_LEN], key: &Key) -> bool {
    take(frame, SIGNED).map(u64::from_be_bytes) == Some(mac(frame, key))
}

#[inline(always)]
fn put<const N: usize>(frame: &mut [u8; FRAME_LEN], at: usize, bytes: [u8; N]) {
    if let Some(place) = frame.get_mut(at..at + N) {
        place.copy_from_slice(&bytes);
    }
}

#[inline(always)]
fn take<const N: usize>(frame: &[u8; FRAME_LEN], at: usize) -> Option<[u8; N]> {
    frame.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        forward::{Verdict, forward},
        host::{HeapTables, SliceFrame},
        reason::Reason,
    };
    use proptest::prelude::*;

    const KEY: Key = Key {
        k0: 0x0706_0504_0302_0100,
        k1: 0x0f0e_0d0c_0b0a_0908,
    };

    fn question() -> Question {
        Question {
            asking: 1,
            answering: 2,
            router: 51,
            epoch: 0xfeed,
            sequence: 7,
            path: 1,
        }
    }

    fn lease(_: u16) -> Lease {
        Lease::new(1000, 0xc000_0202, Role::Active, 150)
    }

    #[test]
    fn the_program_answers_with_its_lease() {
        let mut frame = question().frame(&KEY);
        assert!(answer(&mut frame, &KEY, 2, 999, lease));
        let expected = Answer {
            question: question(),
            role: Role::Active,
            priority: 150,
            rank: 0xc000_0202,
        };
        assert_eq!(Answer::decode(&frame, &KEY), Ok(expected));

        let mut late = question().frame(&KEY);
        assert!(answer(&mut late, &KEY, 2, 1000, lease));
        assert_eq!(
            Answer::decode(&late, &KEY).map(|a| a.role),
            Ok(Role::Expired)
        );
    }

    #[test]
    fn what_is_not_its_own_question_is_left_alone() {
        let frame = question().frame(&KEY);
        let mut other = frame;
        assert!(!answer(&mut other, &KEY, 3, 0, lease), "another node's");
        assert!(
            !answer(&mut other, &Key { k0: 1, k1: 2 }, 2, 0, lease),
            "another key"
        );
        assert_eq!(other, frame);
        assert!(answer(&mut other, &KEY, 2, 0, lease));
        assert!(
            !answer(&mut other, &KEY, 2, 0, lease),
            "an answer is no question"
        );
        assert_eq!(Answer::decode(&frame, &KEY), Err(EchoReject::Kind));
    }

    fn on_the_wire(destination: u8, payload: &[u8]) -> SliceFrame {
        let mut bytes = std::vec![destination, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
        bytes.extend(payload);
        bytes.resize(60, 0);
        SliceFrame::new(&bytes, 1)
    }

    #[test]
    fn the_packet_path_sends_the_answer_back_where_the_question_came_from() {
        let mut tables = HeapTables {
            identity: Identity {
                key: KEY,
                node: 2,
                reserved: [0; 7],
            },
            ..HeapTables::default()
        };
        tables.leases.insert(51, lease(51));
        let mut frame = on_the_wire(2, &question().frame(&KEY));
        assert_eq!(forward(&mut frame, &tables), Verdict::Transmit);
        let (macs, rest) = frame.bytes().split_at(12);
        assert_eq!(macs, [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
        let answer = Answer::decode(&rest[2..], &KEY).expect("an answer");
        assert_eq!((answer.question, answer.role), (question(), Role::Active));
        assert_eq!(tables.counted(Reason::EchoAnswered), 1);
        // The answer, and a question to a group, are the daemon's.
        assert_eq!(forward(&mut frame, &tables), Verdict::Pass);
        let mut group = on_the_wire(0xff, &question().frame(&KEY));
        assert_eq!(forward(&mut group, &tables), Verdict::Pass);
        let mut other = on_the_wire(2, &question().frame(&Key { k0: 1, k1: 2 }));
        assert_eq!(forward(&mut other, &tables), Verdict::Pass);
    }

    proptest! {
        #[test]
        #[expect(deprecated, reason = "the standard library's SipHash-2-4 is an independent implementation")]
        fn the_mac_is_siphash_2_4(k0: u64, k1: u64, words: [u64; 4]) {
            use core::hash::{Hasher, SipHasher};
            let mut oracle = SipHasher::new_with_keys(k0, k1);
            oracle.write(&words.map(u64::to_le_bytes).concat());
            prop_assert_eq!(siphash24(&Key { k0, k1 }, words), oracle.finish());
        }

        #[test]
        fn no_forgery_passes(at in 0..FRAME_LEN, flip in 1u8..) {
            let mut frame = question().frame(&KEY);
            assert!(answer(&mut frame, &KEY, 2, 0, lease));
            frame[at] ^= flip;
            prop_assert!(Answer::decode(&frame, &KEY).is_err());
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(Answer::decode(&bytes, &KEY).is_err());
        }
    }
}
