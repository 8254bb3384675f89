//! Kernel settings that `nat` needs, with a record beside the API's socket of what they were before, so that also a daemon
//! that comes after a crash can put them back.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context;
use tracing::{info, warn};

use crate::net::sysctl::{self, Change, Needed, Restored};

/// Name of the record.
const FILE: &str = "kernel-settings.json";

pub struct KernelSettings {
    record: PathBuf,
    changes: Vec<Change>,
}

impl KernelSettings {
    /// Takes up the record of an earlier daemon in `directory`, if there is one.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        let record = directory.join(FILE);
        let changes = match fs::read(&record) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is damaged; delete it to go on (the settings it lists then stay as they are)", record.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", record.display())),
        };
        Ok(Self { record, changes })
    }

    /// Sets what is not as needed, and records what it was.
    pub fn apply(&mut self, needed: &[Needed]) -> anyhow::Result<()> {
        let changes = sysctl::apply(needed, |need, before| {
            info!(
                "setting {}={} (was {before}): {}",
                need.key, need.value, need.reason
            )
        })?;
        if changes.is_empty() {
            return Ok(());
        }
        // What an earlier record says was there first.
        for change in changes {
            match self
                .changes
                .iter_mut()
                .find(|known| known.key == change.key)
            {
                Some(known) => known.after = change.after,
                None => self.changes.push(change),
            }
        }
        if let Some(directory) = self.record.parent() {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let bytes = serde_json::to_vec_pretty(&self.changes)?;
        fs::write(&self.record, bytes)
            .with_context(|| format!("cannot write {}", self.record.display()))
    }

    /// Puts everything back that nobody else has changed since.
    pub fn restore(self) {
        for (change, outcome) in sysctl::restore(&self.changes) {
            match outcome {
                Restored::Done => info!("restored {}={}", change.key, change.before),
                Restored::Gone => {}
                Restored::ChangedByOthers { found } => info!(
                    "{} is {found}, which Futago did not set: left so",
                    change.key
                ),
                Restored::Failed(error) => warn!("{} stays {}: {error}", change.key, change.after),
            }
        }
        if let Err(error) = fs::remove_file(&self.record)
            && error.kind() != io::ErrorKind::NotFound
        {
            warn!("cannot remove {}: {error}", self.record.display());
        }
    }
}
