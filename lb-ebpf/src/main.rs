//! The XDP programs: glue between the kernel and `lb_common`, no decisions.
//!
//! On the host this is an empty program, so that the crate stays an ordinary member of the workspace.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// An atomic exchange: `AtomicU64` does not exist on the target.
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics))]
#![cfg_attr(
    target_arch = "bpf",
    expect(internal_features, reason = "there is no other atomic exchange")
)]

#[cfg(target_arch = "bpf")]
mod apart;
#[cfg(target_arch = "bpf")]
mod flows;
#[cfg(target_arch = "bpf")]
mod frame;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod programs;
#[cfg(target_arch = "bpf")]
mod real_server;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

/// Nothing may panic here: the endless loop makes the verifier reject a program in which something could.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
