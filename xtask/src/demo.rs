//! `cargo xtask demo`: prepares the machine and hands over to the `demo` program of `integration`.

use anyhow::Result;

use crate::{packages, process, workspace};

/// A load balancer, a client and three web servers as network namespaces, with real HTTP requests.
#[derive(clap::Args)]
pub struct Args {
    /// Passed to the demo program as they are (`-- --help` lists them).
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

pub fn run(args: Args) -> Result<()> {
    packages::ensure(packages::Use::Demo)?;
    // The lab starts the `futago` program beside its own executable, so both come from the same profile: that of the tests, so
    // that a newcomer builds once.
    process::run(workspace::cargo().args(["build", "-p", "lb-userspace", "-p", "integration"]))?;
    process::run(
        workspace::cargo()
            .args(["run", "--quiet", "-p", "integration", "--bin", "demo", "--"])
            .args(args.args),
    )
}
