//! Installs what is missing to build BPF objects: Debian's packages where they exist, else rustup's nightly; then bpf-linker.

use std::process::Command;

use anyhow::{Context, Result, bail};

use super::toolchain::{compilers, linker, linker_install};
use crate::process::{find, output, run as execute};
use crate::{packages, workspace};

/// Debian ships these for its web browsers: newer than its own Rust, with the library's sources.
const COMPILER_PACKAGES: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];

pub fn run() -> Result<()> {
    if compilers().is_empty() {
        install_compiler()?;
    }
    let found = compilers();
    let compiler = found
        .first()
        .context("a compiler was installed, but none with the sources of its library is found")?;
    println!(
        "Compiler: {} from {}",
        compiler.rustc_version, compiler.name
    );
    if linker().is_none() {
        install_linker(&compiler.llvm_version)?;
    }
    let linker =
        linker().context("bpf-linker was installed, but is not found in PATH or ~/.cargo/bin")?;
    println!("Linker: {}", output(Command::new(linker).arg("--version"))?);
    Ok(())
}

fn install_compiler() -> Result<()> {
    if packages::has_apt() && offered(COMPILER_PACKAGES[0])? {
        return packages::install(COMPILER_PACKAGES);
    }
    if find("rustup").is_some() {
        let nightly = [
            "toolchain",
            "install",
            "nightly",
            "--profile=minimal",
            "--component=rust-src",
        ];
        return execute(Command::new("rustup").args(nightly));
    }
    bail!(
        "neither Debian's package rustc-web nor rustup is to be had here: install rustup, then run this again"
    )
}

/// Builds bpf-linker against the distribution's LLVM of the compiler's version, as its bitcode asks.
fn install_linker(llvm_version: &str) -> Result<()> {
    let major = llvm_version.split('.').next().unwrap_or_default();
    let llvm = format!("llvm-{major}-dev");
    if !packages::has_apt() || !offered(&llvm)? {
        bail!(
            "bpf-linker needs LLVM {major} with its headers, which no package here offers: install it, then\n  {}",
            super::toolchain::linker_command(llvm_version)
        );
    }
    packages::install(&[&llvm, "g++", "zlib1g-dev", "libzstd-dev"])?;
    let (environment, arguments) = linker_install(llvm_version);
    execute(workspace::cargo().envs(environment).args(arguments))
}

/// Whether the package lists, brought up to date, offer `package`.
fn offered(package: &str) -> Result<bool> {
    execute(Command::new("apt-get").args(["-q", "-o", "DPkg::Lock::Timeout=300", "update"]))?;
    Ok(output(Command::new("apt-cache").args(["show", package])).is_ok())
}
