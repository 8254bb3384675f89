//! Who owns a lab, and how it ends: nothing of a lab may outlive its owner, however the owner ended.
//!
//! * Every lab has a watchdog, a shell that reads from a pipe whose only writer is the owner. Return, panic, Ctrl-C, SIGTERM
//!   and SIGKILL all close the pipe, and the watchdog removes the lab. So there is no signal handler to install, and none to
//!   collide with. (`PR_SET_PDEATHSIG` would be no help: it fires when the *thread* that started the child ends.)
//! * The owner holds a lock on `owner` in the lab's directory, which the kernel releases with the process: unlike a pid, it
//!   cannot be reused. If the watchdog died too, the next lab finds the lock free and removes the rest.
//! * [`Claim::keep`] marks a lab as wanted; then only [`clean_all`] or its own `remove` script ends it.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::fcntl::{Flock, FlockArg};

use crate::error::{Context, Error, Result};

/// Locks, mounts and marks of all labs.
const RUN: &str = "/run/futago-lab";
/// Logs and served files of all labs; not under `/run`, which is memory.
const FILES: &str = "/var/tmp/futago-lab";
const REMOVE: &str = include_str!("remove.sh");

/// The right to one lab's name, namespaces, mounts and files. Dropping it removes them.
#[derive(Debug)]
pub(crate) struct Claim {
    pub id: String,
    pub dir: PathBuf,
    pub files: PathBuf,
    owner: Option<Flock<File>>,
    watchdog: Child,
    /// Open as long as the lab is wanted.
    leash: Option<ChildStdin>,
    kept: bool,
}

impl Claim {
    /// Removes what dead owners left, then claims an id that nobody else has.
    pub fn take(name: &str) -> Result<Self> {
        let all = lock_all()?;
        sweep(false)?;
        let (id, dir) = new_dir(name)?;
        let files = Path::new(FILES).join(&id);
        fs::create_dir_all(&files).context(|| format!("create {}", files.display()))?;
        fs::write(dir.join("remove"), REMOVE)
            .context(|| format!("write {}/remove", dir.display()))?;
        let owner = try_lock(&dir)?.ok_or_else(|| Error::Unexpected {
            what: format!("the new lab {id} is already locked by another process"),
        })?;
        drop(all);
        let mut watchdog = remove_command(&dir)
            .arg("when-owner-ends")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0) // Ctrl-C at a terminal goes to the whole foreground group.
            .spawn()
            .context(|| "start the lab's watchdog (sh)".into())?;
        let leash = watchdog.stdin.take();
        Ok(Self {
            id,
            dir,
            files,
            owner: Some(owner),
            watchdog,
            leash,
            kept: false,
        })
    }

    /// Lets the lab outlive its owner.
    pub fn keep(&mut self) -> Result<()> {
        fs::write(self.dir.join("keep"), "").context(|| format!("mark lab {} as kept", self.id))?;
        self.kept = true;
        Ok(())
    }

    pub fn watchdog_pid(&self) -> u32 {
        self.watchdog.id()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        drop(self.leash.take());
        let ended = self.watchdog.wait();
        drop(self.owner.take());
        if !self.kept && self.dir.exists() {
            // The watchdog was killed, or failed: once more from here.
            let again = remove_command(&self.dir).output();
            if self.dir.exists() {
                eprintln!(
                    "lab {} could not be removed (watchdog: {ended:?}, again: {again:?})",
                    self.id
                );
            }
        }
    }
}

/// Removes every lab that has no living owner, kept ones too. Returns their ids.
///
/// # Errors
/// Not root, or a lab's removal failed; the text names it.
pub fn clean_all() -> Result<Vec<String>> {
    let _all = lock_all()?;
    sweep(true)
}

fn sweep(kept_too: bool) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for dir in entries(RUN)? {
        if !kept_too && dir.join("keep").exists() {
            continue;
        }
        let Some(free) = try_lock(&dir)? else {
            continue;
        };
        if dir.join("remove").exists() {
            // Its watchdog may be at it too, and take the script away first; what counts is what is left.
            let output = remove_command(&dir).output();
            let output = output.context(|| format!("run {}/remove", dir.display()))?;
            if dir.join("remove").exists() {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(Error::Unexpected {
                    what: format!("the dead lab {} cannot be removed: {said}", dir.display()),
                });
            }
        }
        drop(free);
        if dir.exists() {
            // Died between `mkdir` and the script: there is nothing else yet. After the script, this tells what is left.
            fs::remove_dir_all(&dir)
                .context(|| format!("remove the dead lab {}", dir.display()))?;
        }
        removed.extend(dir.file_name().map(|id| id.to_string_lossy().into_owned()));
    }
    // After a reboot `/run` is empty and these remain.
    for files in entries(FILES)? {
        if files
            .file_name()
            .is_some_and(|id| !Path::new(RUN).join(id).exists())
        {
            fs::remove_dir_all(&files).context(|| format!("remove {}", files.display()))?;
        }
    }
    Ok(removed)
}

fn new_dir(name: &str) -> Result<(String, PathBuf)> {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    loop {
        let id = format!(
            "{name}-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = Path::new(RUN).join(&id);
        match fs::create_dir(&dir) {
            Ok(()) => return Ok((id, dir)),
            // A kept lab of a process that had our pid.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => {
                return Err(Error::System {
                    what: format!("create {}", dir.display()),
                    source,
                });
            }
        }
    }
}

/// Between `mkdir` and the owner's lock a lab looks dead; this keeps the sweeps of others out.
fn lock_all() -> Result<Flock<File>> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NeedsRoot);
    }
    fs::create_dir_all(RUN).context(|| format!("create {RUN}"))?;
    let path = format!("{RUN}/.lock");
    let file = File::create(&path).context(|| format!("create {path}"))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, e)| e)
        .context(|| format!("lock {path}"))
}

/// `None`: a living process owns this lab.
fn try_lock(dir: &Path) -> Result<Option<Flock<File>>> {
    let path = dir.join("owner");
    let file = match File::create(&path) {
        Ok(file) => file,
        // Its watchdog has just removed it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(Error::System {
                what: format!("create {}", path.display()),
                source,
            });
        }
    };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error).context(|| format!("lock {}", path.display())),
    }
}

fn remove_command(dir: &Path) -> Command {
    let mut command = Command::new("sh");
    command.arg(dir.join("remove")).stdin(Stdio::null());
    command
}

/// Directories in `path`, none if it is not there.
fn entries(path: &str) -> Result<Vec<PathBuf>> {
    let found = match fs::read_dir(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(Error::System {
                what: format!("list {path}"),
                source,
            });
        }
    };
    Ok(found
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect())
}
