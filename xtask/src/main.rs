//! `cargo xtask`: how Futago is built, tested and shown. Links to none of the other crates, so that it runs when they do not build.

mod demo;
mod ebpf;
mod packages;
mod process;
mod test;
mod workspace;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Builds, tests and shows Futago",
    version
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Args),
    Ebpf(ebpf::Args),
    Test(test::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Demo(args) => demo::run(args),
        Command::Ebpf(args) => ebpf::run(args),
        Command::Test(args) => test::run(args),
    }
}
