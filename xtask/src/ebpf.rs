//! `cargo xtask ebpf`: the BPF objects that everybody else embeds, and the proof that they come from these sources.

mod build;
mod dependencies;
mod install;
mod origin;
mod stats;
mod strip;
mod toolchain;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::process::is_root;
use crate::{packages, test, workspace};
use origin::{Objects, Origin};
use toolchain::Toolchain;

/// Builds lb-ebpf into lb-ebpf/prebuilt/futago.o and bench.o and records where they came from.
#[derive(clap::Args)]
pub struct Args {
    /// Rebuild and compare with the prebuilt object; change nothing.
    #[arg(long, conflicts_with = "install")]
    check: bool,
    /// Load the prebuilt object and print each program's size and the verifier's work (root).
    #[arg(long, conflicts_with_all = ["check", "install"])]
    stats: bool,
    /// Install what is missing to build BPF objects (Debian, Ubuntu; root).
    #[arg(long)]
    install: bool,
}

pub fn run(args: Args) -> Result<()> {
    if args.stats {
        packages::ensure(packages::Use::Load)?;
        return stats::print(&object_path());
    }
    if args.install {
        return install::run();
    }
    let recorded = Origin::read(&origin_path()).ok();
    let toolchain = Toolchain::find(recorded.as_ref().map(|origin| &origin.toolchain))?;
    if args.check {
        check(&toolchain)
    } else {
        rebuild(&toolchain)
    }
}

pub fn object_path() -> PathBuf {
    prebuilt().join("futago.o")
}

fn bench_path() -> PathBuf {
    prebuilt().join("bench.o")
}

/// The objects in the repository.
pub fn committed() -> Result<Objects> {
    let read = |path: PathBuf| {
        fs::read(&path).with_context(|| format!("no {}: run `cargo xtask ebpf`", path.display()))
    };
    Ok(Objects {
        balancer: read(object_path())?,
        bench: read(bench_path())?,
    })
}

fn origin_path() -> PathBuf {
    prebuilt().join("origin.toml")
}

fn prebuilt() -> PathBuf {
    workspace::root().join("lb-ebpf/prebuilt")
}

fn rebuild(toolchain: &Toolchain) -> Result<()> {
    let (objects, origin) = build::build(toolchain)?;
    for (path, object) in [
        (object_path(), &objects.balancer),
        (bench_path(), &objects.bench),
    ] {
        let before = fs::read(&path).unwrap_or_default();
        write(&path, object)?;
        println!(
            "lb-ebpf/prebuilt/{}: {} bytes, sha256 {}, {}",
            path.file_name().unwrap_or_default().to_string_lossy(),
            object.len(),
            origin::sha256(object),
            if before == *object {
                "unchanged"
            } else {
                "changed"
            }
        );
    }
    origin.write(&origin_path())
}

fn check(toolchain: &Toolchain) -> Result<()> {
    let recorded = Origin::read(&origin_path())?;
    let committed = committed()?;
    recorded.verify(workspace::root(), &committed)?;
    let (fresh, origin) = build::build(toolchain)?;
    if fresh == committed {
        println!(
            "eBPF objects: rebuilt with {}, equal byte for byte",
            toolchain.name
        );
        return Ok(());
    }
    let path = workspace::target_dir().join("bpf/fresh.o");
    write(&path, &fresh.balancer)?;
    write(
        &workspace::target_dir().join("bpf/fresh-bench.o"),
        &fresh.bench,
    )?;
    let differences = recorded.toolchain.differences(&origin.toolchain);
    if differences.is_empty() {
        bail!(
            "lb-ebpf/prebuilt is not what its sources give with the recorded toolchain:\n  \
             committed {} and {} bytes\n  rebuilt   {} and {} bytes ({})\n\
             Run `cargo xtask ebpf` and commit lb-ebpf/prebuilt.",
            committed.balancer.len(),
            committed.bench.len(),
            fresh.balancer.len(),
            fresh.bench.len(),
            path.display()
        );
    }
    println!(
        "eBPF object: this machine's toolchain is not the recorded one, so its bytes cannot be compared:"
    );
    for difference in &differences {
        println!("  {difference}");
    }
    if !is_root() {
        bail!(
            "to judge the fresh object it must be loaded, which takes root: run `cargo xtask ebpf --check` as root"
        );
    }
    packages::ensure(packages::Use::Load)?;
    println!("Loading the fresh object instead:");
    stats::print(&path)?;
    println!("Running the packet tests on it:");
    test::packet_tests_on(&path)?;
    println!(
        "eBPF object: built with a newer toolchain, accepted by the verifier, packet tests passed; not compared byte for byte"
    );
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
