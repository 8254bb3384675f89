//! The binary as an operator meets it: what it prints, where, and how it ends.

mod support;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use lb_userspace::daemon::command::Reloaded;
use support::{Daemon, Directory, status};

fn futago(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_futago"))
        .args(arguments)
        .env_remove("FUTAGO_SOCKET")
        .env_remove("RUST_LOG")
        .output()
        .expect("the binary runs")
}

/// (exit code, stdout, stderr)
fn outcome(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (
        output.status.code().expect("no signal"),
        text(&output.stdout),
        text(&output.stderr),
    )
}

fn run(arguments: &[&str]) -> (i32, String, String) {
    outcome(&futago(arguments))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

const MINIMAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/minimal.toml");
const CLI_PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");

#[test]
fn check_sums_up_a_good_file_in_a_line() {
    let (code, stdout, stderr) = run(&["check", MINIMAL]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(stdout.lines().count(), 1, "{stdout}");
    let start = format!("{MINIMAL}: good: 1 service, 2 backends, 2 nodes (lb1, lb2), ");
    assert!(stdout.starts_with(&start), "{stdout}");
    // How much depends on the processors of the host.
    assert!(stdout.ends_with("iB of tables\n"), "{stdout}");

    let (code, stdout, stderr) = run(&["check", MINIMAL, "--node", "lb2"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let end = "of tables; lb2 forwards on eth0 and has the VIPs on eth0\n";
    assert!(stdout.ends_with(end), "{stdout}");
}

#[test]
fn check_refuses_a_node_that_the_file_does_not_have() {
    let (code, stdout, stderr) = run(&["check", MINIMAL, "--node", "lb3"]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert_eq!(
        stderr,
        "error: the configuration has no [node.lb3]; it has: lb1, lb2\n"
    );
}

#[test]
fn check_shows_mistakes_and_warnings_with_their_place() {
    let directory = Directory::new("cli-check");
    let path = directory.path("futago.toml");
    let good = fs::read_to_string(MINIMAL).expect("the example");
    fs::write(&path, good.replace("port = 80", "prot = 80")).expect("writable");
    let output = Command::new(env!("CARGO_BIN_EXE_futago"))
        .args(["check", "futago.toml"])
        .current_dir(directory.path(""))
        .output()
        .expect("the binary runs");
    let (code, stdout, stderr) = outcome(&output);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert_eq!(
        stderr,
        "error: unknown key `prot` in [[service]]\n  --> futago.toml:12:1\n   |\n12 | prot = 80\n   \
         | ^^^^ did you mean `port`?\n\nfutago.toml: 1 error\n"
    );
    let page = fs::read_to_string(CLI_PAGE).expect("the page");
    assert!(page.contains(&stderr), "docs/cli.md shows another text");

    // Both backends drained by hand: allowed, and probably not meant.
    let drained = good
        .replace("\"192.0.2.21\"", "\"192.0.2.21\"\nweight = 0")
        .replace("\"192.0.2.22\"", "\"192.0.2.22\"\nweight = 0");
    fs::write(&path, drained).expect("writable");
    let (code, stdout, stderr) = run(&["check", text(&path)]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains(": good: 1 service"), "{stdout}");
    assert!(stderr.starts_with("warning: "), "{stderr}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let (code, stdout, stderr) = run(&["check", "/nonexistent/futago.toml"]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert_eq!(
        stderr,
        "error: cannot read /nonexistent/futago.toml: No such file or directory (os error 2)\n"
    );
}

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    for wrong in [
        &[] as &[&str],
        &["fly"],
        &["check"],
        &["run", "--config", MINIMAL],
        &["status", "--watch=0"],
        &["stop", "--force"],
        &["backend"],
        &["backend", "--undo", "--check"],
        &["backend", "--config", MINIMAL, "--json"],
    ] {
        let (code, stdout, stderr) = run(wrong);
        assert_eq!((code, stdout.as_str()), (2, ""), "{wrong:?}: {stderr}");
        assert!(!stderr.is_empty(), "{wrong:?}");
    }
    let (code, help, _) = run(&["--help"]);
    assert_eq!(code, 0);
    for subcommand in ["check", "run", "status", "reload", "stop", "backend"] {
        let listed = help
            .lines()
            .any(|line| line.trim_start().starts_with(&format!("{subcommand} ")));
        assert!(listed, "{subcommand} in {help}");
        let (code, help, _) = run(&[subcommand, "--help"]);
        assert_eq!(code, 0);
        assert!(
            help.contains("Examples:\n  futago "),
            "{subcommand}: {help}"
        );
        assert!(help.contains("Exit codes: 0 "), "{subcommand}: {help}");
    }
    let (code, version, _) = run(&["--version"]);
    assert_eq!(
        (code, version),
        (0, format!("futago {}\n", env!("CARGO_PKG_VERSION")))
    );
}

#[test]
fn a_host_that_is_no_backend_is_told_so_and_nothing_is_changed() {
    let directory = Directory::new("cli-backend");
    let state = directory.path("backend.json");
    let (code, stdout, stderr) = run(&["backend", "--config", MINIMAL, "--state", text(&state)]);
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(
        stderr.starts_with("error: no backend has an address of this host ("),
        "{stderr}"
    );
    assert!(!state.exists());
    let (code, stdout, stderr) = run(&["backend", "--undo", "--state", text(&state)]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(
        stdout,
        format!("nothing to undo: {} records no change\n", state.display())
    );
}

#[test]
fn a_log_filter_that_is_none_is_wrong_usage() {
    let output = Command::new(env!("CARGO_BIN_EXE_futago"))
        .args(["run", "--config", "/nonexistent", "--node", "lb1"])
        .env("RUST_LOG", "futago=loud")
        .output()
        .expect("the binary runs");
    let (code, _, stderr) = outcome(&output);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.starts_with("error: RUST_LOG "), "{stderr}");
}

#[test]
fn status_shows_the_table_or_the_json() {
    let directory = Directory::new("cli-status");
    let socket = directory.path("futago.sock");
    let daemon = Daemon::start(&socket, Ok(Reloaded::default()));

    let (code, stdout, stderr) = run(&["status", "--socket", text(&socket)]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(stdout, include_str!("data/status.txt"));

    let output = Command::new(env!("CARGO_BIN_EXE_futago"))
        .args(["status", "--json"])
        .env("FUTAGO_SOCKET", &socket)
        .output()
        .expect("the binary runs");
    let (code, stdout, stderr) = outcome(&output);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let shown: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(shown, serde_json::to_value(status()).expect("JSON"));

    let (code, stdout, _) = run(&["stop", "--socket", text(&socket)]);
    assert_eq!(
        (code, stdout.as_str()),
        (0, "stopped; this node forwards nothing any more\n")
    );
    assert_eq!(daemon.heard(), ["status", "status", "stop keep=false"]);
}

#[test]
fn status_watches_until_the_daemon_is_gone() {
    use std::{
        io::{BufRead as _, BufReader},
        process::Stdio,
    };

    let directory = Directory::new("cli-watch");
    let socket = directory.path("futago.sock");
    let daemon = Daemon::start(&socket, Ok(Reloaded::default()));
    let mut watch = Command::new(env!("CARGO_BIN_EXE_futago"))
        .args(["status", "--json", "--watch", "--socket", text(&socket)])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut lines = BufReader::new(watch.stdout.take().expect("piped")).lines();
    for _ in 0..2 {
        let line = lines.next().expect("another one").expect("text");
        let _: lb_userspace::api::status::Status = serde_json::from_str(&line).expect("a status");
    }
    let (code, ..) = run(&["stop", "--socket", text(&socket)]);
    assert_eq!(code, 0);
    daemon.heard();
    let (code, _, stderr) = outcome(&watch.wait_with_output().expect("it ends"));
    assert_eq!(code, 1);
    assert!(
        stderr.starts_with("error: no daemon listens at "),
        "{stderr}"
    );
}

#[test]
fn reload_shows_what_changed_or_every_mistake() {
    let directory = Directory::new("cli-reload");
    let socket = directory.path("futago.sock");
    let reloaded = Reloaded {
        changed: vec!["web".to_owned()],
        ..Reloaded::default()
    };
    let daemon = Daemon::start(&socket, Ok(reloaded));
    let (code, stdout, _) = run(&["reload", "--socket", text(&socket)]);
    assert_eq!(
        (code, stdout.as_str()),
        (0, "reloaded: 1 service changed (web)\n")
    );
    let (code, stdout, _) = run(&["stop", "--keep", "--socket", text(&socket)]);
    assert_eq!(code, 0);
    assert!(stdout.contains("goes on forwarding"), "{stdout}");
    assert_eq!(daemon.heard(), ["reload", "stop keep=true"]);

    let mistakes = "error: unknown key `prot`\n --> futago.toml:3:1\n".to_owned();
    let daemon = Daemon::start(&socket, Err(mistakes.clone()));
    let (code, stdout, stderr) = run(&["reload", "--socket", text(&socket)]);
    assert_eq!((code, stdout.as_str(), stderr), (1, "", mistakes));
    run(&["stop", "--socket", text(&socket)]);
    assert_eq!(daemon.heard(), ["reload", "stop keep=false"]);
}

#[test]
fn without_a_daemon_every_client_fails_and_says_what_to_do() {
    let directory = Directory::new("cli-nobody");
    let socket = directory.path("futago.sock");
    for subcommand in ["status", "reload", "stop"] {
        let (code, stdout, stderr) = run(&[subcommand, "--socket", text(&socket)]);
        assert_eq!((code, stdout.as_str()), (1, ""), "{subcommand}");
        let expected = format!("error: no daemon listens at {}: start it", socket.display());
        assert!(stderr.starts_with(&expected), "{subcommand}: {stderr}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    use std::process::Stdio;

    let mut child = Command::new(env!("CARGO_BIN_EXE_futago"))
        .args(["check", MINIMAL])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(child.stdout.take());
    let (code, _, stderr) = outcome(&child.wait_with_output().expect("it ends"));
    assert_eq!((code, stderr.as_str()), (0, ""));
}
