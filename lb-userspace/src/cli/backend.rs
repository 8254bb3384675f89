//! `futago backend`: makes a real server out of this host, checks one, and takes it back.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use lb_common::{real_server::Outcome, tables::Counter};
use lb_core::{
    backend_host::{self, Duty, Finding, Kind, Step, Who},
    config,
    model::Model,
};

use super::{
    Failure, block_on,
    output::{count, print},
};
use crate::{
    backend::{
        change::{self, Undone},
        facts,
        record::{DEFAULT_PATH, Record},
        report::{self, Report},
    },
    dataplane::real_server::{self, DEFAULT_SERVER_DIRECTORY},
    net::netlink::Netlink,
};

/// Set up this host as a real server, or check or undo that
///
/// Reads the load balancer's own configuration file, finds the services in which this host is a backend, and
/// does what their modes need: the VIP on lo, the kernel settings that keep the host silent about it, and the XDP
/// program that takes packets out of tunnels. What
/// only an operator may change is reported with the command that does it. What was changed is recorded, and
/// --undo puts it back. Doing it twice does no harm; after a reboot it has to be done again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  futago backend --config /etc/futago.toml             set this host up
  futago backend --config /etc/futago.toml --dry-run   what would be done?
  futago backend --config /etc/futago.toml --check     what is wrong on a host that was set up by hand?
  futago backend --undo                                put back what was there

Exit codes: 0 as it should be, 1 something is wrong or could not be done, 2 wrong usage.
Setting up counts a service that does not listen yet as no failure; --check does.")]
pub(super) struct Backend {
    /// The configuration file (TOML) of the load balancer
    #[arg(long, value_name = "FILE", required_unless_present = "undo")]
    config: Option<PathBuf>,
    /// This host is the backend with this address [default: those whose addresses it has]
    #[arg(long, value_name = "IP", conflicts_with_all = ["name", "undo"])]
    address: Option<IpAddr>,
    /// This host is the backend with this name
    #[arg(long, value_name = "NAME", conflicts_with = "undo")]
    name: Option<String>,
    /// Where packets come in [default: the interface that has the backend's address]
    #[arg(long, value_name = "IF", conflicts_with = "undo")]
    interface: Option<String>,
    /// An address of the load balancer towards the servers, which `nat` needs as their gateway; may be repeated
    #[arg(long, value_name = "IP", conflicts_with = "undo")]
    gateway: Vec<IpAddr>,
    /// Change nothing; say what is wrong and how to mend it
    #[arg(long, conflicts_with = "undo")]
    check: bool,
    /// With --check: as JSON
    #[arg(long, requires = "check")]
    json: bool,
    /// Put back what was there before
    #[arg(long)]
    undo: bool,
    /// Change nothing; show the commands that do the same
    #[arg(long, conflicts_with = "check")]
    dry_run: bool,
    /// Where what was changed is recorded
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    state: PathBuf,
    /// Where the XDP program is pinned, in a bpffs
    #[arg(long, value_name = "DIR", default_value = DEFAULT_SERVER_DIRECTORY)]
    bpf_dir: PathBuf,
}

impl Backend {
    pub fn run(self) -> Result<(), Failure> {
        let Some(path) = self.config.as_ref().filter(|_| !self.undo) else {
            return block_on(self.undo());
        };
        let name = path.display().to_string();
        let text = std::fs::read(path).with_context(|| format!("cannot read {name}"))?;
        let model = config::parse_bytes(&name, &text)?.model;
        block_on(async {
            let netlink = Netlink::open().map_err(anyhow::Error::new)?;
            if self.check {
                self.check(&netlink, &model).await
            } else {
                self.set_up(&netlink, &model).await
            }
        })
    }

    async fn look(
        &self,
        netlink: &Netlink,
        model: &Model,
    ) -> anyhow::Result<(Vec<Duty>, Vec<Finding>)> {
        let mut host = facts::network(netlink, &self.bpf_dir).await?;
        let who = match (&self.address, &self.name) {
            (Some(address), _) => Who::Address(*address),
            (None, Some(name)) => Who::Name(name),
            (None, None) => Who::Holder,
        };
        let duties = backend_host::duties(model, who, self.interface.as_deref(), &host)?;
        facts::complete(&mut host, &duties)?;
        let mut gateways = backend_host::gateways(model);
        gateways.extend(&self.gateway);
        let findings = backend_host::judge(&duties, &host, &gateways);
        Ok((duties, findings))
    }

    async fn check(&self, netlink: &Netlink, model: &Model) -> Result<(), Failure> {
        let (duties, findings) = self.look(netlink, model).await?;
        if self.json {
            let report = Report::new(&duties, &findings, &self.received(&duties)?);
            let json = serde_json::to_string_pretty(&report).context("cannot write JSON")?;
            print(&(json + "\n"))?;
        } else {
            let mut text = served(&duties)
                + &report::received(&self.received(&duties)?)
                + &report::text(&findings);
            if findings.is_empty() {
                text += "good: nothing is missing\n";
            }
            print(&text)?;
        }
        verdict(report::count_wrong(&findings), "wrong on this server")
    }

