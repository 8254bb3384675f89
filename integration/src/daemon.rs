//! The real `futago` in a host of the lab: its configuration, its start and its end, and what it says of itself.

use std::{
    env,
    fmt::Write as _,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

use lb_core::model::{Mode, Protocol};
use lb_userspace::api::status::{BackendStatus, ServiceStatus, Status};

use crate::{
    error::{Context, Error, Result},
    host::{Host, Role, checked},
    lab::Lab,
    process::Process,
};

/// How long a daemon may take to start on a busy machine.
const START: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

/// A service of the configuration file; the fields are the file's keys.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: String,
    pub vip: SocketAddr,
    pub protocol: Protocol,
    pub mode: Mode,
    pub backends: Vec<Backend>,
    /// `None`: backends count as healthy.
    pub check: Option<Check>,
    /// Further lines of its section.
    pub keys: String,
}

/// A backend of a [`Service`], on the service's port.
#[derive(Clone, Copy, Debug)]
pub struct Backend {
    pub address: IpAddr,
    pub weight: u16,
}

/// A TCP health check.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    pub interval_ms: u32,
    pub timeout_ms: u32,
    pub rise: u32,
    pub fall: u32,
    pub port: u16,
}

impl Check {
    /// Fast enough for a test, slow enough for a machine that does other things.
    pub const fn quick(port: u16) -> Self {
        Self {
            interval_ms: 200,
            timeout_ms: 200,
            rise: 2,
            fall: 2,
            port,
        }
    }

    /// Longest time from the death of a backend that refuses connections to its detection, as the configuration
    /// promises: `fall` intervals with their jitter of a sixteenth.
    pub fn detection(&self) -> Duration {
        Duration::from_millis(u64::from(self.interval_ms) * u64::from(self.fall) * 17 / 16)
    }
}

impl Service {
    /// A TCP service over all servers of the lab, in the VIP's family, with equal weights and a quick check.
    ///
    /// # Errors
    /// A server has no address of that family.
    pub fn over_servers(lab: &Lab, name: &str, vip: SocketAddr, mode: Mode) -> Result<Self> {
        let address = |host: &Host| {
            let address = if vip.is_ipv4() {
                host.ipv4()
            } else {
                host.ipv6()
            };
            address.map(|address| Backend { address, weight: 1 })
        };
        Ok(Self {
            name: name.to_owned(),
            vip,
            protocol: Protocol::Tcp,
            mode,
            backends: lab
                .hosts_of(Role::Server)
                .map(address)
                .collect::<Result<_>>()?,
            check: Some(Check::quick(vip.port())),
            keys: String::new(),
        })
    }

    /// The same over UDP; a check probes the same port over TCP.
    #[must_use]
    pub fn udp(mut self, name: &str) -> Self {
        self.protocol = Protocol::Udp;
        self.name = name.to_owned();
        self
    }
}

/// The text of a configuration file with one node, `host`, that uses all its interfaces.
pub fn configuration(host: &Host, services: &[Service]) -> String {
    let interfaces: Vec<_> = host
        .interfaces()
        .into_iter()
        .map(|interface| format!("{:?}", interface.name))
        .collect();
    let mut text = format!(
        "[node.{}]\ninterfaces = [{}]\nxdp = \"native\"\n",
        host.name(),
        interfaces.join(", ")
    );
    for service in services {
        let Service {
            name,
            vip,
            protocol,
            mode,
            backends,
            check,
            keys,
        } = service;
        let (mode, encap) = mode.words();
        let _ = write!(
            text,
            "\n[[service]]\nname = \"{name}\"\nvip = \"{}\"\nport = {}\nprotocol = \"{protocol}\"\nmode = \"{mode}\"\n",
            vip.ip(),
            vip.port()
        );
        if let Some(encap) = encap {
            let _ = writeln!(text, "encap = \"{encap}\"");
        }
        if !keys.is_empty() {
            let _ = writeln!(text, "{keys}");
        }
        text.push_str("backend = [\n");
        for Backend { address, weight } in backends {
            let _ = writeln!(text, "  {{ address = \"{address}\", weight = {weight} }},");
        }
        text.push_str("]\n");
        if let Some(Check {
            interval_ms,
            timeout_ms,
            rise,
            fall,
            port,
        }) = check
        {
            let _ = writeln!(
                text,
                "check = {{ type = \"tcp\", interval_ms = {interval_ms}, timeout_ms = {timeout_ms}, rise = {rise}, fall = {fall}, port = {port} }}"
            );
        }
    }
    text
}

/// A `futago run` in a host. Dropping it kills it as SIGKILL does: the kernel goes on forwarding until the lab ends.
#[derive(Debug)]
pub struct Daemon {
    /// The process, to be signalled.
    pub process: Process,
    host: Host,
}

