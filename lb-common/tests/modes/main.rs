//! What the packet path makes of packets, judged by an independent parser.

mod answer;
mod common;
mod dscp;
mod fragments;
mod policies;
mod real_server;
mod related;
mod tunnel;
