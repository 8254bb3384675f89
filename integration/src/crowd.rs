//! Many TCP connections at once, each of which says a number a second: which of them break, and where each of them goes.
//!
//! One thread at each end goes through all connections, so that tens of thousands cost this process no more than some system calls
//! a second for each.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    error::{Context, Error, Result},
    host::Host,
};

/// How often the server looks for something to answer.
const SERVER_TURN: Duration = Duration::from_millis(50);
/// How often each connection says its number.
const PERIOD: Duration = Duration::from_secs(1);
const NUMBER_BYTES: usize = 8;
/// For one connection to be opened, on a busy machine.
const OPENING: Duration = Duration::from_secs(10);
/// The server greets whoever has come since its last turn: who opens one after the other waits that long for each.
const OPENED_AT_ONCE: usize = 200;

/// A server for a [`Crowd`]: the host's name and a newline when a connection opens, then every byte as it came. Dropping it closes
/// its connections.
#[derive(Debug)]
pub struct Hall {
    stop: Arc<AtomicBool>,
    open: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Hall {
    /// # Errors
    /// The address cannot be bound.
    pub fn start(host: &Host, address: SocketAddr) -> Result<Self> {
        host.enter(|| Self::here(host.name(), address))?
    }

    /// In the namespace of the calling thread, under this name.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn here(name: &str, address: SocketAddr) -> Result<Self> {
        allow_many_files()?;
        let listener = listen(address).context(|| format!("bind {address} in {name}"))?;
        let (stop, open) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (name, s, o) = (format!("{name}\n"), Arc::clone(&stop), Arc::clone(&open));
        Ok(Self {
            stop,
            open,
            thread: Some(thread::spawn(move || serve(&listener, &name, &s, &o))),
        })
    }

    /// Connections that are open now.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }
}

impl Drop for Hall {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// With a long queue: everybody comes at once.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    use nix::sys::socket::{Backlog, listen};
    let listener = TcpListener::bind(address)?;
    listen(&listener, Backlog::MAXCONN)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn serve(listener: &TcpListener, name: &str, stop: &AtomicBool, open: &AtomicU64) {
    let mut connections: Vec<TcpStream> = Vec::new();
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        while let Ok((mut connection, _)) = listener.accept() {
            let greeted = connection
                .set_nonblocking(true)
                .and_then(|()| connection.set_nodelay(true))
                .and_then(|()| connection.write_all(name.as_bytes()));
            if greeted.is_ok() {
                connections.push(connection);
            }
        }
        connections.retain_mut(|connection| match connection.read(&mut buffer) {
            Ok(0) => false,
            Ok(length) => connection
                .write_all(buffer.get(..length).unwrap_or_default())
                .is_ok(),
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
        open.store(connections.len() as u64, Ordering::Relaxed);
        thread::sleep(SERVER_TURN);
    }
}

/// Connections of one server, as a crowd sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// That have not ended.
    pub open: usize,
    /// Why those that have ended did, and how many for that reason.
    pub broken: BTreeMap<String, usize>,
    /// Of the open ones: those whose last number has been answered.
    pub answered: usize,
}

/// Open connections through a VIP; dropping it closes them.
#[derive(Debug)]
pub struct Crowd {
    stop: Arc<AtomicBool>,
    members: Arc<Mutex<Vec<Member>>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Member {
    stream: TcpStream,
    server: String,
    said: u64,
    heard: u64,
    /// Bytes of a number that has not come whole.
    partial: Vec<u8>,
    broken: Option<String>,
}

impl Crowd {
    /// Opens `count` connections from `client`, some at a time, and has them talk from then on.
    ///
    /// # Errors
    /// One cannot be opened, or is not greeted.
    pub fn open(client: &Host, to: SocketAddr, count: usize) -> Result<Self> {
        allow_many_files()?;
        let opened: io::Result<Vec<Member>> = client.enter(|| {
            let mut members = Vec::with_capacity(count);
            while members.len() < count {
                let some = OPENED_AT_ONCE.min(count - members.len());
                let streams: Vec<TcpStream> = (0..some)
                    .map(|_| TcpStream::connect_timeout(&to, OPENING))
                    .collect::<io::Result<_>>()?;
                for stream in streams {
                    members.push(Member::greeted(stream)?);
                }
            }
            Ok(members)
        })?;
        let opened = opened.context(|| format!("open {count} connections to {to}"))?;
        let (members, stop) = (Arc::new(Mutex::new(opened)), Arc::<AtomicBool>::default());
        let (m, s) = (Arc::clone(&members), Arc::clone(&stop));
        Ok(Self {
            stop,
            members,
            thread: Some(thread::spawn(move || talk(&m, &s))),
        })
    }

