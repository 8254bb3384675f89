//! The part of Futago that touches the world: maps and programs, netlink, sockets, the daemon and its API.

pub mod api;
pub mod backend;
pub mod cli;
pub mod daemon;
pub mod dataplane;
pub mod load;
mod lock;
pub mod net;
pub mod probe;
pub mod vrrp;
