//! The directory in a bpffs that keeps tables and links while no process runs.

use std::{
    collections::BTreeSet,
    ffi::CString,
    fs::{self, File},
    io,
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::{Path, PathBuf},
};

use lb_common::tables::LAYOUT_VERSION;

use crate::lock;

pub const DEFAULT_DIRECTORY: &str = "/sys/fs/bpf/futago";

/// Where the host's bpffs is, by convention of systemd, bpftool and libbpf.
const BPFFS: &str = "/sys/fs/bpf";

/// Names the generation that the attached programs use. A bpffs takes no dots in names.
const CURRENT: &str = "current";
const LINKS: &str = "links";

/// Why there is no place to pin to.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error("{} is not in a bpffs (mount one with: mount -t bpf bpf {})", .0.display(), .0.display())]
    NotBpffs(PathBuf),
    #[error(
        "cannot mount a bpffs at {BPFFS}: {0} (run as root, or mount it with: mount -t bpf bpf {BPFFS})"
    )]
    Mount(#[source] io::Error),
    #[error("{} is in use by another futago process; stop that one first, or use another directory", .0.display())]
    InUse(PathBuf),
    #[error("cannot {what} {}: {source}{}", .path.display(), hint(.source))]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied {
        " (run as root)"
    } else {
        ""
    }
}

/// The pin directory, locked: one process at a time.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    lock: File,
}

/// A directory with one set of tables. Unless it is kept, dropping it removes it: nothing uses it yet.
#[derive(Debug)]
pub struct Generation {
    path: PathBuf,
    kept: bool,
}

impl Directory {
    /// Makes the directory if it is not there, mounts the host's bpffs if that is missing, and locks it.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        ensure_bpffs(path)?;
        fs::create_dir_all(path).map_err(cannot("make", path))?;
        let lock = File::open(path).map_err(cannot("open", path))?;
        if !lock::exclusive(&lock).map_err(cannot("lock", path))? {
            return Err(DirectoryError::InUse(path.to_owned()));
        }
        let directory = Self {
            path: path.to_owned(),
            lock,
        };
        let links = directory.links();
        fs::create_dir_all(&links).map_err(cannot("make", &links))?;
        Ok(directory)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tables that the attached programs use, if their layout is this program's.
    pub fn current(&self) -> Option<Generation> {
        let name = fs::read_link(self.path.join(CURRENT)).ok()?;
        let path = self.path.join(&name);
        (name.parent() == Some(Path::new(&version())) && path.is_dir())
            .then_some(Generation { path, kept: true })
    }

    /// An empty directory for a new set of tables. What an earlier process has left half made is removed.
    pub fn fresh(&self) -> Result<Generation, DirectoryError> {
        let current = fs::read_link(self.path.join(CURRENT)).ok();
        self.remove_generations_except(current.as_deref())?;
        let version = self.path.join(version());
        fs::create_dir_all(&version).map_err(cannot("make", &version))?;
        let taken = entries(&version)?
            .into_iter()
            .filter_map(|name| name.parse::<u64>().ok())
            .max();
        let path = version.join(taken.map_or(0, |last| last + 1).to_string());
        fs::create_dir(&path).map_err(cannot("make", &path))?;
        Ok(Generation { path, kept: false })
    }

    /// Makes a generation the current one, in one step, and removes all others.
    pub fn publish(&self, generation: &mut Generation) -> Result<(), DirectoryError> {
        let name = generation.path.strip_prefix(&self.path);
        let name = name.unwrap_or(&generation.path).to_owned();
        let link = self.path.join(CURRENT);
        if fs::read_link(&link).ok().as_ref() != Some(&name) {
            let new = self.path.join("current-new");
            ignore_missing(fs::remove_file(&new)).map_err(cannot("remove", &new))?;
            symlink(&name, &new).map_err(cannot("make", &new))?;
            fs::rename(&new, &link).map_err(cannot("replace", &link))?;
        }
        generation.kept = true;
        self.remove_generations_except(Some(&name))
    }

    /// Where the link of an interface is pinned.
    pub fn link(&self, interface: &str) -> PathBuf {
        self.links().join(pin_name(interface))
    }