    /// By server.
    pub fn shares(&self) -> BTreeMap<String, Share> {
        let mut shares: BTreeMap<String, Share> = BTreeMap::new();
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        for member in members.iter() {
            let share = shares.entry(member.server.clone()).or_default();
            match &member.broken {
                None => {
                    share.open += 1;
                    share.answered += usize::from(member.heard + 1 >= member.said);
                }
                Some(reason) => *share.broken.entry(reason.clone()).or_default() += 1,
            }
        }
        shares
    }

    /// All that have ended, whatever the server.
    pub fn broken(&self) -> usize {
        let shares = self.shares();
        shares
            .values()
            .flat_map(|share| share.broken.values())
            .sum()
    }

    /// Waits until each open connection has said a number that it had not said before, and has been answered.
    ///
    /// # Errors
    /// That takes longer than `limit`.
    pub fn wait_until_all_answer(&self, limit: Duration) -> Result<()> {
        let from: Vec<u64> = {
            let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
            members.iter().map(|member| member.said).collect()
        };
        let deadline = Instant::now() + limit;
        loop {
            let waiting = {
                let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
                let open = members.iter().zip(&from);
                open.filter(|(member, said)| member.broken.is_none() && member.heard <= **said)
                    .count()
            };
            if waiting == 0 {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::TimedOut {
                    what: format!("{waiting} connections to be answered"),
                    limit,
                    detail: format!("\n{:?}", self.shares()),
                });
            }
            thread::sleep(SERVER_TURN);
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn talk(members: &Mutex<Vec<Member>>, stop: &AtomicBool) {
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let says = Instant::now() >= next;
        if says {
            next = Instant::now() + PERIOD;
        }
        {
            let mut members = members.lock().unwrap_or_else(PoisonError::into_inner);
            for member in members.iter_mut().filter(|member| member.broken.is_none()) {
                if let Err(error) = member.turn(says) {
                    member.broken = Some(reason(&error));
                }
            }
        }
        thread::sleep(SERVER_TURN);
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::Other | ErrorKind::InvalidData => error.to_string(),
        kind => kind.to_string(),
    }
}

impl Member {
    /// Waits for the greeting.
    fn greeted(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(OPENING))?;
        let mut member = Self {
            stream,
            server: String::new(),
            said: 0,
            heard: 0,
            partial: Vec::new(),
            broken: None,
        };
        loop {
            let mut byte = [0];
            member.stream.read_exact(&mut byte)?;
            match byte {
                [b'\n'] => break,
                [letter] => member.server.push(char::from(letter)),
            }
        }
        member.stream.set_nonblocking(true)?;
        Ok(member)
    }

    /// Says the next number if the last one was answered, and takes what has come.
    fn turn(&mut self, says: bool) -> io::Result<()> {
        if says && self.heard == self.said {
            self.stream.write_all(&(self.said + 1).to_be_bytes())?;
            self.said += 1;
        }
        let mut buffer = [0; 512];
        match self.stream.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => self
                .partial
                .extend_from_slice(buffer.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        while let Some((number, rest)) = self.partial.split_first_chunk::<NUMBER_BYTES>() {
            let number = u64::from_be_bytes(*number);
            if number != self.heard + 1 {
                return Err(io::Error::new(
                    ErrorKind::InvalidData,
                    "another number came back",
                ));
            }
            self.heard = number;
            self.partial = rest.to_vec();
        }
        Ok(())
    }
}

/// As many open files as the kernel allows this process.
fn allow_many_files() -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    const WANTED: u64 = 300_000;
    let raise = || {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        if soft < WANTED {
            // Only some may have more than the system's limit; opening too many says so soon enough.
            setrlimit(Resource::RLIMIT_NOFILE, WANTED, hard.max(WANTED))
                .or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, hard.min(WANTED), hard))?;
        }
        nix::Result::Ok(())
    };
    raise()
        .map_err(io::Error::from)
        .context(|| "allow many open files".into())
}
