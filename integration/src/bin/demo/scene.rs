//! One mode from an empty machine to a server that died and came back, with what was measured on the way.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use integration::{
    Lab, Role,
    daemon::{self, Check, Daemon, Service},
    http::{self, Load, Report, Running},
    server::{self, Nginx},
    stage::{self, HTTP},
};
use lb_core::{health::State, model::Mode};
use lb_userspace::api::status::Status;

use crate::{
    screen::{Screen, ms, thousands},
    setting::Setting,
};

/// Name of the service.
const WEB: &str = "web";
/// The server that is killed, by its place among the backends.
const VICTIM: usize = 1;
/// Between two looks at a load that runs.
const LOOK: Duration = Duration::from_millis(50);
/// Requests at once while a server dies and comes back.
pub const UNDER_WAY: u16 = 4;
/// How long the load runs on after a change.
const AFTERWARDS: Duration = Duration::from_secs(1);
/// What a loaded machine may need beyond what the health check promises.
const SLACK: Duration = Duration::from_millis(500);

pub struct Scene {
    to: SocketAddr,
    mode: Mode,
    check: Check,
    daemon: Daemon,
    nginx: Vec<Nginx>,
    lab: Lab,
}

/// What was measured.
pub struct Outcome {
    pub requests: u64,
    pub failed: u64,
    pub first_failure: Option<String>,
    pub per_second: f64,
    pub by_server: BTreeMap<String, u64>,
    /// From the death of the server to the status that says so.
    pub detection: Duration,
    /// What the check promises, with some slack.
    pub detection_limit: Duration,
    /// Requests that failed while nobody knew.
    pub failed_until_detection: u64,
    pub sent_until_detection: u64,
    /// Requests that failed and began after it, before the server came back.
    pub failed_after: u64,
    /// Requests that failed when it came back: those under way over slots that it owns again.
    pub failed_at_return: u64,
    /// From the start of the server to the status that says it is up.
    pub recovery: Duration,
    /// Packets that the program dropped, by reason.
    pub dropped: Vec<(String, u64)>,
}

impl Scene {
    pub fn build(setting: Setting, ipv6: bool, screen: &Screen) -> Result<Self> {
        let (mode, to) = (setting.mode(), stage::vip(ipv6, HTTP));
        let lab = screen.step("building the lab", || {
            let lab = stage::lab("demo", mode, setting.segments())?;
            let said = format!(
                "lab: {} hosts and {} as network namespaces",
                lab.hosts().len(),
                match lab.switches().len() {
                    1 => "a switch".to_owned(),
                    number => format!("{number} switches"),
                }
            );
            Ok((lab, said))
        })?;
        let vip = format!("VIP  {}", to.ip());
        let mut notes = vec![("lb1", vip.as_str()), ("lb1", "futago")];
        for server in ["server1", "server2", "server3"] {
            if !stage::extra_addresses(mode).is_empty() {
                notes.push((server, "lo   the VIP"));
            }
            if mode.words().1.is_some() {
                notes.push((server, "XDP  backend"));
            }
            notes.push((server, "nginx"));
        }
        screen.blank();
        screen.picture(&lab.picture(&notes));

        let check = Check::quick(HTTP);
        let lb = lab.host("lb1")?;
        let mut service = Service::over_servers(&lab, WEB, to, mode)?;
        service.check = Some(check);
        if setting.is_crossed() {
            for (backend, host) in service.backends.iter_mut().zip(lab.hosts_of(Role::Server)) {
                backend.address = if ipv6 { host.ipv4()? } else { host.ipv6()? };
            }
        }
        let configuration = daemon::configuration(lb, &[service]);
        stage::prepare_servers(&lab, mode, &configuration)?;
        let extra = &vips(mode, to);
        let nginx = screen.step("starting nginx on the servers", || {
            let nginx = server::nginx_everywhere(lab.hosts_of(Role::Server), extra, HTTP, None)?;
            let said = format!("nginx on {} servers", nginx.len());
            Ok((nginx, said))
        })?;
        let daemon = screen.step("starting futago on lb1", || {
            let daemon = Daemon::start(lab.host("lb1")?, &configuration, &[])?;
            let status = daemon.wait_until_up()?;
            let interfaces: Vec<_> = status
                .interfaces
                .iter()
                .map(|interface| format!("{} XDP on {}", interface.xdp, interface.name))
                .collect();
            let said = format!("futago on lb1: {}, all backends up", interfaces.join(", "));
            Ok((daemon, said))
        })?;
        Ok(Self {
            to,
            mode,
            check,
            daemon,
            nginx,
            lab,
        })
    }

