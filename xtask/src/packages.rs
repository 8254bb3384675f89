//! Programs of the system that Futago's tools call, the Debian package of each, and how the missing ones are installed.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{self, find, is_root};

/// What needs a program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// `cargo xtask demo`
    Demo,
    /// `cargo xtask drill`
    Drill,
    /// `cargo xtask bench`
    Bench,
    /// `cargo xtask ebpf --stats`, and the check of an object from another toolchain
    Load,
    /// `cargo xtask kernel`
    Kernel,
    /// `cargo xtask test --quick`: host and packet tests
    PacketTests,
    /// `cargo xtask test`: all of them
    LabTests,
}

struct Needed {
    program: &'static str,
    package: &'static str,
    purpose: &'static str,
    used_by: &'static [Use],
}

const TABLE: &[Needed] = &[
    needed(
        "ip",
        "iproute2",
        "namespaces, links, addresses, routes",
        &[
            Use::Demo,
            Use::Drill,
            Use::Bench,
            Use::LabTests,
            Use::Kernel,
        ],
    ),
    needed(
        "ethtool",
        "ethtool",
        "switches checksum offload off on veth",
        &[Use::Demo, Use::Drill, Use::Bench, Use::LabTests],
    ),
    needed(
        "nginx",
        "nginx",
        "the backends",
        &[Use::Demo, Use::Drill, Use::LabTests],
    ),
    needed(
        "curl",
        "curl",
        "single requests",
        &[Use::Demo, Use::Drill, Use::LabTests],
    ),
    needed(
        "wrk",
        "wrk",
        "many requests",
        &[Use::Demo, Use::Drill, Use::LabTests],
    ),
    needed(
        "ping",
        "iputils-ping",
        "reachability",
        &[Use::Demo, Use::Drill, Use::LabTests],
    ),
    needed(
        "traceroute",
        "traceroute",
        "hops, in the matrix of modes",
        &[Use::LabTests],
    ),
    needed(
        "tcpdump",
        "tcpdump",
        "what is on the wire",
        &[Use::Demo, Use::Drill, Use::LabTests],
    ),
    needed(
        "tshark",
        "tshark",
        "an independent dissector",
        &[Use::LabTests],
    ),
    needed(
        "nft",
        "nftables",
        "loss and firewalls in the lab",
        &[Use::Demo, Use::Drill, Use::Bench, Use::LabTests],
    ),
    needed(
        "keepalived",
        "keepalived",
        "VRRP interoperability",
        &[Use::Drill, Use::LabTests],
    ),
    needed(
        "bpftool",
        "bpftool",
        "loads an object, shows maps",
        &[Use::Load, Use::LabTests, Use::Kernel],
    ),
    needed(
        "qemu-system-x86_64",
        "qemu-system-x86",
        "boots another kernel",
        &[Use::Kernel],
    ),
    needed(
        "busybox",
        "busybox-static",
        "the programs of that kernel's guest",
        &[Use::Kernel],
    ),
    needed("cpio", "cpio", "the guest's file system", &[Use::Kernel]),
];

/// Packages whose installation enables a service that must neither start now nor at the next boot.
const WITH_SERVICE: &[&str] = &["nginx", "keepalived"];

/// Installs `$@` while no service can be started, and leaves no service enabled that was not there before.
///
/// `invoke-rc.d` and `deb-systemd-invoke` ask `/usr/sbin/policy-rc.d`; 101 means no. The trap also runs after Ctrl-C.
const INSTALL: &str = r#"
set -eu
policy=/usr/sbin/policy-rc.d
marker='# cargo xtask: no service starts while its packages are installed'
if [ -e "$policy" ] && ! grep -qxF "$marker" "$policy"; then
    : # The machine has a policy of its own, as containers do.
else
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\n%s\nexit 101\n' "$marker" > "$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -o DPkg::Lock::Timeout=300 update -q
apt-get -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold install -y -q --no-install-recommends "$@"
"#;

const fn needed(
    program: &'static str,
    package: &'static str,
    purpose: &'static str,
    used_by: &'static [Use],
) -> Needed {
    Needed {
        program,
        package,
        purpose,
        used_by,
    }
}

/// Makes sure that every program which `purpose` needs is there.
///
/// On Debian and Ubuntu as root the missing ones are installed, elsewhere the error lists them.
pub fn ensure(purpose: Use) -> Result<()> {
    let missing: Vec<&Needed> = missing(purpose).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("Missing programs:");
    for need in &missing {
        eprintln!(
            "  {:<12} Debian package {:<14} {}",
            need.program, need.package, need.purpose
        );
    }
    install(&missing.iter().map(|need| need.package).collect::<Vec<_>>())?;
    let still: Vec<&str> = self::missing(purpose).map(|need| need.program).collect();
    if !still.is_empty() {
        bail!(
            "the packages are installed, but these programs are still not found: {}",
            still.join(", ")
        );
    }
    Ok(())
}

/// Installs Debian packages as root; elsewhere an error says what to install by hand.
pub fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if !has_apt() {
        bail!(
            "this is neither Debian nor Ubuntu: install what these Debian packages hold, then run again: {list}"
        );
    }
    if !is_root() {
        bail!("only root can install them: apt-get install --no-install-recommends {list}");
    }
    eprintln!("Installing: {list}");
    let status = Command::new("sh")
        .args(["-c", INSTALL, "install"])
        .args(packages)
        .stdin(std::process::Stdio::null())
        .status()
        .context("cannot start sh")?;
    if !status.success() {
        bail!("apt-get failed ({status}); its reason is above. By hand: apt-get install {list}");
    }
    for service in WITH_SERVICE
        .iter()
        .filter(|service| packages.contains(service))
    {
        disable(service)?;
    }
    Ok(())
}

/// Whether this is a system of Debian's kind, with `apt-get`.
pub fn has_apt() -> bool {
    find("apt-get").is_some()
        && fs::read_to_string("/etc/os-release").is_ok_and(|text| {
            text.lines()
                .filter(|line| line.starts_with("ID=") || line.starts_with("ID_LIKE="))
                .any(|line| line.contains("debian") || line.contains("ubuntu"))
        })
}

fn missing(purpose: Use) -> impl Iterator<Item = &'static Needed> {
    TABLE
        .iter()
        .filter(move |need| need.used_by.contains(&purpose) && find(need.program).is_none())
}

/// Keeps a service that was just installed from starting at the next boot.
fn disable(service: &str) -> Result<()> {
    let Some(systemctl) = find("systemctl") else {
        return Ok(());
    };
    if !Path::new(&format!("/lib/systemd/system/{service}.service")).exists() {
        return Ok(());
    }
    process::run(Command::new(systemctl).args(["--quiet", "disable", service]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_has_one_row() {
        for (row, need) in TABLE.iter().enumerate() {
            assert!(
                !need.used_by.is_empty(),
                "{} is needed by nothing",
                need.program
            );
            assert!(
                TABLE[..row]
                    .iter()
                    .all(|other| other.program != need.program),
                "{} twice",
                need.program
            );
        }
    }

    #[test]
    fn services_are_in_the_table() {
        for service in WITH_SERVICE {
            assert!(
                TABLE.iter().any(|need| need.package == *service),
                "{service}"
            );
        }
    }
}
