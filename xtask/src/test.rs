//! `cargo xtask test`: every test there is, in stages from cheap to dear, with one summary at the end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::process::is_root;
use crate::{packages, workspace};

/// Runs all tests: host, packets through the loaded program, real connections in the lab (root).
#[derive(clap::Args)]
pub struct Args {
    /// Leave the lab tests out.
    #[arg(long)]
    quick: bool,
}

/// Outcome of one stage.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct Counts {
    passed: u32,
    failed: u32,
    skipped: u32,
}

struct Stage {
    name: &'static str,
    what: &'static str,
    /// For `cargo test`; `None` if this tree has no such tests.
    selection: Option<Vec<String>>,
}

pub fn run(args: Args) -> Result<()> {
    if !is_root() {
        bail!(
            "the packet tests load BPF programs and the lab tests create network namespaces: run this as root. \
             Without root: cargo test --workspace --exclude integration"
        );
    }
    packages::ensure(if args.quick {
        packages::Use::PacketTests
    } else {
        packages::Use::LabTests
    })?;
    let mut stages = vec![host_stage(), packet_stage()?];
    if !args.quick {
        stages.push(lab_stage()?);
    }
    let mut results = Vec::new();
    for (number, stage) in stages.iter().enumerate() {
        println!(
            "\n=== {}/{} {} tests: {}",
            number + 1,
            stages.len(),
            stage.name,
            stage.what
        );
        results.push((stage.name, stage.run(None)?));
    }
    let total = results
        .iter()
        .fold(Counts::default(), |total, (_, counts)| total.plus(*counts));
    println!();
    for (name, counts) in &results {
        println!("{name} tests: {counts}");
    }
    println!("{total}");
    if total.failed > 0 || total.passed == 0 {
        bail!("tests failed");
    }
    Ok(())
}

/// Runs the packet tests on another object than the prebuilt one; an error if one fails or none ran.
pub fn packet_tests_on(object: &Path) -> Result<()> {
    let stage = packet_stage()?;
    let counts = stage.run(Some(object))?;
    println!("{} tests: {counts}", stage.name);
    if counts.failed > 0 {
        bail!(
            "{} packet tests failed on {}",
            counts.failed,
            object.display()
        );
    }
    Ok(())
}

fn host_stage() -> Stage {
    let selection = ["--workspace", "--exclude", "integration"]
        .map(str::to_owned)
        .to_vec();
    Stage {
        name: "host",
        what: "pure code, on this machine's processor",
        selection: Some(selection),
    }
}

fn packet_stage() -> Result<Stage> {
    let selection = integration_tests(|name| name.starts_with("packet"))?;
    Ok(Stage {
        name: "packet",
        what: "packet in, verdict and packet out, through the loaded program",
        selection,
    })
}

/// The `futago` that these start is the one that the host stage has built for its own tests of the binary.
fn lab_stage() -> Result<Stage> {
    let mut selection = integration_tests(|name| !name.starts_with("packet"))?;
    if let Some(selection) = &mut selection {
        selection.insert(0, "--lib".to_owned());
    }
    Ok(Stage {
        name: "lab",
        what: "real programs and connections between network namespaces",
        selection,
    })
}

/// Selects those of `integration/tests/` whose names are wanted.
fn integration_tests(wanted: impl Fn(&str) -> bool) -> Result<Option<Vec<String>>> {
    let directory = workspace::root().join("integration/tests");
    let mut names = Vec::new();
    if directory.is_dir() {
        for entry in fs::read_dir(&directory)
            .with_context(|| format!("cannot list {}", directory.display()))?
        {
            let path = entry?.path();
            let is_test = path.extension().is_some_and(|extension| extension == "rs")
                || path.join("main.rs").exists();
            let name = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if is_test && wanted(&name) {
                names.push(name);
            }
        }
    }
    names.sort();
    if names.is_empty() {
        return Ok(None);
    }
    let mut selection = vec!["--package".to_owned(), "integration".to_owned()];
    for name in names {
        selection.extend(["--test".to_owned(), name]);
    }
    Ok(Some(selection))
}

impl Stage {
    fn run(&self, object: Option<&Path>) -> Result<Counts> {
        let Some(selection) = &self.selection else {
            println!("(none in this tree)");
            return Ok(Counts::default());
        };
        let mut command = workspace::cargo();
        command.args(["test", "--no-fail-fast"]).args(selection);
        match object {
            Some(object) => command.env("FUTAGO_BPF_OBJECT", object),
            None => command.env_remove("FUTAGO_BPF_OBJECT"),
        };
        count(&mut command)
    }
}

/// Runs `cargo test`, shows what it prints and adds its summaries up.
fn count(command: &mut Command) -> Result<Counts> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let stdout = child.stdout.take().context("cargo's output is piped")?;
    let mut counts = Counts::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("cannot read the output of cargo")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        if let Some(summary) = Counts::parse(&line) {
            counts = counts.plus(summary);
        }
    }
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() && counts.failed == 0 {
        println!("cargo test ended without a summary ({status}): counted as one failure");
        counts.failed = 1;
    }
    Ok(counts)
}

impl Counts {
    /// Reads libtest's `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn parse(line: &str) -> Option<Self> {
        let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let mut counts = Self::default();
        for part in numbers.split(';') {
            match part.trim().split_once(' ') {
                Some((number, "passed")) => counts.passed = number.parse().ok()?,
                Some((number, "failed")) => counts.failed = number.parse().ok()?,
                Some((number, "ignored")) => counts.skipped = number.parse().ok()?,
                _ => {}
            }
        }
        Some(counts)
    }

    fn plus(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
        }
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_summaries_of_libtest() {
        let failed = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.02s";
        assert_eq!(
            Counts::parse(failed),
            Some(Counts {
                passed: 12,
                failed: 3,
                skipped: 1
            })
        );
        let passed = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(Counts::parse(passed), Some(Counts::default()));
        assert_eq!(Counts::parse("test dataplane::reply ... ok"), None);
        assert_eq!(
            Counts {
                passed: 2,
                failed: 0,
                skipped: 1
            }
            .to_string(),
            "2 passed, 0 failed, 1 skipped"
        );
    }

    #[test]
    fn a_command_that_dies_without_a_summary_is_a_failure() {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "echo 'test result: ok. 2 passed; 0 failed; 0 ignored'; exit 101",
        ]);
        assert_eq!(
            count(&mut command).expect("sh starts"),
            Counts {
                passed: 2,
                failed: 1,
                skipped: 0
            }
        );
    }
}
