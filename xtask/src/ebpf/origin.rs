//! The record beside the prebuilt object: which sources, which tools. It lets a plain test find a stale object without a BPF toolchain.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const HEADER: &str =
    "# Written by `cargo xtask ebpf`; checked by the tests of xtask. Not for editing.\n\n";

/// Files and folders whose contents are compiled into the object, relative to the workspace's root.
const COMPILED: &[&str] = &[
    "lb-common/Cargo.toml",
    "lb-common/src",
    "lb-ebpf/Cargo.toml",
    "lb-ebpf/src",
];

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// futago.o: the load balancer.
    pub object: Object,
    /// bench.o: what generates load and what measures.
    pub bench: Object,
    pub toolchain: Toolchain,
    pub build: Build,
    pub sources: Sources,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    pub sha256: String,
    pub bytes: usize,
}

impl Object {
    pub fn of(bytes: &[u8]) -> Self {
        Self {
            sha256: sha256(bytes),
            bytes: bytes.len(),
        }
    }
}

/// The bytes of both objects.
#[derive(Clone, PartialEq, Eq)]
pub struct Objects {
    pub balancer: Vec<u8>,
    pub bench: Vec<u8>,
}

/// Versions as the tools print them.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Toolchain {
    pub rustc: String,
    pub llvm: String,
    pub cargo: String,
    pub linker: String,
    pub linker_llvm: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    pub target: String,
    pub flags: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sources {
    /// Over [`COMPILED`] and the parts of the workspace's manifest that shape the build.
    pub sha256: String,
    /// `name version checksum` of each published crate, as in Cargo.lock.
    pub dependencies: Vec<String>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<LockedPackage>,
}

#[derive(Deserialize)]
struct LockedPackage {
    name: String,
    version: String,
    checksum: Option<String>,
}

impl Origin {
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read {}: run `cargo xtask ebpf`", path.display()))?;
        toml::from_str(&text)
            .with_context(|| format!("{} is malformed: run `cargo xtask ebpf`", path.display()))
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let text = toml::to_string_pretty(self).context("cannot write the origin as TOML")?;
        fs::write(path, format!("{HEADER}{text}"))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// An error says which of the objects, the sources or the dependencies is not the recorded one.
    pub fn verify(&self, root: &Path, objects: &Objects) -> Result<()> {
        for (name, object, recorded) in [
            ("futago.o", &objects.balancer, &self.object),
            ("bench.o", &objects.bench, &self.bench),
        ] {
            if sha256(object) != recorded.sha256 {
                bail!(
                    "lb-ebpf/prebuilt/{name} is not the object that origin.toml describes: \
                     run `cargo xtask ebpf` and commit lb-ebpf/prebuilt"
                );
            }
        }
        let recorded = self.sources.dependencies.iter().map(|line| {
            let mut words = line.split(' ').map(str::to_owned);
            (
                words.next().unwrap_or_default(),
                words.next().unwrap_or_default(),
            )
        });
        let now = Sources::read(root, recorded)?;
        if now.dependencies != self.sources.dependencies {
            bail!(
                "Cargo.lock has other versions of crates than lb-ebpf/prebuilt/futago.o was built from: \
                 run `cargo xtask ebpf` and commit lb-ebpf/prebuilt"
            );
        }
        if now.sha256 != self.sources.sha256 {
            bail!(
                "the sources of the BPF programs ({}, or their settings in Cargo.toml) changed after \
                 lb-ebpf/prebuilt/futago.o was built: run `cargo xtask ebpf` and commit lb-ebpf/prebuilt",
                COMPILED.join(", ")
            );
        }
        Ok(())
    }
}

impl Toolchain {
    /// One line for each tool that is not the same; empty if all are.
    pub fn differences(&self, here: &Self) -> Vec<String> {
        [
            ("rustc", &self.rustc, &here.rustc),
            ("LLVM of rustc", &self.llvm, &here.llvm),
            ("cargo", &self.cargo, &here.cargo),
            ("bpf-linker", &self.linker, &here.linker),
            ("LLVM of bpf-linker", &self.linker_llvm, &here.linker_llvm),
        ]
        .into_iter()
        .filter(|(_, recorded, here)| recorded != here)
        .map(|(tool, recorded, here)| format!("{tool}: recorded {recorded}, here {here}"))
        .collect()
    }
}

