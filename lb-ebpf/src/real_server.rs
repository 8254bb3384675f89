//! The program of a real server and its maps: glue for `lb_common::real_server`. `futago backend` fills the duties before it
//! attaches the program, and puts another program with other duties in its place when they change.

use aya_ebpf::{
    bindings::{
        BPF_F_RDONLY_PROG,
        xdp_action::{XDP_DROP, XDP_PASS},
    },
    btf_maps::{HashMap, PerCpuArray},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::{
    address::Address,
    real_server::{Duties, Key, Outcome, receive},
    tables::Counter,
};

use crate::frame::XdpFrame;

#[btf_map]
static DUTIES: HashMap<Key, Address, 1, { BPF_F_RDONLY_PROG as usize }> = HashMap::new();
#[btf_map]
static RECEIVED: PerCpuArray<Counter, { Outcome::ALL.len() }> = PerCpuArray::new();

/// A real server behind the load balancer.
#[xdp]
#[inline(always)]
pub fn backend(context: XdpContext) -> u32 {
    if receive(&mut XdpFrame::new(&context), &MapDuties) {
        XDP_PASS
    } else {
        XDP_DROP
    }
}

struct MapDuties;

impl Duties for MapDuties {
    #[inline(always)]
    fn find(&self, key: &Key) -> Option<Address> {
        // SAFETY: nobody writes the map while the program that it belongs to is attached.
        unsafe { DUTIES.get(key) }.copied()
    }

    #[inline(always)]
    fn count(&self, outcome: Outcome, bytes: u32) {
        if let Some(counter) = RECEIVED.get_ptr_mut(outcome as u32) {
            // SAFETY: an element for this CPU alone: XDP programs do not preempt one another.
            unsafe {
                (*counter).packets += 1;
                (*counter).bytes += u64::from(bytes);
            }
        }
    }
}
