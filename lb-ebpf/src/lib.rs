//! The prebuilt BPF object for the programs that load it. `cargo xtask ebpf` makes it from `main.rs`; nobody else needs a BPF toolchain.
#![cfg_attr(target_arch = "bpf", no_std)]

#[cfg(not(target_arch = "bpf"))]
mod object;

#[cfg(not(target_arch = "bpf"))]
pub use object::{BENCH_OBJECT, OBJECT, OBJECT_VARIABLE, ObjectError, object};
