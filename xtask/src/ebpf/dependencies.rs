//! Which published crates go into the BPF object, and where their sources lie on this machine.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;

/// A crate from a registry that is compiled into the object, or a macro that writes code for it.
pub struct Dependency {
    pub name: String,
    pub version: String,
    pub directory: PathBuf,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    source: Option<String>,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

/// Follows the normal dependencies of lb-ebpf through the output of `cargo metadata` for the BPF target, sorted by name.
///
/// What only macros or build scripts use is left out: it never reaches the object.
pub fn of_object(metadata: &str) -> Result<Vec<Dependency>> {
    let metadata: Metadata =
        serde_json::from_str(metadata).context("cannot read the output of `cargo metadata`")?;
    let packages: BTreeMap<&str, &Package> = metadata
        .packages
        .iter()
        .map(|package| (package.id.as_str(), package))
        .collect();
    let nodes: BTreeMap<&str, &Node> = metadata
        .resolve
        .nodes
        .iter()
        .map(|node| (node.id.as_str(), node))
        .collect();
    let start = metadata
        .packages
        .iter()
        .find(|package| package.name == "lb-ebpf" && package.source.is_none())
        .context("the workspace has no package lb-ebpf")?;

    let mut seen: BTreeMap<&str, &Package> = BTreeMap::new();
    let mut open = vec![start.id.as_str()];
    while let Some(id) = open.pop() {
        let package = packages
            .get(id)
            .with_context(|| format!("`cargo metadata` has no package {id}"))?;
        if seen.insert(id, package).is_some() || package.is_macro() {
            continue;
        }
        let node = nodes
            .get(id)
            .with_context(|| format!("`cargo metadata` does not resolve {id}"))?;
        let normal = |edge: &&Edge| edge.dep_kinds.iter().any(|kind| kind.kind.is_none());
        open.extend(
            node.deps
                .iter()
                .filter(normal)
                .map(|edge| edge.pkg.as_str()),
        );
    }
    let mut found: Vec<Dependency> = seen
        .into_values()
        .filter(|package| package.source.is_some())
        .map(|package| Dependency {
            name: package.name.clone(),
            version: package.version.clone(),
            directory: package
                .manifest_path
                .parent()
                .map(PathBuf::from)
                .unwrap_or_default(),
        })
        .collect();
    found.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    Ok(found)
}

impl Package {
    fn is_macro(&self) -> bool {
        self.targets
            .iter()
            .any(|target| target.kind.iter().any(|kind| kind == "proc-macro"))
    }
}
