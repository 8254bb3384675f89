//! Which compiler and linker build the BPF object: the first on this machine that comes with the library's sources.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use super::origin;
use crate::process::{find, output};

/// The oldest minor version of rustc 1.x that the workspace takes (`rust-version` in Cargo.toml).
const OLDEST_MINOR: u32 = 88;

/// A compiler with library sources.
pub struct Compiler {
    /// For people: where it comes from.
    pub name: &'static str,
    pub cargo: PathBuf,
    pub rustc: PathBuf,
    /// `<sysroot>/lib/rustlib/src/rust`
    pub library_sources: PathBuf,
    pub rustc_version: String,
    /// `MAJOR.MINOR.PATCH`
    pub llvm_version: String,
}

/// A compiler, the linker beside it, and their versions as they are recorded.
pub struct Toolchain {
    pub name: &'static str,
    pub cargo: PathBuf,
    pub rustc: PathBuf,
    pub linker: PathBuf,
    pub library_sources: PathBuf,
    pub versions: origin::Toolchain,
}

impl Toolchain {
    /// The recorded toolchain if this machine has it, else the first one found.
    pub fn find(recorded: Option<&origin::Toolchain>) -> Result<Self> {
        let mut compilers = compilers();
        if let Some(recorded) = recorded
            && let Some(same) = compilers
                .iter()
                .position(|found| found.rustc_version == recorded.rustc)
        {
            compilers.swap(0, same);
        }
        let compiler = compilers.into_iter().next().ok_or_else(|| {
            anyhow!(
                "no Rust compiler with the sources of its library is installed, which the BPF target needs. Either of:\n  \
                 Debian: cargo xtask ebpf --install   (as root; packages rustc-web cargo-web rust-web-src, and bpf-linker)\n  \
                 rustup: rustup toolchain install nightly --component rust-src && cargo install bpf-linker"
            )
        })?;
        let linker = linker().ok_or_else(|| {
            anyhow!(
                "bpf-linker is not installed. Either of:\n  cargo xtask ebpf --install\n  {}",
                linker_command(&compiler.llvm_version)
            )
        })?;
        let versions = origin::Toolchain {
            rustc: compiler.rustc_version,
            llvm: compiler.llvm_version,
            cargo: output(&mut clean(Command::new(&compiler.cargo).arg("--version")))?,
            linker: output(Command::new(&linker).arg("--version"))?,
            linker_llvm: linker_llvm(&linker),
        };
        Ok(Self {
            name: compiler.name,
            cargo: compiler.cargo,
            rustc: compiler.rustc,
            linker,
            library_sources: compiler.library_sources,
            versions,
        })
    }
}

/// The compilers of this machine that have library sources and are new enough, in order of preference.
pub fn compilers() -> Vec<Compiler> {
    let rustup = |program: &str| {
        output(Command::new("rustup").args(["which", "--toolchain", "nightly", program]))
            .map(PathBuf::from)
    };
    let nightly = rustup("rustc").and_then(|rustc| Ok((rustc, rustup("cargo")?)));
    let debian = (
        PathBuf::from("/usr/bin/rustc"),
        PathBuf::from("/usr/bin/cargo"),
    );
    [
        ("rustup's nightly", nightly),
        ("the distribution's Rust", Ok(debian)),
    ]
    .into_iter()
    .filter_map(|(name, paths)| paths.ok().map(|(rustc, cargo)| (name, rustc, cargo)))
    .filter_map(|(name, rustc, cargo)| Compiler::inspect(name, rustc, cargo).ok())
    .collect()
}

