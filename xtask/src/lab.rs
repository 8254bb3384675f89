//! `cargo xtask demo`, `drill` and `bench`: prepare the machine and hand over to a program that uses the crates.

use anyhow::Result;

use crate::{packages, process, workspace};

#[derive(clap::Args)]
pub struct Args {
    /// Passed to the program as they are (`-- --help` lists them).
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Package, program, and what it needs.
pub type Program = (&'static str, &'static str, packages::Use);

pub const DEMO: Program = ("integration", "demo", packages::Use::Demo);
pub const DRILL: Program = ("integration", "drill", packages::Use::Drill);
pub const BENCH: Program = ("benches", "bench", packages::Use::Bench);

/// Builds and runs a program.
pub fn run((package, program, needs): Program, args: Args) -> Result<()> {
    packages::ensure(needs)?;
    // The lab starts the `futago` program beside its own executable, so both come from the same profile: that of the tests, so
    // that a newcomer builds once.
    process::run(workspace::cargo().args(["build", "-p", "lb-userspace", "-p", package]))?;
    process::run(
        workspace::cargo()
            .args(["run", "--quiet", "-p", package, "--bin", program, "--"])
            .args(args.args),
    )
}
