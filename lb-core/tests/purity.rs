//! Decisions stay testable without a world only as long as they cannot reach it: no runtime, BPF, socket, clock,
//! file, process or thread in `lb-core`, neither by dependency nor by the standard library.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Crates that reach the world, by name.
const FORBIDDEN_CRATES: &[&str] = &[
    "async-io",
    "async-std",
    "aya",
    "aya-obj",
    "chrono",
    "getrandom",
    "hyper",
    "libbpf-rs",
    "mio",
    "nix",
    "polling",
    "quanta",
    "rtnetlink",
    "rustix",
    "smol",
    "socket2",
    "time",
    "tokio",
];

/// What the sources must not name. `std::collections`, `std::net` addresses and `core` are enough.
const FORBIDDEN_WORDS: &[&str] = &[
    "Instant",
    "SystemTime",
    "std::fs",
    "std::process",
    "std::thread",
    "std::env",
    "std::io",
    "std::os",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "ToSocketAddrs",
    "RandomState::new",
    "DefaultHasher",
    "unsafe {",
    "extern crate",
];

#[test]
fn dependencies_reach_nothing() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--manifest-path",
            manifest,
            "--package",
            "lb-core",
        ])
        .args(["--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .output()
        .expect("cargo runs, for it runs this test");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let tree = String::from_utf8_lossy(&output.stdout);
    let crates: BTreeSet<&str> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(
        crates.contains("lb-core") && crates.contains("toml"),
        "unexpected output: {tree}"
    );
    let found: Vec<_> = FORBIDDEN_CRATES
        .iter()
        .filter(|name| crates.contains(**name))
        .collect();
    assert!(found.is_empty(), "lb-core depends on {found:?}");
}

#[test]
fn sources_reach_nothing() {
    let mut files = Vec::new();
    collect(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut files,
    );
    assert!(files.len() > 10, "the sources were not found");
    for file in files {
        let text = fs::read_to_string(&file).expect("a source file is readable");
        for (number, line) in text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
        {
            for word in FORBIDDEN_WORDS {
                assert!(
                    !line.contains(word),
                    "{}:{}: `{word}`",
                    file.display(),
                    number + 1
                );
            }
        }
    }
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the directory is readable") {
        let path = entry.expect("the entry is readable").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
