//! What was on the wire: tcpdump writes it, tshark reads it.

use std::{path::PathBuf, process::Command, time::Duration};

use crate::{
    error::{Context, Result},
    host::{Host, checked},
    process::{Process, Signal},
};

/// A capture that runs until it is stopped.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    host: String,
    file: PathBuf,
}

impl Capture {
    /// Captures on an interface (a host's `eth0`, or a switch's port) what matches a pcap filter (`"tcp port 80"`, or "").
    ///
    /// At a host with an XDP program, packets that the program takes are not seen: capture at the switch's port.
    ///
    /// # Errors
    /// tcpdump is missing or refuses the filter.
    pub fn start(host: &Host, interface: &str, filter: &str) -> Result<Self> {
        let file = host.files().join(format!("{interface}-{}.pcap", unique()));
        let mut command = host.command("tcpdump");
        command.args([
            "-n",
            "-U",
            "-s0",
            "--immediate-mode",
            "-Z",
            "root",
            "-i",
            interface,
            "-w",
        ]);
        command.arg(&file);
        if !filter.is_empty() {
            command.arg(filter);
        }
        let mut process = host.spawn_command(command)?;
        process.wait_for("listening on", Duration::from_secs(10))?;
        Ok(Self {
            process,
            host: host.name().into(),
            file,
        })
    }

    /// Ends it and returns the file, a pcap.
    ///
    /// # Errors
    /// tcpdump does not end.
    pub fn stop(mut self) -> Result<PathBuf> {
        self.process.signal(Signal::SIGINT)?;
        self.process.wait(Duration::from_secs(10))?;
        Ok(self.file)
    }

    /// Ends it and returns fields of each packet that matches a tshark display filter, one packet an entry:
    /// `fields("udp", &["ip.src", "udp.checksum.status"])`. Checksums are verified.
    ///
    /// # Errors
    /// tshark is missing or refuses the filter or a field.
    pub fn fields(self, display_filter: &str, fields: &[&str]) -> Result<Vec<Vec<String>>> {
        let host = self.host.clone();
        let file = self.stop()?;
        let mut command = Command::new("tshark");
        command
            .arg("-r")
            .arg(file)
            .args(["-n", "-T", "fields", "-Y", display_filter]);
        for option in [
            "ip.check_checksum",
            "tcp.check_checksum",
            "udp.check_checksum",
            "sctp.checksum",
        ] {
            let value = if option == "sctp.checksum" {
                "crc32c"
            } else {
                "TRUE"
            };
            command.args(["-o", &format!("{option}:{value}")]);
        }
        for field in fields {
            command.args(["-e", field]);
        }
        let output = command
            .output()
            .context(|| "start tshark (Debian: apt-get install tshark)".into())?;
        let output = checked(&command, &host, output)?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text
            .lines()
            .map(|line| line.split('\t').map(str::to_owned).collect())
            .collect())
    }
}

fn unique() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}