    /// Pins of links that belong to none of these interfaces.
    pub fn other_links<'a>(
        &self,
        interfaces: impl Iterator<Item = &'a str>,
    ) -> Result<Vec<PathBuf>, DirectoryError> {
        let links = self.links();
        let ours: BTreeSet<String> = interfaces.map(pin_name).collect();
        let names = entries(&links)?.into_iter();
        let others = names.filter(|name| !ours.contains(name));
        Ok(others.map(|name| links.join(name)).collect())
    }

    /// Removes all of it. Links are detached before.
    pub fn remove(self) -> Result<(), DirectoryError> {
        let link = self.path.join(CURRENT);
        ignore_missing(fs::remove_file(&link)).map_err(cannot("remove", &link))?;
        self.remove_generations_except(None)?;
        let links = self.links();
        fs::remove_dir_all(&links).map_err(cannot("remove", &links))?;
        match fs::remove_dir(&self.path) {
            // A mount point, which is not ours to remove, or somebody else's pins.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ResourceBusy | io::ErrorKind::DirectoryNotEmpty
                ) =>
            {
                Ok(())
            }
            result => result.map_err(cannot("remove", &self.path)),
        }?;
        drop(self.lock);
        Ok(())
    }

    fn links(&self) -> PathBuf {
        self.path.join(LINKS)
    }

    /// `kept` is relative to the directory.
    fn remove_generations_except(&self, kept: Option<&Path>) -> Result<(), DirectoryError> {
        for version in entries(&self.path)? {
            let number = version.strip_prefix('v').map(str::parse::<u32>);
            if !matches!(number, Some(Ok(_))) {
                continue;
            }
            let path = self.path.join(&version);
            let mut empty = true;
            for generation in entries(&path)? {
                if Some(Path::new(&version).join(&generation).as_path()) == kept {
                    empty = false;
                    continue;
                }
                let path = path.join(generation);
                fs::remove_dir_all(&path).map_err(cannot("remove", &path))?;
            }
            if empty {
                fs::remove_dir(&path).map_err(cannot("remove", &path))?;
            }
        }
        Ok(())
    }
}

impl Generation {
    pub fn map(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Leaves the removal to somebody else.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "unused tables are left; the next start removes them");
        }
    }
}

fn version() -> String {
    format!("v{LAYOUT_VERSION}")
}

/// An interface's name without dots, which a bpffs refuses.
fn pin_name(interface: &str) -> String {
    interface.replace('%', "%25").replace('.', "%2e")
}

fn ensure_bpffs(path: &Path) -> Result<(), DirectoryError> {
    let existing = path.ancestors().find(|ancestor| ancestor.is_dir());
    if existing.is_some_and(is_bpffs) {
        return Ok(());
    }
    if !path.starts_with(BPFFS) {
        return Err(DirectoryError::NotBpffs(path.to_owned()));
    }
    // SAFETY: all strings end in a zero byte and outlive the call; a bpffs takes no data.
    let failed = unsafe {
        libc::mount(
            c"bpf".as_ptr(),
            c"/sys/fs/bpf".as_ptr(),
            c"bpf".as_ptr(),
            libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
            std::ptr::null(),
        )
    } != 0;
    if failed {
        return Err(DirectoryError::Mount(io::Error::last_os_error()));
    }
    tracing::info!("mounted a bpffs at {BPFFS}");
    Ok(())
}

fn is_bpffs(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: a plain C struct of integers; all zeros is a value.
    let mut status: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends in a zero byte, and `status` is what statfs(2) fills.
    let failed = unsafe { libc::statfs(path.as_ptr(), &raw mut status) } != 0;
    !failed && status.f_type == libc::BPF_FS_MAGIC
}

fn entries(path: &Path) -> Result<Vec<String>, DirectoryError> {
    let list = || {
        fs::read_dir(path)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<_>>()
    };
    list().map_err(cannot("list", path))
}

pub fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn cannot(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |source| DirectoryError::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_names_have_no_dots_and_differ_where_interfaces_do() {
        assert_eq!(pin_name("eth0"), "eth0");
        assert_eq!(pin_name("lan.5"), "lan%2e5");
        assert_ne!(pin_name("lan%2e5"), pin_name("lan.5"));
    }

    #[test]
    fn an_ordinary_directory_is_refused_with_the_way_out() {
        let path = std::env::temp_dir().join("futago-no-bpffs");
        let error = Directory::open(&path).expect_err("no bpffs");
        assert!(error.to_string().contains("mount -t bpf bpf"), "{error}");
        assert!(!path.exists());
    }
}