impl Daemon {
    /// Writes the configuration, starts `futago run` on it with further options, and waits until its API answers.
    ///
    /// # Errors
    /// There is no `futago`, or it ends, or does not answer within 20 s; the text has its log.
    pub fn start(host: &Host, configuration: &str, options: &[&str]) -> Result<Self> {
        configure(host, configuration)?;
        Self::start_again(host, options)
    }

    /// As [`start`](Self::start), with the configuration that is there.
    ///
    /// # Errors
    /// See [`start`](Self::start).
    pub fn start_again(host: &Host, options: &[&str]) -> Result<Self> {
        let process = Self::spawn(host, options)?;
        let mut daemon = Self {
            process,
            host: host.clone(),
        };
        let deadline = Instant::now() + START;
        loop {
            let answer = daemon.status();
            match answer {
                Ok(_) => return Ok(daemon),
                Err(_) if daemon.process.exit_status()?.is_none() && Instant::now() < deadline => {
                    thread::sleep(POLL);
                }
                Err(error) => {
                    return Err(Error::Unexpected {
                        what: format!(
                            "futago in {} does not run: {error}\n{}",
                            host.name(),
                            daemon.process.log()
                        ),
                    });
                }
            }
        }
    }

    /// Starts `futago run` and returns at once.
    ///
    /// # Errors
    /// There is no `futago`.
    pub fn spawn(host: &Host, options: &[&str]) -> Result<Process> {
        let mut command = command(host)?;
        command
            .arg("run")
            .arg("--config")
            .arg(config_path(host))
            .args(["--node", host.name(), "--bpf-dir"])
            .arg(bpf_dir(host))
            .args(options);
        host.spawn_command(command)
    }

    /// What `futago status --json` says.
    ///
    /// # Errors
    /// The daemon does not answer, or with something else than a status.
    pub fn status(&self) -> Result<Status> {
        let text = self.cli(&["status", "--json"])?;
        serde_json::from_str(&text).map_err(|error| Error::Unexpected {
            what: format!("`futago status --json` is not a status ({error}): {text}"),
        })
    }

    /// Runs a subcommand in the daemon's host and returns its stdout.
    ///
    /// # Errors
    /// It ends with a status other than 0; the text has what it said.
    pub fn cli(&self, arguments: &[&str]) -> Result<String> {
        let (command, output) = self.try_cli(arguments)?;
        let output = checked(&command, self.host.name(), output)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a subcommand that is expected to fail, and returns its stderr.
    ///
    /// # Errors
    /// It succeeds.
    pub fn cli_refuses(&self, arguments: &[&str]) -> Result<String> {
        let (_, output) = self.try_cli(arguments)?;
        if output.status.success() {
            return Err(Error::Unexpected {
                what: format!(
                    "`futago {}` succeeded: {}",
                    arguments.join(" "),
                    String::from_utf8_lossy(&output.stdout)
                ),
            });
        }
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn try_cli(&self, arguments: &[&str]) -> Result<(Command, Output)> {
        let mut command = command(&self.host)?;
        command.args(arguments).stdin(Stdio::null());
        let output = command
            .output()
            .context(|| format!("start futago in {}", self.host.name()))?;
        Ok((command, output))
    }

    /// Writes another configuration and has the daemon read it; returns what `futago reload` said.
    ///
    /// # Errors
    /// The daemon refuses it.
    pub fn reload(&self, configuration: &str) -> Result<String> {
        configure(&self.host, configuration)?;
        self.cli(&["reload"])
    }

    /// Waits until the status is as wanted, and returns it.
    ///
    /// # Errors
    /// It is not within `limit`; the text has the last status and the log.
    pub fn wait_until(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        let deadline = Instant::now() + limit;
        loop {
            let status = self.status()?;
            if wanted(&status) {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(Error::TimedOut {
                    what: what.to_owned(),
                    limit,
                    detail: format!(
                        "\n{}\n{}",
                        self.cli(&["status"]).unwrap_or_default(),
                        self.process.log()
                    ),
                });
            }
            thread::sleep(POLL);
        }
    }

    /// Waits until every backend of every service is up.
    ///
    /// # Errors
    /// See [`wait_until`](Self::wait_until).
    pub fn wait_until_up(&self) -> Result<Status> {
        self.wait_until("every backend up", START, |status| {
            backends(status).all(|backend| backend.state.serves())
        })
    }
}

/// All backends of all services.
pub fn backends(status: &Status) -> impl Iterator<Item = &BackendStatus> {
    status.services.iter().flat_map(|service| &service.backends)
}

/// A service by name.
///
/// # Errors
/// There is none.
pub fn service<'a>(status: &'a Status, name: &str) -> Result<&'a ServiceStatus> {
    let mut services = status.services.iter();
    services
        .find(|service| service.name == name)
        .ok_or_else(|| Error::Unexpected {
            what: format!("the status has no service {name}"),
        })
}