    pub fn play(&mut self, requests: u64, screen: &Screen) -> Result<Outcome> {
        let (report, per_second) = self.requests(requests, screen)?;
        let by_server: BTreeMap<String, u64> = self
            .lab
            .hosts_of(Role::Server)
            .map(|host| {
                let share = report.by_server.get(host.name());
                (
                    host.name().to_owned(),
                    share.map_or(0, |share| share.answers),
                )
            })
            .collect();
        screen.blank();
        let rows: Vec<_> = by_server
            .iter()
            .map(|(name, n)| (name.clone(), *n))
            .collect();
        screen.bars(&rows);
        screen.blank();
        let status = self.daemon.status()?;
        screen.note(&counted(&status));
        screen.blank();

        let mut outcome = Outcome {
            requests,
            failed: report.failures.len() as u64,
            first_failure: report
                .failures
                .first()
                .map(|failure| failure.reason.clone()),
            per_second,
            by_server,
            detection: Duration::ZERO,
            detection_limit: self.check.detection() + SLACK,
            failed_until_detection: 0,
            sent_until_detection: 0,
            failed_after: 0,
            failed_at_return: 0,
            recovery: Duration::ZERO,
            dropped: Vec::new(),
        };
        self.kill_and_revive(&mut outcome, screen)?;
        outcome.dropped = dropped(&self.daemon.status()?);
        Ok(outcome)
    }

    /// Lets the lab stay; how to enter it, and what to try there.
    pub fn keep(mut self) -> Result<String> {
        let enter = self.lab.keep()?;
        let lb = self.lab.host("lb1")?;
        let client = self.lab.host("client")?.namespace();
        let futago = daemon::binary()?;
        let socket = daemon::socket_path(lb);
        let config = daemon::config_path(lb);
        Ok(format!(
            "The last lab is still up.\n\n\
             a shell in a host, and how to remove it all:\n{}\n\
             try:\n  nsenter --net=/run/netns/{client} curl 'http://{}/'\n  \
             export FUTAGO_SOCKET={}\n  {} status --watch\n  \
             edit {}, then: {} reload\n",
            indented(&enter),
            self.to,
            socket.display(),
            futago.display(),
            config.display(),
            futago.display(),
        ))
    }

    fn requests(&self, requests: u64, screen: &Screen) -> Result<(Report, f64)> {
        let what = format!("{} requests to http://{}/", thousands(requests), self.to);
        let client = self.lab.host("client")?;
        screen.step(&what, || {
            let load = http::start(client, Load::new(self.to, requests))?;
            let report = loop {
                thread::sleep(LOOK);
                let report = load.so_far();
                let done = report.answered() + report.failures.len() as u64;
                if done >= requests {
                    break load.wait();
                }
                screen.progress(&format!("{what}: {}", thousands(done)));
            };
            let per_second = requests as f64 / report.elapsed.as_secs_f64();
            let failed = match report.failures.len() {
                0 => "all answered".to_owned(),
                number => format!("{} FAILED", thousands(number as u64)),
            };
            let said = format!(
                "{what}: {failed}, {} a second",
                thousands(per_second as u64)
            );
            Ok(((report, per_second), said))
        })
    }

