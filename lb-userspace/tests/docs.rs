//! What `docs/` says of the command line, the API and the metrics is what they are.

use std::{fmt::Write as _, fs, path::PathBuf};

use clap::CommandFactory as _;
use lb_common::{
    real_server::Outcome,
    reason::{Class, Reason},
};
use lb_userspace::{
    api::{DEFAULT_SOCKET, metrics::FAMILIES, server::ROUTES},
    cli::Cli,
};

const BEGIN: &str = "<!-- generated: UPDATE_DOCS=1 cargo test -p lb-userspace --test docs -->\n";
const END: &str = "<!-- end of the generated part -->\n";

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).expect("the page exists")
}

/// The page's one generated part is `generated`, or is made so.
fn compare(name: &str, generated: &str) {
    let text = read(name);
    let (before, rest) = text.split_once(BEGIN).expect("it has a generated part");
    let (written, after) = rest.split_once(END).expect("the generated part ends");
    let generated = format!("\n{generated}\n");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(
            path(name),
            format!("{before}{BEGIN}{generated}{END}{after}"),
        )
        .expect("the page is writable");
    } else {
        assert_eq!(
            written, generated,
            "write docs/{name} anew: UPDATE_DOCS=1 cargo test -p lb-userspace --test docs"
        );
    }
}

#[test]
fn the_metrics_and_reasons_are_those_of_the_source() {
    let mut text =
        String::from("## Families\n\n| name | type | labels | meaning |\n|---|---|---|---|\n");
    for family in FAMILIES {
        let labels: Vec<_> = family.labels.iter().map(|l| format!("`{l}`")).collect();
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} |",
            family.name,
            family.kind.as_str(),
            labels.join(", "),
            family.help
        );
    }
    text += "\n## Reasons\n\n| `reason` | `class` | meaning |\n|---|---|---|\n";
    for reason in Reason::ALL {
        let class = match reason.class() {
            Class::Forwarded => "forwarded",
            Class::Answered => "answered",
            Class::Passed => "passed",
            Class::Dropped => "dropped",
        };
        let _ = writeln!(
            text,
            "| `{}` | {class} | {} |",
            reason.label(),
            reason.explanation().trim()
        );
    }
    compare("metrics.md", &text);
}

#[test]
fn the_outcomes_of_a_servers_program_are_those_of_the_source() {
    let mut text = String::from("| `outcome` | the packet is | meaning |\n|---|---|---|\n");
    for outcome in Outcome::ALL {
        let class = match outcome.class() {
            Class::Dropped => "dropped",
            Class::Passed | Class::Forwarded | Class::Answered => "passed",
        };
        let _ = writeln!(
            text,
            "| `{}` | {class} | {} |",
            outcome.label(),
            outcome.explanation().trim()
        );
    }
    compare("backends.md", &text);
}

#[test]
fn the_routes_are_those_that_are_served() {
    let mut text = String::from("| method | path | what it does |\n|---|---|---|\n");
    for route in ROUTES {
        let _ = writeln!(
            text,
            "| {} | `{}` | {} |",
            route.method, route.path, route.summary
        );
    }
    compare("api.md", &text);
    assert!(read("api.md").contains(DEFAULT_SOCKET));
}

#[test]
fn every_subcommand_and_option_is_on_the_page() {
    let page = read("cli.md");
    let mut command = Cli::command();
    command.build();
    for subcommand in command.get_subcommands().filter(|c| c.get_name() != "help") {
        let name = subcommand.get_name();
        let (_, section) = page
            .split_once(&format!("\n## futago {name}\n"))
            .unwrap_or_else(|| panic!("no section for {name}"));
        let section = section.split("\n## ").next().unwrap_or_default();
        for option in subcommand.get_arguments().filter_map(|a| a.get_long()) {
            // What all of them take is told once.
            let told = match option {
                "help" => continue,
                "socket" => page.as_str(),
                _ => section,
            };
            assert!(told.contains(&format!("--{option}")), "{name} --{option}");
        }
    }
}

#[test]
fn the_table_on_the_page_is_the_one_that_is_printed() {
    assert!(read("cli.md").contains(include_str!("data/status.txt")));
}

#[test]
fn every_finding_on_a_server_is_explained() {
    let page = read("backends.md");
    for kind in lb_core::backend_host::Kind::ALL {
        let word = serde_json::to_value(kind).expect("a word");
        let word = format!("`{}`", word.as_str().expect("a word"));
        let severity = format!("| {} |", kind.severity());
        let row = page.lines().find(|line| {
            let first = line.split('|').nth(1).unwrap_or_default();
            line.starts_with('|') && first.contains(&word)
        });
        let row = row.unwrap_or_else(|| panic!("no row for {word}"));
        assert!(row.ends_with(&severity), "{row}");
    }
}