    /// What the XDP program has counted; nothing if none is needed or runs.
    fn received(&self, duties: &[Duty]) -> anyhow::Result<Vec<(Outcome, Counter)>> {
        if backend_host::program_interfaces(duties).is_empty() {
            return Ok(Vec::new());
        }
        Ok(real_server::running(&self.bpf_dir)?.counters)
    }

    async fn set_up(&self, netlink: &Netlink, model: &Model) -> Result<(), Failure> {
        let (duties, findings) = self.look(netlink, model).await?;
        let mut record = Record::open(&self.state).map_err(anyhow::Error::new)?;
        print(&served(&duties))?;
        let program_interfaces = backend_host::program_interfaces(&duties);
        let wanted = |vip| {
            let mut to_vip = duties.iter().filter(|duty| duty.arrival.to_vip());
            to_vip.any(|duty| duty.key.vip == vip)
        };
        let steps = findings
            .iter()
            .filter(|finding| finding.is_ours())
            .flat_map(|f| &f.steps);
        if self.dry_run {
            for vip in record
                .entries
                .vips
                .iter()
                .filter(|vip| !wanted(vip.address))
            {
                print(&format!("would: {}\n", delete(vip.address)))?;
            }
            for step in steps {
                print(&format!("would: {step}\n"))?;
            }
            let (_, left): (Vec<_>, Vec<_>) = findings.into_iter().partition(Finding::is_ours);
            return Ok(print(&report::text(&left))?);
        }

        // The file may have lost a service since the last time.
        let stale = change::remove_vips(netlink, &mut record, wanted).await;
        show(&stale.map_err(anyhow::Error::new)?)?;
        if program_interfaces.is_empty() {
            let detached = change::detach(&mut record).map_err(anyhow::Error::new)?;
            show(detached.as_slice())?;
        }
        let mut changed = false;
        for step in steps {
            take(netlink, &mut record, step, &self.bpf_dir).await?;
            print(&format!("did: {step}\n"))?;
            changed = true;
        }
        let (_, left) = self.look(netlink, model).await?;
        print(&report::text(&left))?;
        if !changed && left.is_empty() {
            print("good: nothing was missing\n")?;
        }
        // Servers are started after their addresses are there.
        let wrong = left
            .into_iter()
            .filter(|finding| finding.kind != Kind::NotListening);
        verdict(
            report::count_wrong(&wrong.collect::<Vec<_>>()),
            "left to mend by hand",
        )
    }

    async fn undo(&self) -> Result<(), Failure> {
        let mut record = Record::open(&self.state).map_err(anyhow::Error::new)?;
        if record.is_empty() {
            let path = self.state.display();
            return Ok(print(&format!(
                "nothing to undo: {path} records no change\n"
            ))?);
        }
        if self.dry_run {
            for vip in &record.entries.vips {
                print(&format!("would: {}\n", delete(vip.address)))?;
            }
            if let Some(path) = &record.entries.program {
                print(&format!("would: detach {}\n", path.display()))?;
            }
            for change in record.entries.settings.iter().rev() {
                print(&format!(
                    "would: sysctl -w {}={}\n",
                    change.key, change.before
                ))?;
            }
            return Ok(());
        }
        let netlink = Netlink::open().map_err(anyhow::Error::new)?;
        let undone = change::undo(&netlink, &mut record).await;
        show(&undone.map_err(anyhow::Error::new)?)
    }
}

async fn take(
    netlink: &Netlink,
    record: &mut Record,
    step: &Step,
    programs: &Path,
) -> anyhow::Result<()> {
    let taken = change::take(netlink, record, step, programs).await;
    taken.with_context(|| {
        format!("cannot do `{step}`; `futago backend --undo` takes back what was done")
    })
}

fn delete(vip: IpAddr) -> String {
    let length = if vip.is_ipv4() { 32 } else { 128 };
    format!("ip address delete {vip}/{length} dev lo")
}

fn served(duties: &[Duty]) -> String {
    duties.iter().map(|duty| format!("{duty}\n")).collect()
}

/// Prints what was undone; a failure is one of the command.
fn show(undone: &[Undone]) -> Result<(), Failure> {
    for line in undone {
        print(&format!("{line}\n"))?;
    }
    let failed = undone.iter().filter(|one| matches!(one, Undone::Failed(_)));
    verdict(failed.count(), "not undone, and still recorded")
}

fn verdict(number: usize, what: &str) -> Result<(), Failure> {
    match number {
        0 => Ok(()),
        1 => Err(Failure::Failed(anyhow!("1 thing is {what}"))),
        _ => Err(Failure::Failed(anyhow!(
            "{} are {what}",
            count(number, "thing")
        ))),
    }
}