impl Compiler {
    fn inspect(name: &'static str, rustc: PathBuf, cargo: PathBuf) -> Result<Self> {
        let sysroot = output(&mut clean(
            Command::new(&rustc).args(["--print", "sysroot"]),
        ))?;
        let library_sources = Path::new(&sysroot).join("lib/rustlib/src/rust");
        if !library_sources.join("library/core/src/lib.rs").exists() {
            bail!("{} has no library sources", rustc.display());
        }
        let verbose = output(&mut clean(Command::new(&rustc).arg("-vV")))?;
        let field = |name: &str| {
            verbose
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(|value| value.trim().to_owned())
                .with_context(|| format!("{} -vV does not say `{name}`", rustc.display()))
        };
        let release = field("release:")?;
        let minor = release
            .split('.')
            .nth(1)
            .and_then(|minor| minor.parse::<u32>().ok());
        if minor.is_none_or(|minor| minor < OLDEST_MINOR) {
            bail!(
                "{} is {release}, older than 1.{OLDEST_MINOR}",
                rustc.display()
            );
        }
        let llvm_version = field("LLVM version:")?;
        let rustc_version = verbose.lines().next().unwrap_or_default().to_owned();
        Ok(Self {
            name,
            cargo,
            rustc,
            library_sources,
            rustc_version,
            llvm_version,
        })
    }
}

/// `bpf-linker` in `PATH` or where `cargo install` puts it.
pub fn linker() -> Option<PathBuf> {
    find("bpf-linker")
        .or_else(|| Some(cargo_home()?.join("bin/bpf-linker")).filter(|file| file.exists()))
}

/// The environment and arguments for `cargo install` of a bpf-linker that uses the distribution's LLVM.
///
/// `llvm_version` is the compiler's, `MAJOR.MINOR.PATCH`: a linker with an older LLVM cannot read its bitcode.
pub fn linker_install(llvm_version: &str) -> ([(String, String); 2], Vec<String>) {
    let mut parts = llvm_version.split('.');
    let major = parts.next().unwrap_or_default();
    let minor = parts.next().unwrap_or("1");
    let prefix = format!("/usr/lib/llvm-{major}");
    let environment = [
        ("LLVM_PREFIX".to_owned(), prefix.clone()),
        (format!("LLVM_SYS_{major}{minor}_PREFIX"), prefix),
    ];
    let feature = format!("llvm-{major}");
    let arguments = [
        "install",
        "--locked",
        "bpf-linker",
        "--version",
        "0.13.0",
        "--no-default-features",
        "--features",
    ]
    .into_iter()
    .map(str::to_owned)
    .chain([feature])
    .collect();
    (environment, arguments)
}

pub fn linker_command(llvm_version: &str) -> String {
    let (environment, arguments) = linker_install(llvm_version);
    let environment: Vec<String> = environment
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    format!("{} cargo {}", environment.join(" "), arguments.join(" "))
}

/// The LLVM that the linker generates code with: the shared library's name, or `static`.
fn linker_llvm(linker: &Path) -> String {
    let libraries = output(Command::new("ldd").arg(linker)).unwrap_or_default();
    libraries
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .find(|name| name.starts_with("libLLVM"))
        .unwrap_or("static")
        .to_owned()
}

fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))
}

/// `command` without what the calling cargo, rustup or the user's profile would make of the build.
pub fn clean(command: &mut Command) -> Command {
    let mut cleaned = Command::new(command.get_program());
    cleaned.args(command.get_args());
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let stray = text.starts_with("CARGO_PROFILE_")
            || text.starts_with("CARGO_BUILD_")
            || text.starts_with("CARGO_TARGET_")
            || text.starts_with("CARGO_PKG_")
            || text.starts_with("RUSTUP_TOOLCHAIN")
            || (text.starts_with("RUSTC") && text != "RUSTC_BOOTSTRAP")
            || [
                "CARGO",
                "CARGO_ENCODED_RUSTFLAGS",
                "RUSTFLAGS",
                "CARGO_MANIFEST_DIR",
                "CARGO_INCREMENTAL",
            ]
            .contains(&text.as_ref());
        if stray {
            cleaned.env_remove(&name);
        }
    }
    cleaned
}
