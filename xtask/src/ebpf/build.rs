//! Compiles lb-ebpf for the BPF target so that the same sources and tools give the same bytes in every directory.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::dependencies::{self, Dependency};
use super::origin::{self, Objects, Origin};
use super::strip;
use super::toolchain::{Toolchain, clean};
use crate::process::{output, run};
use crate::workspace;

const TARGET: &str = "bpfel-unknown-none";

/// Flags that shape the object, without the path remapping that differs by machine.
///
/// `v3` has atomics with a result; BTF is made from debug information; the architecture only matters for tracing
/// programs and is fixed so that every host builds the same object.
const FLAGS: &[&str] = &[
    "-Ctarget-cpu=v3",
    // Headers are types without alignment; without this LLVM reads and writes them byte by byte. LLVM 22 and later.
    "-Ctarget-feature=+allows-misaligned-mem-access",
    "-Cdebuginfo=2",
    "-Clink-arg=--btf",
    "--cfg=bpf_target_arch=\"x86_64\"",
];

/// The stripped objects and the record of where they come from.
pub fn build(toolchain: &Toolchain) -> Result<(Objects, Origin)> {
    eprintln!(
        "Building with {}: {}, {}",
        toolchain.name, toolchain.versions.rustc, toolchain.versions.linker
    );
    let root = workspace::root();
    let metadata = output(cargo(toolchain).args([
        "metadata",
        "--locked",
        "--format-version=1",
        "--filter-platform",
        TARGET,
        "--manifest-path",
        &root.join("Cargo.toml").to_string_lossy(),
    ]))?;
    let dependencies = dependencies::of_object(&metadata)?;
    // The distribution's cargo and rustup's must not invalidate each other's artifacts.
    let target_dir = workspace::target_dir().join("bpf");
    run(cargo(toolchain)
        .args([
            "build",
            "--locked",
            "--quiet",
            "--package",
            "lb-ebpf",
            "--bins",
            "--profile",
            "bpf",
        ])
        .args(["-Zbuild-std=core", "--target", TARGET])
        .env("CARGO_TARGET_DIR", &target_dir)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker)
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            rustflags(toolchain, root, &dependencies).join("\x1f"),
        ))?;

    let stripped = |bin: &str| {
        let linked = target_dir.join(TARGET).join("bpf").join(bin);
        let linked =
            fs::read(&linked).with_context(|| format!("cannot read {}", linked.display()))?;
        strip::strip(&linked)
    };
    let objects = Objects {
        balancer: stripped("lb-ebpf")?,
        bench: stripped("lb-ebpf-bench")?,
    };
    let origin = Origin {
        object: origin::Object::of(&objects.balancer),
        bench: origin::Object::of(&objects.bench),
        toolchain: toolchain.versions.clone(),
        build: origin::Build {
            target: TARGET.to_owned(),
            flags: FLAGS.iter().map(|flag| (*flag).to_owned()).collect(),
        },
        sources: origin::Sources::read(
            root,
            dependencies
                .into_iter()
                .map(|dependency| (dependency.name, dependency.version)),
        )?,
    };
    Ok((objects, origin))
}

fn cargo(toolchain: &Toolchain) -> Command {
    let mut command = clean(&mut Command::new(&toolchain.cargo));
    command
        .current_dir(workspace::root())
        .env("RUSTC", &toolchain.rustc)
        // The distribution's compiler is a stable one; building `core` takes unstable flags.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTC_WRAPPER", "")
        .env("CARGO_INCREMENTAL", "0");
    command
}

/// [`FLAGS`] and one remapping for each directory whose path would end up in BTF line records or panic locations.
///
/// Named by package and not by cargo's own `trim-paths`, which keeps the registry's folder and so tells a mirror from
/// the original.
fn rustflags(toolchain: &Toolchain, root: &Path, dependencies: &[Dependency]) -> Vec<String> {
    let mut flags: Vec<String> = FLAGS.iter().map(|flag| (*flag).to_owned()).collect();
    let mut remap =
        |from: &Path, to: &str| flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    remap(root, ".");
    remap(&toolchain.library_sources, "/rustc");
    // Debian's library sources are a symbolic link.
    if let Ok(library) = toolchain.library_sources.join("library").canonicalize() {
        remap(&library, "/rustc/library");
    }
    for dependency in dependencies {
        remap(
            &dependency.directory,
            &format!("/{}-{}", dependency.name, dependency.version),
        );
    }
    flags
}
