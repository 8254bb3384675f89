//! What the packet path makes of packets, judged by an independent parser.

mod answer;
mod common;
mod dscp;
mod real_server;
mod related;
mod tunnel;
