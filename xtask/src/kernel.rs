//! `cargo xtask kernel`: the programs on another kernel than the one that runs here. Debian's package of it boots under software
//! emulation with a small file system that holds our own binaries, so that neither the machine nor its processor is asked for anything.

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::{find, output, run as run_shown};
use crate::{ebpf, packages, workspace};

/// Boots another kernel, loads the programs there and runs packet tests on them (Debian; no root needed but for missing packages).
#[derive(clap::Args)]
pub struct Args {
    /// Which kernel: the newest Debian package of this version that the package lists have.
    #[arg(long, default_value = "6.1")]
    version: String,
    /// Tests of `integration` to run there; may be given several times.
    #[arg(long = "test", default_values_t = ["packet_forward".to_owned()])]
    tests: Vec<String>,
}

/// An emulated processor is a hundred times slower, and the verifier is thorough.
const PATIENCE: Duration = Duration::from_secs(1500);
/// What the guest says when it is done; a kernel that crashed says nothing.
const DONE: &str = "futago-kernel: done";
const PASSED: &str = "futago-kernel: passed";

pub fn run(args: &Args) -> Result<()> {
    packages::ensure(packages::Use::Kernel)?;
    let directory = workspace::target_dir().join("kernel").join(&args.version);
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let (image, modules) = kernel(&directory, &args.version)?;
    let tests = args
        .tests
        .iter()
        .map(|name| test_binary(name))
        .collect::<Result<Vec<_>>>()?;
    let archive = initramfs(&directory, &modules, &tests)?;
    boot(&image, &archive)
}

/// Downloads and unpacks Debian's package, which is not installed; the kernel image and its modules.
fn kernel(directory: &Path, version: &str) -> Result<(PathBuf, PathBuf)> {
    let pattern = format!(
        "^linux-image-{}[.0-9+deb-]*-amd64$",
        version.replace('.', "\\.")
    );
    let found = output(Command::new("apt-cache").args(["search", "--names-only", &pattern]))?;
    let package = found
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.contains(&format!("image-{version}.")))
        .filter(|name| !name.contains("cloud") && !name.contains("-rt-"))
        .max_by_key(|name| numbers(name))
        .with_context(|| format!("the package lists have no kernel {version} (apt-get update?)"))?;
    println!("Kernel: Debian package {package}");
    let root = directory.join(package);
    if !root.join("boot").is_dir() {
        run_shown(
            Command::new("apt-get")
                .args(["download", "-q", package])
                .current_dir(directory),
        )?;
        let archive = entry(directory, |name| {
            name.starts_with(&format!("{package}_")) && name.ends_with(".deb")
        })?;
        run_shown(Command::new("dpkg-deb").arg("-x").arg(archive).arg(&root))?;
    }
    let image = entry(&root.join("boot"), |name| name.starts_with("vmlinuz-"))?;
    let modules = entry(&root.join("lib/modules"), |_| true)?;
    Ok((image, modules))
}

/// The numbers in a name, by which versions are ordered.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

