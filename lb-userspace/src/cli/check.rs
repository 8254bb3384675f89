//! `futago check`: is the configuration right? Touches nothing but the file.

use std::path::PathBuf;

use anyhow::Context as _;
use lb_core::{
    config,
    model::{Model, NodeName},
};

use super::{
    Failure,
    output::{bytes, count, print},
};
use crate::{daemon::table_capacity, dataplane::capacity_bytes};

/// Check a configuration file; nothing is changed
///
/// Mistakes and warnings go to stderr, with line, column and what to write instead.
/// A file that is right gets one line on stdout.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  futago check /etc/futago.toml
  futago check /etc/futago.toml --node lb1     also: does it describe this node?

Exit codes: 0 the file is right (there may be warnings), 1 it is not.")]
pub(super) struct Check {
    /// The configuration file (TOML)
    file: PathBuf,
    /// The file must have a [node.NAME] section; its interfaces are shown
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

impl Check {
    pub fn run(self) -> Result<(), Failure> {
        let name = self.file.display().to_string();
        let text = std::fs::read(&self.file).with_context(|| format!("cannot read {name}"))?;
        let config::Loaded { model, warnings } = config::parse_bytes(&name, &text)?;
        eprint!("{warnings}");

        let mut line = format!("{name}: {}", summary(&model)?);
        if let Some(node) = &self.node {
            let found = model.node(node).map_err(anyhow::Error::new)?;
            line += &format!(
                "; {node} forwards on {} and has the VIPs on {}",
                found.interfaces.join(", "),
                found.vip_interface
            );
        }
        Ok(print(&format!("{line}\n"))?)
    }
}

fn summary(model: &Model) -> anyhow::Result<String> {
    let memory = capacity_bytes(&table_capacity(&model.dataplane))
        .context("[dataplane] asks for tables that cannot be made")?;
    let backends = model.services.iter().map(|s| s.backends.len()).sum();
    let nodes: Vec<_> = model.nodes.keys().map(NodeName::as_str).collect();
    Ok(format!(
        "good: {}, {}, {} ({}), {} of tables",
        count(model.services.len(), "service"),
        count(backends, "backend"),
        count(nodes.len(), "node"),
        nodes.join(", "),
        bytes(memory),
    ))
}
