//! `cargo xtask`: how Futago is built, tested and shown. Links to none of the other crates, so that it runs when they do not build.

mod ebpf;
mod kernel;
mod lab;
mod packages;
mod process;
mod test;
mod workspace;

use std::process::ExitCode;

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
    /// A load balancer, a client and three web servers as network namespaces, with real HTTP requests
    Demo(lab::Args),
    /// Break something of a running pair and measure what a client saw
    Drill(lab::Args),
    /// The benches: Futago beside what else one could use (root)
    Bench(lab::Args),
    Ebpf(ebpf::Args),
    Kernel(kernel::Args),
    Test(test::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Demo(args) => lab::run(lab::DEMO, args),
        Command::Drill(args) => lab::run(lab::DRILL, args),
        Command::Bench(args) => lab::run(lab::BENCH, args),
        Command::Ebpf(args) => ebpf::run(args),
        Command::Kernel(args) => kernel::run(&args),
        Command::Test(args) => test::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without the backtrace that `RUST_BACKTRACE=1` would put under a text meant for people.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
