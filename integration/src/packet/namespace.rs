//! A network namespace and a bpffs of a test's own, which vanish with the thread that has them.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
    thread,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// Runs `test` in a network namespace where these `ip` commands were executed, forwarding is on, and `/sys/fs/bpf` is a bpffs that
/// nobody else sees.
///
/// # Panics
/// Without root, and where `test` does.
pub fn alone<T: Send>(commands: &[String], test: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            enter().unwrap_or_else(|error| {
                panic!("cannot make a namespace: {error}; run packet tests as root")
            });
            let lines = [&["link set lo up".to_owned()], commands].concat();
            ip(&lines.join("\n"));
            for family in ["ipv4", "ipv6"] {
                let switch = format!("/proc/sys/net/{family}/conf/all/forwarding");
                fs::write(&switch, "1").unwrap_or_else(|error| panic!("{switch}: {error}"));
            }
            test()
        });
        inside
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn enter() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(
        Some("bpf"),
        "/sys/fs/bpf",
        Some("bpf"),
        MsFlags::empty(),
        none,
    )
}

fn ip(commands: &str) {
    let child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.expect("iproute2 is installed");
    if let Some(mut stdin) = child.stdin.take() {
        // When `ip` gives up early its own words are the better error.
        let _ = stdin.write_all(commands.as_bytes());
    }
    let output = child.wait_with_output().expect("a child of ours");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip: {text}\n{commands}");
}
