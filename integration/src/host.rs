//! One host of a lab: a network namespace in which programs and sockets of this process can be.

use std::{
    ffi::OsStr,
    fmt,
    fs::{self, File},
    io::{self, Write},
    net::IpAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    str::FromStr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
};

use nix::sched::{CloneFlags, setns};

use crate::{
    error::{Context, Error, Result},
    process::Process,
};

/// What a host is in the picture of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opens connections.
    Client,
    /// Runs `futago`.
    Balancer,
    /// Answers.
    Server,
    /// A bridge; not a host of its own.
    Switch,
}

/// An address with its prefix length, as `ip addr` takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address itself, host bits included.
    pub address: IpAddr,
    /// Prefix length in bits.
    pub prefix: u8,
}

impl FromStr for Cidr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::BadAddress { text: text.into() };
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let prefix = prefix.parse().map_err(|_| bad())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if prefix > most {
            Err(bad())
        } else {
            Ok(Self { address, prefix })
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// An interface of a host and the switch port at its other end.
#[derive(Clone, Debug)]
pub struct Interface {
    /// `eth0`, `eth1`, … in the order of connecting.
    pub name: String,
    /// Name of the switch.
    pub switch: String,
    /// Name of the port in the switch's namespace.
    pub port: String,
    /// Addresses given by the lab; not those that a program in the host added.
    pub addresses: Vec<Cidr>,
}

/// A host; clones are the same host.
#[derive(Clone, Debug)]
pub struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    role: Role,
    namespace: String,
    bpffs: PathBuf,
    files: PathBuf,
    interfaces: Mutex<Vec<Interface>>,
    spawned: AtomicU32,
    kept: Arc<AtomicBool>,
}

impl Host {
    /// Makes the namespace `futago-<lab>.<name>`, its private bpffs and its directory for files.
    pub(crate) fn create(
        name: &str,
        role: Role,
        lab: &crate::claim::Claim,
        kept: &Arc<AtomicBool>,
    ) -> Result<Self> {
        let namespace = format!("futago-{}.{name}", lab.id);
        let bpffs = lab.dir.join(name).join("bpf");
        let files = lab.files.join(name);
        for dir in [&bpffs, &files] {
            fs::create_dir_all(dir).context(|| format!("create {}", dir.display()))?;
        }
        ip(None, &[format!("netns add {namespace}")])?;
        nix::mount::mount(
            Some("bpffs"),
            &bpffs,
            Some("bpf"),
            nix::mount::MsFlags::empty(),
            Some("mode=0700"),
        )
        .context(|| format!("mount a bpffs at {}", bpffs.display()))?;
        let host = Self(Arc::new(Inner {
            name: name.into(),
            role,
            namespace,
            bpffs,
            files,
            interfaces: Mutex::default(),
            spawned: AtomicU32::new(1),
            kept: Arc::clone(kept),
        }));
        for (key, value) in DEFAULTS {
            host.sysctl(key, value)?;
        }
        host.ip(&["link set lo up"])?;
        Ok(host)
    }

    /// The name given when it was added.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What it is in the picture.
    pub fn role(&self) -> Role {
        self.0.role
    }

    /// Name of its namespace, for `ip netns` and `nsenter --net=/run/netns/…`.
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// A bpffs of its own: what is pinned here survives a daemon and vanishes with the lab.
    pub fn bpffs(&self) -> &Path {
        &self.0.bpffs
    }

    /// Directory for its logs, configurations and served files; removed with the lab.
    pub fn files(&self) -> &Path {
        &self.0.files
    }

    /// Its interfaces in the order of connecting.
    pub fn interfaces(&self) -> Vec<Interface> {
        self.lock().clone()
    }

