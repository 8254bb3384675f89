//! The real keepalived in a host of the lab: the implementation that Futago's election has to agree with.

use std::{fmt::Write as _, fs, net::IpAddr, time::Duration};

use crate::{
    error::{Context, Result},
    host::Host,
    process::{Process, Signal},
};

/// How long it may take to start, to change, or to end on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// One `vrrp_instance`; the fields are the file's keywords.
#[derive(Clone, Debug)]
pub struct Instance {
    pub interface: &'static str,
    pub virtual_router_id: u8,
    pub version: u8,
    pub priority: u8,
    pub interval_ms: u32,
    /// In the order of the advert; for IPv6 the link-local one first.
    pub addresses: Vec<IpAddr>,
    /// Own address and the peer's; `None`: multicast.
    pub unicast: Option<(IpAddr, IpAddr)>,
    /// Version 2 only.
    pub password: Option<&'static str>,
    pub use_vmac: bool,
}

impl Instance {
    /// The text of `keepalived.conf`.
    pub fn configuration(&self) -> String {
        let Self {
            interface,
            virtual_router_id,
            version,
            priority,
            interval_ms,
            ..
        } = self;
        let seconds = f64::from(*interval_ms) / 1000.0;
        let mut text = format!(
            "global_defs {{\n  vrrp_version {version}\n  vrrp_garp_master_delay 1\n}}\n\
             vrrp_instance futago {{\n  interface {interface}\n  virtual_router_id {virtual_router_id}\n  \
             priority {priority}\n  advert_int {seconds}\n  state BACKUP\n"
        );
        if self.use_vmac {
            text += "  use_vmac\n";
        }
        if let Some((own, peer)) = self.unicast {
            let _ = write!(
                text,
                "  unicast_src_ip {own}\n  unicast_peer {{\n    {peer}\n  }}\n"
            );
        }
        if let Some(password) = self.password {
            let _ = write!(
                text,
                "  authentication {{\n    auth_type PASS\n    auth_pass {password}\n  }}\n"
            );
        }
        text += "  virtual_ipaddress {\n";
        for address in &self.addresses {
            let (prefix, nodad) = if address.is_ipv4() {
                (32, "")
            } else {
                (128, " -nodad")
            };
            let _ = writeln!(text, "    {address}/{prefix}{nodad}");
        }
        text += "  }\n}\n";
        text
    }
}

/// A running keepalived, VRRP alone. Dropping it kills its parent process, and its child with it.
#[derive(Debug)]
pub struct Keepalived {
    pub process: Process,
}

impl Keepalived {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// It is not installed, or refuses the configuration; the text has its log.
    pub fn start(host: &Host, instance: &Instance) -> Result<Self> {
        let files = host.files();
        let path = files.join("keepalived.conf");
        fs::write(&path, instance.configuration())
            .context(|| format!("write {}", path.display()))?;
        let mut command = host.command("keepalived");
        command.args([
            "--dont-fork",
            "--log-console",
            "--log-detail",
            "--no-syslog",
            "--vrrp",
        ]);
        for (option, name) in [
            ("--use-file", "keepalived.conf"),
            ("--pid", "keepalived.pid"),
            ("--vrrp_pid", "keepalived-vrrp.pid"),
        ] {
            let path = files.join(name);
            if option != "--use-file" {
                // Of one that was killed: its number may be another process's now, which would be taken for it.
                let _ = fs::remove_file(&path);
            }
            command.arg(option).arg(path);
        }
        let mut process = host.spawn_command(command)?;
        process.wait_for("Entering BACKUP STATE", PATIENCE)?;
        Ok(Self { process })
    }

    /// SIGTERM: it sends priority 0 where it is master, gives its addresses back and ends.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)?;
        self.process.wait(PATIENCE).map(drop)
    }
}
