//! From "what should be forwarded" to an ordered list of table writes.

pub mod write;
