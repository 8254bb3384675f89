//! What the packet path makes of packets, judged by an independent parser.

mod common;
mod tunnel;
