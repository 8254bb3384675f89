//! HTTP as a client sees it: who answered how often, what failed when, and whether a download is what was served.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};

use crate::{
    error::{Context, Error, Result},
    host::Host,
    server::hex,
};

/// GET requests, each on a connection of its own.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where to connect.
    pub to: SocketAddr,
    /// How many requests; the load ends with the last.
    pub requests: u64,
    /// How many at once.
    pub concurrency: u16,
    /// For connecting, and for each read and write.
    pub timeout: Duration,
}

impl Load {
    /// `requests` requests, eight at once, with two seconds of patience.
    pub fn new(to: SocketAddr, requests: u64) -> Self {
        Self {
            to,
            requests,
            concurrency: 8,
            timeout: Duration::from_secs(2),
        }
    }
}

/// A request that was not answered with 200.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When it was sent, since the start of the load.
    pub at: Duration,
    /// What the socket or the server said.
    pub reason: String,
}

/// What one server did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    /// Requests it answered.
    pub answers: u64,
    /// Its last answer, since the start of the load.
    pub last: Duration,
}

/// Outcome of a load.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By the name that the server gave in its body.
    pub by_server: BTreeMap<String, Share>,
    /// In the order they were noticed.
    pub failures: Vec<Failure>,
    /// From the first request to the last answer.
    pub elapsed: Duration,
}

impl Report {
    /// Requests answered with 200.
    pub fn answered(&self) -> u64 {
        self.by_server.values().map(|share| share.answers).sum()
    }
}

/// A load that runs in threads; dropping it stops it.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    load: Load,
    start: Instant,
    next: AtomicU64,
    stop: AtomicBool,
    report: Mutex<Report>,
}

/// Runs a load to its end.
///
/// # Errors
/// The host is gone; failed requests are in the report.
pub fn get_many(host: &Host, load: Load) -> Result<Report> {
    Ok(start(host, load)?.wait())
}

/// Starts a load and returns at once, so that something can be broken meanwhile.
///
/// # Errors
/// The host is gone.
pub fn start(host: &Host, load: Load) -> Result<Running> {
    let shared = Arc::new(Shared {
        start: Instant::now(),
        next: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        report: Mutex::default(),
        load,
    });
    let mut running = Running {
        shared: Arc::clone(&shared),
        threads: Vec::new(),
    };
    for _ in 0..shared.load.concurrency.max(1) {
        let shared = Arc::clone(&shared);
        running.threads.push(host.thread(move || shared.work())?);
    }
    Ok(running)
}

impl Running {
    /// The outcome so far.
    pub fn so_far(&self) -> Report {
        self.shared
            .report
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits for the last request.
    pub fn wait(mut self) -> Report {
        self.join();
        self.so_far()
    }

    /// Sends no more, waits for those under way.
    pub fn stop(self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.wait()
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.join();
    }
}

impl Shared {
    fn work(&self) {
        while !self.stop.load(Ordering::Relaxed)
            && self.next.fetch_add(1, Ordering::Relaxed) < self.load.requests
        {
            let at = self.start.elapsed();
            let outcome = get(self.load.to, self.load.timeout);
            let now = self.start.elapsed();
            let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
            report.elapsed = now;
            match outcome {
                Ok(server) => {
                    let share = report.by_server.entry(server).or_default();
                    share.answers += 1;
                    share.last = now;
                }
                Err(error) => report.failures.push(Failure {
                    at,
                    reason: error.to_string(),
                }),
            }
        }
    }
}

/// One GET of `/` on a connection of its own, from the calling thread's namespace; the body.
///
/// # Errors
/// The socket's error, or `InvalidData` with the status line when that is not 200.
pub fn get(to: SocketAddr, timeout: Duration) -> io::Result<String> {
    /// Whatever a name is, it is not longer.
    const MOST: u64 = 65536;
    let mut connection = TcpStream::connect_timeout(&to, timeout)
        .map_err(|error| io::Error::new(error.kind(), format!("connect: {error}")))?;
    connection.set_read_timeout(Some(timeout))?;
    connection.set_write_timeout(Some(timeout))?;
    write!(
        connection,
        "GET / HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    connection
        .take(MOST)
        .read_to_end(&mut answer)
        .map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("after {} bytes of the answer: {error}", answer.len()),
            )
        })?;
    let answer = String::from_utf8_lossy(&answer);
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| bad("the answer has no complete head"))?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(bad(head.lines().next().unwrap_or_default()));
    }
    Ok(body.trim().to_owned())
}

/// What [`download`] got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// Length of the body.
    pub bytes: u64,
    /// SHA-256 of the body in hexadecimal, to compare with [`big_file`](crate::server::big_file)'s.
    pub sha256: String,
}

/// Downloads a URL with curl, which may be given further options (`["--limit-rate", "50M"]`).
///
/// # Errors
/// curl is missing or fails; the text has its words.
pub fn download(host: &Host, url: &str, options: &[&str]) -> Result<Download> {
    let mut command = host.command("curl");
    command.args([
        "--silent",
        "--show-error",
        "--fail",
        "--globoff",
        "--max-time",
        "600",
    ]);
    command
        .args(options)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|_| crate::host::missing("curl", "curl"))?;
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    if let Some(mut body) = child.stdout.take() {
        loop {
            let length = body.read(&mut buffer).context(|| "read from curl".into())?;
            let Some(part) = buffer.get(..length).filter(|part| !part.is_empty()) else {
                break;
            };
            hash.update(part);
            bytes += length as u64;
        }
    }
    let output = child
        .wait_with_output()
        .context(|| "wait for curl".into())?;
    crate::host::checked(&command, host.name(), output)?;
    Ok(Download {
        bytes,
        sha256: hex(&hash.finalize()),
    })
}

impl Report {
    /// The answers, or an error that names the first failure.
    ///
    /// # Errors
    /// At least one request failed.
    pub fn all_answered(self) -> Result<Self> {
        match self.failures.first() {
            None => Ok(self),
            Some(Failure { at, reason }) => Err(Error::Unexpected {
                what: format!(
                    "{} of {} requests failed, the first after {at:?}: {reason}",
                    self.failures.len(),
                    self.failures.len() as u64 + self.answered(),
                ),
            }),
        }
    }
}
