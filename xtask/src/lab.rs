//! `cargo xtask demo` and `cargo xtask drill`: prepare the machine and hand over to a program of `integration`.

use anyhow::Result;

use crate::{packages, process, workspace};

#[derive(clap::Args)]
pub struct Args {
    /// Passed to the program as they are (`-- --help` lists them).
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Builds and runs `program`.
pub fn run(program: &str, args: Args) -> Result<()> {
    packages::ensure(match program {
        "drill" => packages::Use::Drill,
        _ => packages::Use::Demo,
    })?;
    // The lab starts the `futago` program beside its own executable, so both come from the same profile: that of the tests, so
    // that a newcomer builds once.
    process::run(workspace::cargo().args(["build", "-p", "lb-userspace", "-p", "integration"]))?;
    process::run(
        workspace::cargo()
            .args([
                "run",
                "--quiet",
                "-p",
                "integration",
                "--bin",
                program,
                "--",
            ])
            .args(args.args),
    )
}
