//! Servers that say who answered: nginx as a user runs it, and an echo that counts.

use std::{
    fs::{self, File},
    io::{self, BufWriter, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sha2::{Digest, Sha256};

use crate::{
    error::{Context, Error, Result},
    host::Host,
    process::Process,
};

const MIB: usize = 1 << 20;

/// What nginx serves besides `/`, which is the host's name.
#[derive(Clone, Debug)]
pub struct NginxConfig {
    /// Addresses and ports to listen on.
    pub listen: Vec<SocketAddr>,
    /// A file made by [`big_file`], served as `/big`.
    pub big: Option<PathBuf>,
    /// How long an idle connection is kept, in seconds; 0 closes after each answer.
    pub keepalive_s: u32,
}

/// A running nginx; one process, so that its death is the death of one pid.
#[derive(Debug)]
pub struct Nginx {
    /// The process, to be signalled.
    pub process: Process,
}

impl Nginx {
    /// Starts nginx in `host` and waits until it listens on every address.
    ///
    /// # Errors
    /// nginx is missing, or does not listen within 10 s; the text has its log.
    pub fn start(host: &Host, config: &NginxConfig) -> Result<Self> {
        let prefix = host.files().join("nginx");
        let write = |path: PathBuf, text: &str| {
            fs::write(&path, text).context(|| format!("write {}", path.display()))
        };
        fs::create_dir_all(prefix.join("www"))
            .context(|| format!("create {}", prefix.display()))?;
        write(prefix.join("www/name"), host.name())?;
        if let Some(big) = &config.big {
            let link = prefix.join("www/big");
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(big, &link)
                .context(|| format!("link {}", link.display()))?;
        }
        write(prefix.join("nginx.conf"), &configuration(config))?;

        let mut command = host.command("nginx");
        command
            .arg("-p")
            .arg(&prefix)
            .args(["-c", "nginx.conf", "-e", "stderr"]);
        let process = host
            .spawn_command(command)
            .map_err(|error| missing(error, "nginx", "nginx-light"))?;
        let mut nginx = Self { process };
        for address in &config.listen {
            nginx.wait_until_listening(host, *address)?;
        }
        Ok(nginx)
    }

    fn wait_until_listening(&mut self, host: &Host, address: SocketAddr) -> Result<()> {
        const LIMIT: Duration = Duration::from_secs(10);
        let deadline = Instant::now() + LIMIT;
        loop {
            if host
                .enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)))?
                .is_ok()
            {
                return Ok(());
            }
            if self.process.exit_status()?.is_some() || Instant::now() >= deadline {
                return Err(Error::TimedOut {
                    what: format!("nginx in {} listening on {address}", host.name()),
                    limit: LIMIT,
                    detail: format!("\n{}", self.process.log()),
                });
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn configuration(config: &NginxConfig) -> String {
    let listen: String = config
        .listen
        .iter()
        .map(|address| format!("        listen {address} backlog=4096;\n"))
        .collect();
    let keepalive = config.keepalive_s;
    // Workers that nobody reloads: a single process needs no master, and no user to change to.
    format!(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nuser root;\n\
         events {{ worker_connections 16384; }}\n\
         http {{\n    access_log off;\n    sendfile on;\n    default_type text/plain;\n    keepalive_timeout {keepalive};\n    \
         client_body_temp_path body;\n    proxy_temp_path proxy;\n    fastcgi_temp_path fastcgi;\n    \
         uwsgi_temp_path uwsgi;\n    scgi_temp_path scgi;\n    server {{\n{listen}        root www;\n        \
         location = / {{ try_files /name =404; }}\n    }}\n}}\n"
    )
}

fn missing(error: Error, program: &str, package: &'static str) -> Error {
    match error {
        Error::System { source, .. } if source.kind() == ErrorKind::NotFound => {
            crate::host::missing(program, package)
        }
        other => other,
    }
}

/// Starts nginx in each host, on its own addresses of both families and the extra ones (a DSR server's VIPs), at `port`.
///
/// # Errors
/// See [`Nginx::start`].
pub fn nginx_everywhere<'a>(
    hosts: impl IntoIterator<Item = &'a Host>,
    extra: &[std::net::IpAddr],
    port: u16,
    big: Option<&Path>,
) -> Result<Vec<Nginx>> {
    let start = |host: &Host| {
        let own = host
            .interfaces()
            .into_iter()
            .flat_map(|interface| interface.addresses);
        let all = own.map(|cidr| cidr.address).chain(extra.iter().copied());
        let listen = all.map(|address| SocketAddr::new(address, port)).collect();
        let config = NginxConfig {
            listen,
            big: big.map(Path::to_owned),
            keepalive_s: 65,
        };
        Nginx::start(host, &config)
    };
    hosts.into_iter().map(start).collect()
}

/// Writes a file of `mebibytes` MiB that looks random and is the same each time; returns its SHA-256 in hexadecimal.
///
/// # Errors
/// The file cannot be written.
pub fn big_file(path: &Path, mebibytes: usize) -> Result<String> {
    let context = || format!("write {}", path.display());
    let mut file = BufWriter::with_capacity(MIB, File::create(path).context(context)?);
    let mut hash = Sha256::new();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = vec![0; MIB];
    for _ in 0..mebibytes {
        for word in block.chunks_exact_mut(8) {
            // xorshift64: cheap, and no block repeats another, so that a swap of two is noticed.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        hash.update(&block);
        file.write_all(&block).context(context)?;
    }
    file.flush().context(context)?;
    Ok(hex(&hash.finalize()))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What an [`Echo`] has seen.
#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    datagrams: AtomicU64,
}

/// TCP and UDP on given addresses, in threads of this process.
///
/// UDP: the host's name, a space, and the datagram, from the address it was sent to. TCP: the host's name and a newline when
/// the connection opens, then every byte as it came. Dropping it closes all of it; connections see an end of stream.
#[derive(Debug)]
pub struct Echo {
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// How soon a thread notices that it should stop.
const STOP_POLL: Duration = Duration::from_millis(50);

impl Echo {
    /// Listens in `host`. Name each address (also a VIP): from a wildcard socket, UDP would answer from whatever address the
    /// route prefers.
    ///
    /// # Errors
    /// An address cannot be bound.
    pub fn start(host: &Host, addresses: &[SocketAddr]) -> Result<Self> {
        let (counters, stop) = (Arc::<Counters>::default(), Arc::<AtomicBool>::default());
        let mut threads = Vec::new();
        for address in addresses {
            let bound = host.enter(|| {
                Ok::<_, io::Error>((TcpListener::bind(address)?, UdpSocket::bind(address)?))
            })?;
            let (listener, socket) =
                bound.context(|| format!("bind {address} in {}", host.name()))?;
            let prepared = listener
                .set_nonblocking(true)
                .and_then(|()| socket.set_read_timeout(Some(STOP_POLL)));
            prepared.context(|| "set up an echo socket".into())?;
            let (name, c, s) = (
                host.name().to_owned(),
                Arc::clone(&counters),
                Arc::clone(&stop),
            );
            threads.push(thread::spawn(move || accept(&listener, &name, &c, &s)));
            let (name, c, s) = (
                host.name().to_owned(),
                Arc::clone(&counters),
                Arc::clone(&stop),
            );
            threads.push(thread::spawn(move || datagrams(&socket, &name, &c, &s)));
        }
        Ok(Self {
            counters,
            stop,
            threads,
        })
    }

    /// TCP connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.counters.connections.load(Ordering::Relaxed)
    }

    /// UDP datagrams answered so far.
    pub fn datagrams(&self) -> u64 {
        self.counters.datagrams.load(Ordering::Relaxed)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, name: &str, counters: &Counters, stop: &Arc<AtomicBool>) {
    let timeout = PollTimeout::try_from(STOP_POLL).unwrap_or(PollTimeout::ZERO);
    let mut connections = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let _ = poll(
            &mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)],
            timeout,
        );
        while let Ok((connection, _)) = listener.accept() {
            counters.connections.fetch_add(1, Ordering::Relaxed);
            connections.retain(|open: &JoinHandle<()>| !open.is_finished());
            let (greeting, stop) = (format!("{name}\n"), Arc::clone(stop));
            connections.push(thread::spawn(move || {
                // Whatever goes wrong on a connection, its peer is the one to tell.
                let _ = echo(connection, &greeting, &stop);
            }));
        }
    }
    for connection in connections {
        let _ = connection.join();
    }
}

fn echo(mut connection: TcpStream, greeting: &str, stop: &AtomicBool) -> io::Result<()> {
    connection.set_nonblocking(false)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(STOP_POLL))?;
    connection.set_write_timeout(Some(Duration::from_secs(10)))?;
    connection.write_all(greeting.as_bytes())?;
    let mut buffer = vec![0; 65536];
    while !stop.load(Ordering::Relaxed) {
        match connection.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => connection.write_all(buffer.get(..length).unwrap_or_default())?,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn datagrams(socket: &UdpSocket, name: &str, counters: &Counters, stop: &AtomicBool) {
    let mut buffer = vec![0; 65536];
    let mut answer = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        // A time-out, or an ICMP error for an answer that nobody waits for.
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        answer.clear();
        answer.extend_from_slice(name.as_bytes());
        answer.push(b' ');
        answer.extend_from_slice(buffer.get(..length).unwrap_or_default());
        if socket.send_to(&answer, from).is_ok() {
            counters.datagrams.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_big_file_is_the_same_each_time_and_as_long_as_asked() -> Result<()> {
        let dir = std::env::temp_dir();
        let path = |number| dir.join(format!("futago-big-{}-{number}", std::process::id()));
        let hashes = [
            big_file(&path(1), 2)?,
            big_file(&path(2), 2)?,
            big_file(&path(3), 1)?,
        ];
        let length = fs::metadata(path(1)).map(|metadata| metadata.len());
        for number in 1..=3 {
            let _ = fs::remove_file(path(number));
        }
        assert_eq!(hashes[0], hashes[1]);
        assert_ne!(hashes[0], hashes[2]);
        assert_eq!(length.ok(), Some(2 << 20));
        Ok(())
    }
}
