//! How the host's network looks and how it is changed: interfaces, next hops of backends, VIP addresses, gratuitous
//! ARP and the kernel settings that forwarding needs. Decisions are pure functions over tables; the edges are
//! rtnetlink, one raw socket per interface and `/proc/sys/net`.

pub mod addresses;
pub mod announce;
pub mod links;
pub mod macvlan;
pub mod neighbours;
pub mod netlink;
pub mod next_hop;
pub mod ping;
pub mod routes;
pub mod sysctl;
pub mod watch;

/// An Ethernet address in transmission order.
pub type Mac = [u8; 6];

/// Whether the host forwards IPv6 that comes in by an interface, which its neighbour advertisements have to say
/// (RFC 4861 §4.4).
pub fn forwards_ipv6(interface: &str) -> bool {
    std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{interface}/forwarding"))
        .is_ok_and(|value| value.trim() != "0")
}
