//! The echo frame and the lease, which the packet path and the daemon have in common.

pub use lb_common::{
    echo::{Answer, ETHERTYPE, EchoReject, FRAME_LEN, Identity, Key, Question, answer, siphash24},
    lease::{Held, LEASES, Lease, Role},
};
