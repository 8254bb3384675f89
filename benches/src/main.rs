//! The benches: Futago beside what else one could use, on one machine, in turns. `docs/performance.md` says how to read the figures.

mod bed;
mod compare;
mod lru;
mod machine;
mod modes;
mod packet;
mod path;
mod report;
mod result;
mod services;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum};

use result::{Effort, Row};

#[derive(Parser)]
#[command(
    name = "cargo xtask bench",
    about = "Measures the load balancer and its alternatives"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(clap::Args)]
struct Run {
    /// Which suites
    #[arg(value_enum)]
    suites: Vec<Suite>,
    /// Also write the rows to this file, as docs/performance.md describes them
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Shorter rounds, and fewer
    #[arg(long)]
    quick: bool,
    /// Only cases whose name begins with this
    #[arg(long, value_name = "PREFIX", default_value = "")]
    case: String,
    /// Only these numbers of flows
    #[arg(long, value_delimiter = ',')]
    flows: Vec<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// Packets a second through a path, for every mode and every alternative
    Path,
    /// Nanoseconds of the program alone
    Packet,
}

#[derive(Subcommand)]
enum Command {
    /// Write docs/benchmarks.md from result files
    Report {
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Where to
        #[arg(long, default_value = "docs")]
        directory: PathBuf,
    },
    /// Whether the medians of the ratios of two runs are within 10 % of each other
    Compare { a: PathBuf, b: PathBuf },
}

fn main() -> ExitCode {
    match Cli::parse().go() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Cli {
    fn go(self) -> Result<bool> {
        match self.command {
            Some(Command::Report { files, directory }) => {
                let rows = read(&files)?;
                report::write(&rows, &files, &directory)?;
                Ok(true)
            }
            Some(Command::Compare { a, b }) => compare::compare(&read(&[a])?, &read(&[b])?),
            None => self.run.go().map(|()| true),
        }
    }
}

impl Run {
    fn go(self) -> Result<()> {
        let effort = Effort {
            quick: self.quick,
            case: self.case,
            flows: self.flows,
        };
        anyhow::ensure!(
            !self.suites.is_empty(),
            "name at least one suite: path, packet"
        );
        eprintln!("{}", machine::describe());
        let mut rows = Vec::new();
        for suite in &self.suites {
            rows.extend(match suite {
                Suite::Path => path::run(&effort)?,
                Suite::Packet => packet::run(&effort)?,
            });
            // What is there is kept, also if a later suite fails.
            if let Some(path) = &self.json {
                let text = serde_json::to_string_pretty(&rows)?;
                fs::write(path, text + "\n")
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
        result::print(&rows);
        Ok(())
    }
}

fn read(files: &[PathBuf]) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    for file in files {
        let text =
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let more: Vec<Row> = serde_json::from_str(&text)
            .with_context(|| format!("{} has no results", file.display()))?;
        rows.extend(more);
    }
    Ok(rows)
}
