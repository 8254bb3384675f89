//! Programs for load and for measurement, apart from the load balancer: only `futago load` and the benches load them.
//!
//! On the host this is an empty program, so that the crate stays an ordinary member of the workspace.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod frame;
#[cfg(target_arch = "bpf")]
mod harness;
#[cfg(target_arch = "bpf")]
mod load;
#[cfg(target_arch = "bpf")]
mod lru;
#[cfg(target_arch = "bpf")]
mod reflect;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

/// As in the load balancer: the verifier rejects a program in which something could panic.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel's helpers are for programs under the GPL; see `Cargo.toml`.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
