//! Why a packet left the packet path where it did: the one list behind counters, metric labels and docs.

/// What happens to the packet of a [`Reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It went on to a backend or client.
    Forwarded,
    /// The host's own network stack gets it.
    Passed,
    /// It ends here.
    Dropped,
    /// The sender got an answer from the balancer itself.
    Answered,
}

macro_rules! reasons {
    ($(#[doc = $of:literal])+ enum $reason:ident; $($(#[doc = $doc:literal])+ $name:ident = $label:literal, $class:ident;)+) => {
        $(#[doc = $of])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum $reason { $($(#[doc = $doc])+ $name),+ }

        impl $reason {
            /// All of them, in the order of their counters.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The metric label.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label),+ }
            }

            /// The reason of a number.
            #[inline(always)]
            pub const fn from_number(number: u32) -> Option<Self> {
                match number {
                    $(number if number == Self::$name as u32 => Some(Self::$name),)+
                    _ => None,
                }
            }

            pub const fn class(self) -> Class {
                match self { $(Self::$name => Class::$class),+ }
            }

            /// One line for the operator.
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+)),+ }
            }
        }
    };
}

pub(crate) use reasons;

reasons! {
    /// Every way out of the packet path. The discriminant is the counter's slot.
    enum Reason;

    /// Sent to a backend of its service; ICMP errors about what the backend sent included.
    ToBackend = "to_backend", Forwarded;
    /// A backend's reply, sent to the client with the service's address; ICMP errors about what the client sent included.
    ToClient = "to_client", Forwarded;
    /// Not for a service: neither its destination nor its source is one of ours.
    NotOurs = "not_ours", Passed;
    /// To an address of a service, but to no port that is served: the host answers.
    Unmatched = "unmatched", Passed;
    /// Neither IPv4 nor IPv6: ARP, LLDP, spanning tree and the like.
    NotIp = "not_ip", Passed;
    /// The IP header is cut off, contradicts the frame's length, has a wrong version or, in IPv6, an IPv4-mapped address.
    MalformedIp = "malformed_ip", Passed;
    /// More IPv6 extension headers than are looked at, or one that is cut off.
    ExtensionHeaders = "extension_headers", Passed;
    /// A backend's reply to a client whose link-layer address is not known yet: the host finds it and sends the packet.
    ResolvingClient = "resolving_client", Passed;
    /// The transport header of a packet to a service is cut off or contradicts the packet's length.
    MalformedTransport = "malformed_transport", Dropped;
    /// A fragment to a service that takes none: `fragments = "drop"`.
    Fragment = "fragment", Dropped;
    /// The service has no backend that is up.
    NoBackend = "no_backend", Dropped;
    /// The flow's backend is down, its service says that such flows are reset, and no reset was sent: too many of late, or no whole segment.
    BackendGone = "backend_gone", Dropped;
    /// Two packets of one new flow at once: another CPU decides about it at this moment, and the sender repeats this one.
    Contended = "contended", Dropped;
    /// The backend's link-layer address is not known: it or its gateway does not answer ARP or neighbour discovery.
    NoNextHop = "no_next_hop", Dropped;
    /// The route to the client of a backend's reply refuses: blackhole, unreachable, or the reply is larger than its MTU.
    NoRoute = "no_route", Dropped;
    /// TTL or hop limit ran out on the way through the balancer.
    TtlExpired = "ttl_expired", Dropped;
    /// No room before the packet for a header that had to be added.
    NoHeadroom = "no_headroom", Dropped;
    /// A table entry names one that does not exist: a defect, or maps of another version.
    TableDefect = "table_defect", Dropped;
    /// A backend's reply that is not to be forwarded: to the balancer itself, such as the answer to a health check, or to where no route leads.
    ReplyToHost = "reply_to_host", Passed;
    /// Too large for the way to the backend, headers of the tunnel included.
    TooBig = "too_big", Dropped;
    /// The host has no source address for a tunnel to the backend: set `tunnel_source` of the node.
    NoTunnelSource = "no_tunnel_source", Dropped;
    /// The peer's question whether this node lives, answered.
    EchoAnswered = "echo_answered", Forwarded;
    /// An ARP or ND request for a VIP that this node does not answer for: it is not active, or its daemon is gone.
    LeaseExpired = "lease_expired", Dropped;
    /// Could not go on to its backend, too large or at its last hop: the sender was told by ICMP.
    Answered = "answered", Answered;
    /// To an address of a service, but to no port that is served: refused by ICMP, as `unmatched = "reject"` says.
    Rejected = "rejected", Answered;
    /// The flow's backend is down or drained to the end, and the client was told by a reset, as its service says.
    ConnectionReset = "connection_reset", Answered;
    /// Echo request to an address of a service, answered.
    EchoReply = "echo_reply", Answered;
    /// To an address of a service, but to no port that is served: dropped, as `unmatched` says.
    UnmatchedDropped = "unmatched_dropped", Dropped;
    /// A fragment to an address of a service whose first one has not been seen, or more than 15 seconds ago: its port is not known.
    FragmentUnknown = "fragment_unknown", Dropped;
    /// To a service, from an address that no client can have: the VIP itself, loopback, multicast, broadcast or the unspecified one.
    Martian = "martian", Dropped;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_unique_and_slots_are_dense() {
        for (slot, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, slot);
            assert_eq!(Reason::from_number(slot as u32), Some(*reason));
            assert!(!reason.explanation().is_empty());
            assert_eq!(
                Reason::ALL
                    .iter()
                    .filter(|other| other.label() == reason.label())
                    .count(),
                1
            );
        }
    }
}
