//! A program that runs in a host: its output, its end, and that it does end.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{sys::signal::kill, unistd::Pid};

pub use nix::sys::signal::Signal;

use crate::error::{Context, Error, Result};

const POLL: Duration = Duration::from_millis(2);

/// A running program. Dropping it kills it, unless the lab is kept.
#[derive(Debug)]
pub struct Process {
    child: Child,
    what: String,
    stdout: PathBuf,
    stderr: PathBuf,
    lab_is_kept: Arc<AtomicBool>,
}

impl Process {
    pub(crate) fn start(
        mut command: Command,
        host: &str,
        stem: &Path,
        lab_is_kept: Arc<AtomicBool>,
    ) -> Result<Self> {
        let what = format!("{} in {host}", command.get_program().to_string_lossy());
        let (stdout, stderr) = (stem.with_extension("stdout"), stem.with_extension("stderr"));
        for path in [&stdout, &stderr] {
            let file = File::create(path).context(|| format!("create {}", path.display()))?;
            if path == &stdout {
                command.stdout(file)
            } else {
                command.stderr(file)
            };
        }
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .context(|| format!("start {what}"))?;
        Ok(Self {
            child,
            what,
            stdout,
            stderr,
            lab_is_kept,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it wrote to stdout so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// Everything it wrote to stderr so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// What it wrote, stdout first.
    pub fn log(&self) -> String {
        self.stdout() + &self.stderr()
    }

    /// Sends a signal; a process that has ended is no error.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        // Reaping first: the pid of a child that was waited for may belong to somebody else.
        if self.exit_status()?.is_some() {
            return Ok(());
        }
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).context(|| format!("send {signal} to {}", self.what))
    }

    /// SIGTERM, then waits for its end.
    ///
    /// # Errors
    /// It is still there after `limit`; the text has its log.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(limit)
    }

    /// SIGKILL, then waits for its end.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.child
            .kill()
            .context(|| format!("kill {}", self.what))?;
        self.child
            .wait()
            .context(|| format!("wait for {}", self.what))
    }

    /// `None` while it runs.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .context(|| format!("wait for {}", self.what))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It still runs after `limit`; the text has its log.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.exit_status()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(self.timed_out("the end", limit));
            }
            thread::sleep(POLL);
        }
    }

    /// Waits until `text` is in its log.
    ///
    /// # Errors
    /// It ended without, or `limit` has passed; the text has its log.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let ended = self.exit_status()?;
            if self.log().contains(text) {
                return Ok(());
            }
            if let Some(status) = ended {
                let what = format!(
                    "{} ended ({status}) before it wrote {text:?}\n{}",
                    self.what,
                    self.log()
                );
                return Err(Error::Unexpected { what });
            }
            if Instant::now() >= deadline {
                return Err(self.timed_out(&format!("{text:?} in the log"), limit));
            }
            thread::sleep(POLL);
        }
    }

    fn timed_out(&self, what: &str, limit: Duration) -> Error {
        Error::TimedOut {
            what: format!("{what} of {}", self.what),
            limit,
            detail: format!("\n{}", tail(&self.log())),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.lab_is_kept.load(Ordering::Relaxed) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn read(path: &Path) -> String {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

fn tail(log: &str) -> &str {
    const LINES: usize = 40;
    let start = log
        .rmatch_indices('\n')
        .nth(LINES)
        .map_or(0, |(at, _)| at + 1);
    log.get(start..).unwrap_or(log)
}
