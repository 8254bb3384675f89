//! How the host's network looks and how it is changed: interfaces, next hops of backends, VIP addresses, gratuitous
//! ARP and the kernel settings that forwarding needs. Decisions are pure functions over tables; the edges are
//! rtnetlink, one raw socket per interface and `/proc/sys/net`.

pub mod addresses;
pub mod announce;
pub mod links;
pub mod neighbours;
pub mod netlink;
pub mod next_hop;
pub mod routes;
pub mod sysctl;
pub mod watch;

/// An Ethernet address in transmission order.
pub type Mac = [u8; 6];
