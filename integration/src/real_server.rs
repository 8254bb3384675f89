//! `futago backend` in a host of the lab: a server that the command sets up, checks or gives back.

use std::{
    fs,
    path::PathBuf,
    process::{Output, Stdio},
};

use crate::{
    daemon,
    error::{Context, Result},
    host::{Host, checked},
};

/// Where the host's changes are recorded.
pub fn state(host: &Host) -> PathBuf {
    host.files().join("backend.json")
}

/// Where the host's program is pinned.
pub fn bpf_dir(host: &Host) -> PathBuf {
    host.bpffs().join("futago-backend")
}

/// Runs `futago backend` with further options, on the configuration that is there; whatever it says.
///
/// # Errors
/// There is no `futago`.
pub fn backend(host: &Host, options: &[&str]) -> Result<Output> {
    let mut command = command(host, options)?;
    command
        .output()
        .context(|| format!("start futago in {}", host.name()))
}

/// Makes a real server of the host by this configuration; what the command said.
///
/// # Errors
/// It ends with a status other than 0.
pub fn set_up(host: &Host, configuration: &str) -> Result<String> {
    let path = daemon::config_path(host);
    fs::write(&path, configuration).context(|| format!("write {}", path.display()))?;
    let command = command(host, &[])?;
    let output = checked(&command, host.name(), backend(host, &[])?)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn command(host: &Host, options: &[&str]) -> Result<std::process::Command> {
    let mut command = daemon::command(host)?;
    command.arg("backend").arg("--state").arg(state(host));
    command.arg("--bpf-dir").arg(bpf_dir(host));
    if !options.contains(&"--undo") {
        command.arg("--config").arg(daemon::config_path(host));
    }
    command.args(options).stdin(Stdio::null());
    Ok(command)
}