impl Sources {
    /// Hashes the sources under `root` that are compiled in; `dependencies` are names and versions.
    pub fn read(root: &Path, dependencies: impl Iterator<Item = (String, String)>) -> Result<Self> {
        let lock: Lock = parse(&root.join("Cargo.lock"))?;
        let mut names = Vec::new();
        let mut lines = Vec::new();
        for (name, version) in dependencies {
            let locked = lock
                .package
                .iter()
                .find(|package| package.name == name && package.version == version);
            let checksum = locked
                .and_then(|package| package.checksum.as_deref())
                .unwrap_or("absent");
            lines.push(format!("{name} {version} {checksum}"));
            names.push(name);
        }
        let mut hash = Sha256::new();
        for path in files(root)? {
            let contents = fs::read(root.join(&path))
                .with_context(|| format!("cannot read {}", path.display()))?;
            add(&mut hash, &path.to_string_lossy(), &contents);
        }
        let manifest: toml::Table = parse(&root.join("Cargo.toml"))?;
        add(
            &mut hash,
            "Cargo.toml",
            settings(&manifest, &names).as_bytes(),
        );
        Ok(Self {
            sha256: hex(&hash.finalize()),
            dependencies: lines,
        })
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Every file of [`COMPILED`], relative to `root`, sorted.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = COMPILED.iter().map(PathBuf::from).collect();
    while let Some(path) = open.pop() {
        let full = root.join(&path);
        if !full.is_dir() {
            found.push(path);
            continue;
        }
        for entry in
            fs::read_dir(&full).with_context(|| format!("cannot list {}", full.display()))?
        {
            open.push(path.join(entry?.file_name()));
        }
    }
    found.sort();
    Ok(found)
}

/// The parts of the workspace's manifest that reach the object, in one order whatever the file's.
fn settings(manifest: &toml::Table, dependencies: &[String]) -> String {
    let mut paths: Vec<Vec<&str>> = vec![
        vec!["workspace", "package", "edition"],
        vec!["workspace", "dependencies", "lb-common"],
        vec!["profile", "release"],
        vec!["profile", "bpf"],
    ];
    paths.extend(
        dependencies
            .iter()
            .map(|name| vec!["workspace", "dependencies", name]),
    );
    let mut text = String::new();
    for path in paths {
        let value = path
            .iter()
            .skip(1)
            .try_fold(manifest.get(path[0]), |value, key| Some(value?.get(key)));
        if let Some(Some(value)) = value {
            text.push_str(&path.join("."));
            canonical(value, &mut text);
            text.push('\n');
        }
    }
    text
}

/// Writes `value` with its keys sorted, which `toml` leaves to a feature of the build.
fn canonical(value: &toml::Value, text: &mut String) {
    match value {
        toml::Value::Table(table) => {
            let mut entries: Vec<_> = table.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            text.push('{');
            for (key, value) in entries {
                text.push_str(key);
                canonical(value, text);
            }
            text.push('}');
        }
        toml::Value::Array(values) => {
            text.push('[');
            values.iter().for_each(|value| canonical(value, text));
            text.push(']');
        }
        other => {
            text.push('=');
            text.push_str(&other.to_string());
            text.push(';');
        }
    }
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("cannot parse {}", path.display()))
}

fn add(hash: &mut Sha256, name: &str, contents: &[u8]) {
    // Lengths first, so that no two lists of files give the same stream.
    for part in [name.as_bytes(), contents] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ebpf, workspace};

    #[test]
    fn prebuilt_object_is_of_these_sources() {
        let origin = Origin::read(&ebpf::origin_path())
            .expect("lb-ebpf/prebuilt/origin.toml is in the repository");
        let objects = ebpf::committed().expect("lb-ebpf/prebuilt is in the repository");
        if let Err(error) = origin.verify(workspace::root(), &objects) {
            panic!("{error:#}");
        }
    }

    #[test]
    fn changed_source_or_object_is_noticed() {
        let origin = Origin::read(&ebpf::origin_path())
            .expect("lb-ebpf/prebuilt/origin.toml is in the repository");
        let objects = ebpf::committed().expect("lb-ebpf/prebuilt is in the repository");
        let copy = workspace::target_dir().join(format!("origin-test-{}", std::process::id()));
        for file in files(workspace::root())
            .expect("the sources can be listed")
            .iter()
            .chain(&[PathBuf::from("Cargo.toml"), PathBuf::from("Cargo.lock")])
        {
            let to = copy.join(file);
            fs::create_dir_all(to.parent().expect("a file has a folder"))
                .expect("target is writable");
            fs::copy(workspace::root().join(file), to).expect("target is writable");
        }
        let verify = |objects: &Objects| {
            origin
                .verify(&copy, objects)
                .map_err(|error| error.to_string())
        };
        let append = |file: &str, text: &str| {
            let path = copy.join(file);
            let before = fs::read_to_string(&path).expect("it was copied");
            fs::write(&path, format!("{before}{text}")).expect("target is writable");
            let found = verify(&objects);
            fs::write(&path, before).expect("target is writable");
            found
        };

        let clean = verify(&objects);
        let mut other = objects.clone();
        other.balancer.pop();
        let other_object = verify(&other);
        let mut other = objects.clone();
        other.bench.pop();
        let other_bench = verify(&other);
        let source = append("lb-common/src/lib.rs", "\n");
        let setting = append(
            "Cargo.toml",
            "\n[profile.bpf.package.lb-common]\nopt-level = 2\n",
        );
        let unrelated = append("Cargo.toml", "\n# a remark\n");
        let lock = fs::read_to_string(copy.join("Cargo.lock")).expect("it was copied");
        let updated = lock.replace(
            "name = \"aya-ebpf\"\nversion = \"",
            "name = \"aya-ebpf\"\nversion = \"9",
        );
        fs::write(copy.join("Cargo.lock"), updated).expect("target is writable");
        let dependency = verify(&objects);
        fs::remove_dir_all(&copy).expect("it was created above");

        assert_eq!(clean, Ok(()));
        assert_eq!(unrelated, Ok(()));
        for (found, word) in [
            (other_object, "futago.o is not"),
            (other_bench, "bench.o is not"),
            (source, "sources"),
            (setting, "sources"),
            (dependency, "Cargo.lock"),
        ] {
            let text = found.expect_err(word);
            assert!(
                text.contains(word) && text.contains("run `cargo xtask ebpf`"),
                "{text}"
            );
        }
    }
}