fn entry(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    entries
        .flatten()
        .find(|entry| wanted(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .with_context(|| format!("{} has not what is looked for", directory.display()))
}

/// Builds a test of `integration` and returns its executable.
fn test_binary(name: &str) -> Result<PathBuf> {
    let mut command = workspace::cargo();
    command
        .args(["test", "--package", "integration", "--test", name])
        .args(["--no-run", "--message-format=json"])
        .stderr(Stdio::inherit());
    let text = output(&mut command)?;
    text.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo did not name the executable of the test {name}"))
}

/// A file system of what the guest runs, with the libraries that it needs, in cpio's format.
fn initramfs(directory: &Path, modules: &Path, tests: &[PathBuf]) -> Result<PathBuf> {
    let root = directory.join("root");
    let _ = fs::remove_dir_all(&root);
    for name in [
        "bin", "proc", "sys", "dev", "tmp", "run", "tests", "modules",
    ] {
        fs::create_dir_all(root.join(name)).context("cannot make the guest's directories")?;
    }
    let program = |name: &str| find(name).with_context(|| format!("{name} is not installed"));
    copy(&program("busybox")?, &root.join("bin/busybox"))?;
    let own = std::env::current_exe().context("cannot find the running program")?;
    for (from, to) in [
        (program("ip")?, "bin/ip"),
        (program("bpftool")?, "bin/bpftool"),
        (own, "bin/xtask"),
    ] {
        with_libraries(&from, &root, to)?;
    }
    let mut script = String::from(HEAD);
    for test in tests {
        let name = test.file_name().unwrap_or_default().to_string_lossy();
        with_libraries(test, &root, &format!("tests/{name}"))?;
        script += &format!("/tests/{name} --test-threads=1 || failed=1\n");
    }
    script += &format!("[ -z \"$failed\" ] && echo '{PASSED}'\necho '{DONE}'\npoweroff -f\n");
    // The object lies where `cargo xtask ebpf --stats` looks for it.
    let object = ebpf::object_path();
    copy(&object, &inside(&root, &object))?;
    let veth = modules.join("kernel/drivers/net/veth.ko");
    copy(&veth, &root.join("modules/veth.ko"))?;
    let init = root.join("init");
    fs::write(&init, script)
        .and_then(|()| fs::set_permissions(&init, fs::Permissions::from_mode(0o755)))
        .context("cannot write the guest's init")?;
    let archive = directory.join("initramfs.cpio");
    let list = output(Command::new("find").arg(".").current_dir(&root))?;
    let file = fs::File::create(&archive)
        .with_context(|| format!("cannot create {}", archive.display()))?;
    let mut cpio = Command::new("cpio")
        .args(["--quiet", "-o", "-H", "newc", "-R", "0:0"])
        .current_dir(&root)
        .stdin(Stdio::piped())
        .stdout(file)
        .spawn()
        .context("cannot start cpio")?;
    let mut stdin = cpio.stdin.take().context("cpio's input is piped")?;
    stdin
        .write_all(list.as_bytes())
        .context("cannot write to cpio")?;
    drop(stdin);
    if !cpio.wait().context("cannot wait for cpio")?.success() {
        bail!("cpio failed");
    }
    Ok(archive)
}

const HEAD: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin TMPDIR=/tmp RUST_BACKTRACE=0
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
for module in /modules/*; do insmod $module || failed=1; done
echo \"futago-kernel: Linux $(uname -r)\"
xtask ebpf --stats || failed=1
";

/// Where an absolute path of this machine is in the guest.
fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn with_libraries(program: &Path, root: &Path, to: &str) -> Result<()> {
    copy(program, &root.join(to))?;
    // `libc.so.6 => /lib/... (0x...)` and `/lib64/ld-linux-x86-64.so.2 (0x...)`.
    let list = output(Command::new("ldd").arg(program))?;
    for library in list
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(Path::new)
    {
        let copied = inside(root, library);
        if !copied.exists() {
            copy(library, &copied)?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
    }
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

/// Boots the guest and shows what it prints; an error unless it says that all passed.
fn boot(image: &Path, archive: &Path) -> Result<()> {
    println!("Booting it under software emulation, which takes some minutes:");
    let began = Instant::now();
    let mut child = Command::new("qemu-system-x86_64")
        .args([
            "-accel",
            "tcg",
            "-cpu",
            "max",
            "-m",
            "2048",
            "-nographic",
            "-no-reboot",
        ])
        .args(["-nodefaults", "-serial", "stdio"])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(archive)
        .args(["-append", "console=ttyS0 quiet panic=-1 rdinit=/init"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start qemu-system-x86_64")?;
    let stdout = child
        .stdout
        .take()
        .context("the guest's console is piped")?;
    let (lines, console) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    let (mut passed, mut done) = (false, false);
    while !done {
        let left = PATIENCE.saturating_sub(began.elapsed());
        let Ok(line) = console.recv_timeout(left) else {
            break;
        };
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        passed |= line.ends_with(PASSED);
        done = line.ends_with(DONE);
        println!("  {line}");
    }
    // It has powered itself off, or hangs.
    let _ = child.kill();
    let _ = child.wait();
    let seconds = began.elapsed().as_secs();
    if !passed {
        bail!("the guest did not pass ({seconds} s); its last words are above");
    }
    println!("passed after {seconds} s");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_number() {
        let newest = ["linux-image-6.1.0-9-amd64", "linux-image-6.1.0-57-amd64"]
            .into_iter()
            .max_by_key(|name| numbers(name));
        assert_eq!(newest, Some("linux-image-6.1.0-57-amd64"));
    }
}