    /// One interface by name.
    ///
    /// # Errors
    /// No such interface.
    pub fn interface(&self, name: &str) -> Result<Interface> {
        let all = self.interfaces();
        let known = all
            .iter()
            .map(|i| i.name.clone())
            .collect::<Vec<_>>()
            .join(", ");
        all.into_iter()
            .find(|i| i.name == name)
            .ok_or_else(|| Error::Unknown {
                kind: "interface",
                name: format!("{}:{name}", self.name()),
                known,
            })
    }

    /// Its first IPv4 address.
    ///
    /// # Errors
    /// It has none.
    pub fn ipv4(&self) -> Result<IpAddr> {
        self.first_address("IPv4", IpAddr::is_ipv4)
    }

    /// Its first IPv6 address.
    ///
    /// # Errors
    /// It has none.
    pub fn ipv6(&self) -> Result<IpAddr> {
        self.first_address("IPv6", IpAddr::is_ipv6)
    }

    fn first_address(&self, family: &str, wanted: impl Fn(&IpAddr) -> bool) -> Result<IpAddr> {
        let mut all = self
            .interfaces()
            .into_iter()
            .flat_map(|i| i.addresses)
            .map(|cidr| cidr.address);
        all.find(wanted).ok_or_else(|| Error::Unexpected {
            what: format!("{} has no {family} address", self.name()),
        })
    }

    /// Runs `ip` commands in this host, one a string, without the word `ip`: `["route add default via 10.0.2.1"]`.
    ///
    /// # Errors
    /// The first that `ip` refuses, with its words.
    pub fn ip<S: AsRef<str>>(&self, commands: &[S]) -> Result<()> {
        let commands: Vec<_> = commands
            .iter()
            .map(|command| command.as_ref().to_owned())
            .collect();
        ip(Some(self), &commands)
    }

    /// Sets a sysctl of this namespace: `net.ipv4.ip_forward`. Write `/` between the parts where an interface's name has a dot.
    ///
    /// # Errors
    /// No such key, or a value that the kernel refuses.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = if key.contains('/') {
            key.to_owned()
        } else {
            key.replace('.', "/")
        };
        self.enter(|| fs::write(format!("/proc/sys/{path}"), value))?
            .context(|| format!("set sysctl {key} = {value} in {}", self.name()))
    }

    /// Index of an interface in this host's namespace.
    ///
    /// # Errors
    /// No such interface.
    pub fn interface_index(&self, interface: &str) -> Result<u32> {
        self.enter(|| nix::net::if_::if_nametoindex(interface))?
            .context(|| format!("find interface {interface} in {}", self.name()))
    }

    /// A command that will run in this host's namespace, with the file systems of the caller: bpffs mounts stay in sight, and
    /// `/sys/class/net` shows the caller's interfaces. It is in a process group of its own, away from Ctrl-C.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let namespace = self.0.namespace_path();
        // Opened before the fork: what runs after it may neither allocate nor take locks.
        let opened = File::open(&namespace);
        command.process_group(0);
        // SAFETY: between fork and exec the closure calls only `setns`, a bare system call, and builds an
        // `io::Error` from a number, which does not allocate.
        unsafe {
            command.pre_exec(move || match &opened {
                Ok(namespace) => {
                    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
                }
                Err(error) => Err(io::Error::from_raw_os_error(
                    error.raw_os_error().unwrap_or(libc::ENOENT),
                )),
            });
        }
        command
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// It cannot be started, or ends with a status other than 0; the text has its stderr.
    pub fn run<S: AsRef<OsStr>>(&self, program: &str, arguments: &[S]) -> Result<Output> {
        let mut command = self.command(program);
        command.args(arguments).stdin(Stdio::null());
        let output = command
            .output()
            .context(|| format!("start `{program}` in {}", self.name()))?;
        checked(&command, self.name(), output)
    }

    /// Starts a program whose output goes to files in [`files`](Self::files); see [`Process`].
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn<S: AsRef<OsStr>>(&self, program: &str, arguments: &[S]) -> Result<Process> {
        let mut command = self.command(program);
        command.args(arguments);
        self.spawn_command(command)
    }

    /// As [`spawn`](Self::spawn), for a command made by [`command`](Self::command) with an environment or a directory of its own.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn_command(&self, command: Command) -> Result<Process> {
        let number = self.0.spawned.fetch_add(1, Ordering::Relaxed);
        let program = Path::new(command.get_program())
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        let stem = self.0.files.join(format!("{number}-{program}"));
        Process::start(command, self.name(), &stem, Arc::clone(&self.0.kept))
    }

    /// Runs `work` in a thread that is in this host: sockets made there belong to the host for good and can be returned.
    ///
    /// # Errors
    /// The namespace is gone. A panic in `work` is passed on.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let entered = scope.spawn(|| self.enter_thread().map(|()| work()));
            entered
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// As [`enter`](Self::enter), but does not wait.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>> {
        let namespace = self.open()?;
        Ok(thread::spawn(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)
                .unwrap_or_else(|error| panic!("cannot enter a namespace that is open: {error}"));
            drop(namespace);
            work()
        }))
    }

    /// Moves the calling thread into this host for the rest of its life. Never call it from the main thread: the lab's removal
    /// ends every process whose main thread is in one of its namespaces.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn enter_thread(&self) -> Result<()> {
        let namespace = self.open()?;
        setns(&namespace, CloneFlags::CLONE_NEWNET).context(|| format!("enter {}", self.name()))
    }

    pub(crate) fn add_interface(&self, interface: Interface) {
        self.lock().push(interface);
    }

    fn open(&self) -> Result<File> {
        let path = self.0.namespace_path();
        File::open(&path).context(|| format!("enter {} ({})", self.name(), path.display()))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Interface>> {
        self.0
            .interfaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn namespace_path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.namespace)
    }
}

