//! One owner loop: the only writer of the tables, which everything that happens passes through.

pub mod command;
