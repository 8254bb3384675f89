//! What the kernel says of each program of an object: the verifier's work, translated and jitted size.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io, ptr};

use anyhow::{Context, Result, bail};

use crate::process::{find, is_root, output};

const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// Offsets in `struct bpf_prog_info` of linux/bpf.h.
const JITED_PROG_LEN: usize = 16;
const XLATED_PROG_LEN: usize = 20;
const VERIFIED_INSNS: usize = 216;
/// Up to and with `verified_insns` (Linux 5.16), rounded up.
const INFO_BYTES: usize = 224;

/// Loads every program of `object` into a private bpffs and prints one line for each; root only.
pub fn print(object: &Path) -> Result<()> {
    if !is_root() {
        bail!("loading BPF programs takes root");
    }
    let bpftool = find("bpftool").context("bpftool is not installed")?;
    let directory = PrivateBpffs::mount()?;
    let pins = directory.0.join("programs");
    output(
        Command::new(bpftool)
            .args(["prog", "loadall"])
            .arg(object)
            .arg(&pins),
    )
    .with_context(|| format!("the kernel refused {}", object.display()))?;
    let mut paths: Vec<PathBuf> = fs::read_dir(&pins)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()?;
    paths.sort();
    println!(
        "{:<24}{:>22}{:>18}{:>14}",
        "program", "verified instructions", "translated bytes", "jitted bytes"
    );
    for path in paths {
        let info = Info::of(&path)
            .with_context(|| format!("cannot ask the kernel about {}", path.display()))?;
        println!(
            "{:<24}{:>22}{:>18}{:>14}",
            path.file_name().unwrap_or_default().to_string_lossy(),
            info.u32_at(VERIFIED_INSNS),
            info.u32_at(XLATED_PROG_LEN),
            info.u32_at(JITED_PROG_LEN)
        );
    }
    Ok(())
}

/// A bpffs that only this process and its children see; the kernel drops it and its pins when they end.
struct PrivateBpffs(PathBuf);

impl PrivateBpffs {
    fn mount() -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("futago-stats-{}", std::process::id()));
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let guard = Self(directory);
        // SAFETY: unshare takes no pointers; this process has no other thread that shares the mount namespace.
        if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
            return Err(io::Error::last_os_error()).context("cannot enter a mount namespace");
        }
        mount(
            "none",
            Path::new("/"),
            None,
            libc::MS_REC | libc::MS_PRIVATE,
        )
        .context("cannot make the mounts private")?;
        mount("bpf", &guard.0, Some(c"bpf"), 0).context("cannot mount a bpffs")?;
        Ok(guard)
    }
}

impl Drop for PrivateBpffs {
    fn drop(&mut self) {
        if let Ok(path) = CString::new(self.0.as_os_str().as_encoded_bytes()) {
            // SAFETY: `path` is a NUL-terminated string that outlives the call.
            unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        }
        let _ = fs::remove_dir(&self.0);
    }
}

fn mount(
    source: &str,
    target: &Path,
    kind: Option<&std::ffi::CStr>,
    flags: libc::c_ulong,
) -> io::Result<()> {
    let source = CString::new(source)?;
    let target = CString::new(target.as_os_str().as_encoded_bytes())?;
    let kind = kind.map_or(ptr::null(), std::ffi::CStr::as_ptr);
    // SAFETY: the strings are NUL-terminated and outlive the call; the data argument may be null.
    let result = unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind, flags, ptr::null()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `struct bpf_prog_info`; what an old kernel does not know stays 0.
struct Info([u8; INFO_BYTES]);

impl Info {
    fn of(pin: &Path) -> Result<Self> {
        let path = CString::new(pin.as_os_str().as_encoded_bytes())?;
        // union bpf_attr { u64 pathname; u32 bpf_fd; u32 file_flags; }
        let mut get = [0u64; 2];
        get[0] = path.as_ptr() as u64;
        let fd = bpf(BPF_OBJ_GET, &mut get)?;
        // SAFETY: the kernel has just returned this descriptor and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let mut info = Self([0; INFO_BYTES]);
        // union bpf_attr { u32 bpf_fd; u32 info_len; u64 info; }, little- and big-endian alike.
        let mut words = [0u8; 16];
        words[0..4].copy_from_slice(&fd.as_raw_fd().to_ne_bytes());
        words[4..8].copy_from_slice(&(INFO_BYTES as u32).to_ne_bytes());
        words[8..16].copy_from_slice(&(info.0.as_mut_ptr() as u64).to_ne_bytes());
        bpf(BPF_OBJ_GET_INFO_BY_FD, &mut words)?;
        Ok(info)
    }

    fn u32_at(&self, offset: usize) -> u32 {
        let bytes = [
            self.0[offset],
            self.0[offset + 1],
            self.0[offset + 2],
            self.0[offset + 3],
        ];
        u32::from_ne_bytes(bytes)
    }
}

fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attributes` is a live, writable object of the size that is passed; what it points to outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            ptr::from_mut(attributes),
            size_of::<T>() as libc::c_uint,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
