//! What Futago's packet path does with a packet.
//!
//! The code is generic over memory: [`frame::Frame`] is the bytes of a packet, [`tables::Tables`] what user space
//! has written. The XDP program implements both over kernel memory; tests, fuzzer and simulation implement
//! them over slices, and so run what the kernel runs.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "host")]
extern crate std;

pub mod address;
pub mod answer;
pub mod checksum;
pub mod consistency;
pub mod echo;
pub mod flow_state;
pub mod flow_table;
pub mod forward;
pub mod fragment;
pub mod frame;
pub mod hash;
#[cfg(feature = "host")]
pub mod host;
pub mod index;
pub mod ip;
pub mod job;
pub mod lease;
pub mod link;
pub mod load;
pub mod mss;
pub mod parse;
pub mod real_server;
pub mod reason;
pub mod related;
pub mod rewrite;
pub mod select;
pub mod snat;
pub mod steering;
pub mod tables;
pub mod tracking;
pub mod tunnel;
pub mod wire;