/// Where a host's daemon reads its configuration.
pub fn config_path(host: &Host) -> PathBuf {
    host.files().join("futago.toml")
}

/// Where a host's daemon pins its maps and links.
pub fn bpf_dir(host: &Host) -> PathBuf {
    host.bpffs().join("futago")
}

/// Where a host's daemon listens; its records of the kernel's settings are beside it.
pub fn socket_path(host: &Host) -> PathBuf {
    host.files().join("run").join("futago.sock")
}

fn configure(host: &Host, configuration: &str) -> Result<()> {
    let path = config_path(host);
    fs::write(&path, configuration).context(|| format!("write {}", path.display()))
}

/// `futago` in a host, with the environment that makes its subcommands find the host's daemon.
///
/// # Errors
/// See [`binary`].
pub fn command(host: &Host) -> Result<Command> {
    let mut command = host.command(binary()?);
    command.env("FUTAGO_SOCKET", socket_path(host));
    Ok(command)
}

/// The `futago` that cargo built into the profile directory of the running program.
///
/// # Errors
/// It is not there, or older than one of its sources.
pub fn binary() -> Result<PathBuf> {
    let own = env::current_exe().context(|| "find the running program".into())?;
    // Tests are in `deps/` of the profile's directory, binaries in the directory itself.
    let found = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("futago"))
        .find(|path| path.is_file());
    let release = if own.components().any(|part| part.as_os_str() == "release") {
        " --release"
    } else {
        ""
    };
    let build = format!("build it: cargo build{release} -p lb-userspace");
    let Some(binary) = found else {
        return Err(Error::Unexpected {
            what: format!("there is no `futago` beside {}; {build}", own.display()),
        });
    };
    if let Some(newer) = newer_source(&binary)? {
        return Err(Error::Unexpected {
            what: format!(
                "{} is older than its source {}; {build}",
                binary.display(),
                newer.display()
            ),
        });
    }
    Ok(binary)
}

/// A source that has changed since the binary was built, by the list that cargo writes beside it.
fn newer_source(binary: &Path) -> Result<Option<PathBuf>> {
    let list = binary.with_extension("d");
    let Ok(text) = fs::read_to_string(&list) else {
        return Ok(None);
    };
    let built = modified(binary).context(|| format!("look at {}", binary.display()))?;
    let (_, sources) = text.split_once(": ").unwrap_or_default();
    // A space within a path is escaped there.
    let escaped = sources.replace("\\ ", "\0");
    let sources = escaped.split_whitespace();
    Ok(sources
        .map(|source| PathBuf::from(source.replace('\0', " ")))
        .find(|source| modified(source).is_ok_and(|changed| changed > built)))
}

fn modified(path: &Path) -> std::io::Result<SystemTime> {
    fs::metadata(path)?.modified()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_is_newer_than_the_binary_is_named() -> Result<()> {
        let dir = env::temp_dir().join(format!("futago-sources {}", std::process::id()));
        let write = |name: &str, text: &str| fs::write(dir.join(name), text);
        let prepared = fs::create_dir_all(&dir)
            .and_then(|()| write("old.rs", ""))
            .and_then(|()| write("new.rs", ""))
            .and_then(|()| write("futago", ""))
            .and_then(|()| {
                let path = |name| dir.join(name).display().to_string().replace(' ', "\\ ");
                let list = format!(
                    "{}: {} {}\n",
                    path("futago"),
                    path("old.rs"),
                    path("new.rs")
                );
                write("futago.d", &list)
            });
        prepared.context(|| "write the files".into())?;
        let age = |name: &str, seconds| {
            let time = SystemTime::now() - Duration::from_secs(seconds);
            let file = fs::File::options().write(true).open(dir.join(name));
            file.and_then(|file| file.set_modified(time))
        };
        let aged = age("old.rs", 30)
            .and_then(|()| age("new.rs", 20))
            .and_then(|()| age("futago", 10));
        aged.context(|| "set the times".into())?;
        let fresh = newer_source(&dir.join("futago"))?;
        age("new.rs", 5).context(|| "set the time".into())?;
        let stale = newer_source(&dir.join("futago"))?;
        let _ = fs::remove_dir_all(&dir);
        assert_eq!(fresh, None);
        assert_eq!(stale, Some(dir.join("new.rs")));
        Ok(())
    }
}
