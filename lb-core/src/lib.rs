//! What should be true: pure decisions, time passed in. No sockets, no clock, no aya, no tokio.

#![forbid(unsafe_code)]

pub mod plan;