    fn kill_and_revive(&mut self, outcome: &mut Outcome, screen: &Screen) -> Result<()> {
        let began = Instant::now();
        let load = Load {
            concurrency: UNDER_WAY,
            ..Load::new(self.to, u64::MAX)
        };
        let load = http::start(self.lab.host("client")?, load)?;
        thread::sleep(AFTERWARDS / 2);
        let name = format!("server{}", VICTIM + 1);

        let sent_before = sent(&load.so_far());
        let killed_at = began.elapsed();
        self.nginx
            .get_mut(VICTIM)
            .context("there are three servers")?
            .process
            .kill()?;
        let detected_at = screen.step(&format!("{name} is killed under load"), || {
            self.wait_for(State::Down, outcome.detection_limit * 4)?;
            let detected_at = began.elapsed();
            let said = format!(
                "{name} killed under load: out of the table after {}",
                ms(detected_at - killed_at)
            );
            Ok((detected_at, said))
        })?;
        outcome.detection = detected_at - killed_at;
        outcome.sent_until_detection = sent(&load.so_far()) - sent_before;
        self.watch(&load, screen, &format!("requests go on without {name}"))?;

        let revived_at = Instant::now();
        let recovery = screen.step(&format!("{name} is started again"), || {
            let servers = self.lab.hosts_of(Role::Server).skip(VICTIM).take(1);
            let extra = &vips(self.mode, self.to);
            self.nginx
                .extend(server::nginx_everywhere(servers, extra, HTTP, None)?);
            self.wait_for(State::Up, Duration::from_secs(10))?;
            let took = revived_at.elapsed();
            Ok((
                took,
                format!("{name} started again: back after {}", ms(took)),
            ))
        })?;
        outcome.recovery = recovery;
        let answers = |report: &Report| report.by_server.get(&name).map_or(0, |s| s.answers);
        let before = answers(&load.so_far());
        self.watch(&load, screen, &format!("requests go on with {name}"))?;
        let report = load.stop();
        anyhow::ensure!(
            answers(&report) > before,
            "{name} is up again, but answered no request"
        );
        let returned_at = revived_at.duration_since(began);
        for failure in &report.failures {
            *if failure.at <= detected_at {
                &mut outcome.failed_until_detection
            } else if failure.at < returned_at {
                &mut outcome.failed_after
            } else {
                &mut outcome.failed_at_return
            } += 1;
        }
        let after = sent(&report) - sent_before - outcome.sent_until_detection;
        screen.note(&format!(
            "failed requests: {} of {} until it was found, {} of {} after{}",
            thousands(outcome.failed_until_detection),
            thousands(outcome.sent_until_detection),
            thousands(outcome.failed_after + outcome.failed_at_return),
            thousands(after),
            match outcome.failed_at_return {
                0 => String::new(),
                number => format!(", {number} of them under way when {name} took its slots back"),
            }
        ));
        Ok(())
    }

    fn watch(&self, load: &Running, screen: &Screen, what: &str) -> Result<()> {
        screen.step(what, || {
            let before = load.so_far();
            thread::sleep(AFTERWARDS);
            let after = load.so_far();
            let said = format!(
                "{what}: {} answered, {} failed",
                thousands(after.answered() - before.answered()),
                after.failures.len() - before.failures.len()
            );
            Ok(((), said))
        })
    }

    fn wait_for(&self, state: State, limit: Duration) -> integration::Result<Status> {
        let what = format!("server{} {state:?}", VICTIM + 1).to_lowercase();
        self.daemon.wait_until(&what, limit, |status| {
            daemon::service(status, WEB).is_ok_and(|web| {
                let backend = web.backends.get(VICTIM);
                backend.is_some_and(|backend| backend.state == state)
            })
        })
    }
}

fn sent(report: &Report) -> u64 {
    report.answered() + report.failures.len() as u64
}

/// What servers hold beside their own addresses, of the family that is shown.
fn vips(mode: Mode, to: SocketAddr) -> Vec<IpAddr> {
    let all = stage::extra_addresses(mode).iter().copied();
    all.filter(|vip| vip.is_ipv4() == to.is_ipv4()).collect()
}

/// What the program itself counted.
fn counted(status: &Status) -> String {
    let of = |name: &str| {
        let mut reasons = status.reasons.iter();
        reasons
            .find(|reason| reason.reason == name)
            .map_or(0, |reason| reason.packets)
    };
    let lost: u64 = dropped(status).iter().map(|(_, packets)| packets).sum();
    let back = match of("to_client") {
        0 => "answers went directly to the client".to_owned(),
        packets => format!("{} back to the client", thousands(packets)),
    };
    format!(
        "packets that the XDP program counted: {} to backends, {back}, {} dropped",
        thousands(of("to_backend")),
        thousands(lost)
    )
}

fn dropped(status: &Status) -> Vec<(String, u64)> {
    let reasons = status.reasons.iter();
    reasons
        .filter(|reason| reason.class == "dropped" && reason.packets > 0)
        .map(|reason| (reason.reason.clone(), reason.packets))
        .collect()
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