/// Usable addresses at once, no chatter of the kernel's own, and no shortcuts past the path under test.
const DEFAULTS: [(&str, &str); 10] = [
    ("net.ipv6.conf.default.accept_dad", "0"),
    ("net.ipv6.conf.all.accept_dad", "0"),
    ("net.ipv6.conf.default.dad_transmits", "0"),
    ("net.ipv6.conf.default.accept_ra", "0"),
    ("net.ipv6.conf.default.router_solicitations", "0"),
    ("net.ipv6.conf.default.accept_redirects", "0"),
    ("net.ipv4.conf.all.accept_redirects", "0"),
    ("net.ipv4.conf.default.accept_redirects", "0"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
];

pub(crate) fn ip(host: Option<&Host>, commands: &[String]) -> Result<()> {
    let mut command = Command::new("ip");
    let place = match host {
        Some(host) => {
            command.args(["-n", host.namespace()]);
            host.name().to_owned()
        }
        None => "the lab".to_owned(),
    };
    command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|_| missing("ip", "iproute2"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // When `ip` gives up early this write fails, and its own words are the better error.
        let _ = stdin.write_all(commands.join("\n").as_bytes());
    }
    let output = child.wait_with_output().context(|| "wait for ip".into())?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Command {
        command: format!("ip {}", commands.join("; ip ")),
        host: place,
        status: output.status.to_string(),
        stderr: String::from_utf8_lossy(&output.stderr).trim().into(),
    })
}

pub(crate) fn missing(program: &str, package: &'static str) -> Error {
    Error::Missing {
        program: program.into(),
        package,
    }
}

/// Turns a status other than 0 into an error that says what ran, where, and what it said.
pub(crate) fn checked(command: &Command, host: &str, output: Output) -> Result<Output> {
    if output.status.success() {
        return Ok(output);
    }
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let said = if output.stderr.is_empty() {
        &output.stdout
    } else {
        &output.stderr
    };
    Err(Error::Command {
        command: words
            .map(OsStr::to_string_lossy)
            .collect::<Vec<_>>()
            .join(" "),
        host: host.into(),
        status: output.status.to_string(),
        stderr: String::from_utf8_lossy(said).trim().into(),
    })
}
