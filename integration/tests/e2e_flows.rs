//! Connections stay where they are while backends come, go and change weight. Needs root.
//!
//! `FUTAGO_FLOWS_FULL=1` opens 20,000 of them, which takes a limit of 42,000 open files, and another number as many; else there are
//! enough to notice a slot that forgets its flows.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use integration::{
    Direction, Lab, Role, Segments, ServersAre, Topology,
    crowd::{Crowd, Hall, Share},
    daemon::{self, Check, Daemon, Service},
    stage,
};
use lb_core::model::Mode;

const PORT: u16 = 9000;
const SECOND: Duration = Duration::from_secs(1);

fn size() -> Result<usize> {
    let wanted = std::env::var("FUTAGO_FLOWS_FULL").ok();
    Ok(match wanted.as_deref() {
        None => 600,
        Some("1") => 20_000,
        Some(number) => number.parse()?,
    })
}

/// A service of many connections over the servers of a lab.
struct Party {
    daemon: Daemon,
    halls: Vec<Option<Hall>>,
    service: Service,
    lab: Lab,
}

impl Party {
    /// With the first `backends` of four servers; `keys` are further lines of the service.
    fn build(name: &str, mode: Mode, backends: usize, keys: &str) -> Result<Self> {
        let extra = stage::extra_addresses(mode);
        let servers_are = if extra.is_empty() {
            ServersAre::BehindBalancer
        } else {
            ServersAre::L2Dsr(extra.to_vec())
        };
        let lab = Topology::new(Segments::Two)
            .servers(4)
            .servers_are(servers_are)
            .build(name)?;
        let halls = lab
            .hosts_of(Role::Server)
            .map(|host| {
                let any: SocketAddr = (std::net::Ipv4Addr::UNSPECIFIED, PORT).into();
                Hall::start(host, any).map(Some)
            })
            .collect::<integration::Result<_>>()?;
        let service = Service::over_servers(&lab, "party", stage::vip(false, PORT), mode)?;
        let service = Service {
            // A server that serves thousands is late for a check now and then.
            check: Some(Check {
                interval_ms: 1000,
                timeout_ms: 1000,
                rise: 1,
                fall: 2,
                port: PORT,
            }),
            keys: format!("slots = 4093\n{keys}"),
            ..service
        };
        let first = with(&service, backends);
        let lb = lab.host("lb1")?;
        let daemon = Daemon::start(lb, &daemon::configuration(lb, &[first]), &[])?;
        daemon.wait_until_up()?;
        Ok(Self {
            daemon,
            halls,
            service,
            lab,
        })
    }

    fn open(&self, count: usize) -> Result<Crowd> {
        let client = self.lab.host("client")?;
        let crowd = Crowd::open(client, stage::vip(false, PORT), count)?;
        crowd.wait_until_all_answer(30 * SECOND)?;
        Ok(crowd)
    }

    fn reload(&self, service: &Service) -> Result<()> {
        let lb = self.lab.host("lb1")?;
        self.daemon
            .reload(&daemon::configuration(lb, std::slice::from_ref(service)))?;
        Ok(())
    }
}

fn with(service: &Service, backends: usize) -> Service {
    let mut service = service.clone();
    service.backends.truncate(backends);
    service
}

/// Every connection is open and has been answered since.
fn whole(crowd: &Crowd, before: &BTreeMap<String, Share>, what: &str) -> Result<()> {
    crowd.wait_until_all_answer(30 * SECOND)?;
    let now = crowd.shares();
    for (server, share) in &now {
        ensure!(share.broken.is_empty(), "{what}: {server} {share:?}");
        let had = before.get(server).map_or(0, |share| share.open);
        ensure!(share.open == had, "{what}: {server} had {had}: {share:?}");
    }
    Ok(())
}

#[test]
fn no_connection_moves_while_backends_change() -> Result<()> {
    for mode in [Mode::Nat, Mode::L2Dsr] {
        let mut party = Party::build("flows", mode, 3, "")?;
        let crowd = party.open(size()?)?;
        let before = crowd.shares();
        ensure!(before.len() == 3, "{before:?}");

        // One more.
        let mut service = with(&party.service, 4);
        party.reload(&service)?;
        whole(&crowd, &before, "a backend was added")?;
        let newcomers = party.open(200)?;
        ensure!(newcomers.shares().contains_key("server4"));

        // One drained: what it has stays, and it gets no more.
        let first = service.backends[0].address.to_string();
        party.daemon.cli(&["drain", "party", &first])?;
        std::thread::sleep(SECOND / 10);
        whole(&crowd, &before, "a backend is drained")?;
        let late = party.open(200)?;
        ensure!(
            !late.shares().contains_key("server1"),
            "{:?}",
            late.shares()
        );

        // Other weights.
        service.backends[1].weight = 7;
        party.reload(&service)?;
        whole(&crowd, &before, "weights changed")?;
        party.daemon.cli(&["undrain", "party", &first])?;
        whole(&crowd, &before, "the drain ended")?;

        // One dies: its own connections end, and no other.
        party.halls[2] = None;
        party
            .daemon
            .wait_until("server3 down", 20 * SECOND, |status| {
                daemon::backends(status)
                    .filter(|b| !b.state.serves())
                    .count()
                    == 1
            })?;
        crowd.wait_until_all_answer(30 * SECOND)?;
        for (server, share) in crowd.shares() {
            let had = before.get(&server).map_or(0, |share| share.open);
            if server == "server3" {
                ensure!(share.open == 0, "{share:?}");
            } else {
                ensure!(share.open == had && share.broken.is_empty(), "{share:?}");
            }
        }
        for others in [&newcomers, &late] {
            for (server, share) in others.shares() {
                ensure!(server == "server3" || share.broken.is_empty(), "{share:?}");
            }
        }
    }
    Ok(())
}

/// Resets that the servers themselves have sent.
fn resets_of_servers(party: &Party) -> Result<u64> {
    let servers = party.lab.hosts_of(Role::Server);
    let resets = servers.map(|host| stage::tcp_counter(host, "OutRsts"));
    Ok(resets
        .collect::<integration::Result<Vec<_>>>()?
        .iter()
        .sum())
}

/// The connections of one server end because another one got them and does not know them; the others' stay.
fn are_moved(party: &Party, crowd: &Crowd, server: &str) -> Result<()> {
    let resets = resets_of_servers(party)?;
    are_reset(party, crowd, server)?;
    let resets = resets_of_servers(party)? - resets;
    ensure!(resets > 0, "no server said so");
    Ok(())
}

/// As [`are_moved`], but the balancer says so, and no server sees them.
fn are_ended(party: &Party, crowd: &Crowd, server: &str) -> Result<()> {
    let had = crowd.shares().get(server).map_or(0, |share| share.open);
    let resets = resets_of_servers(party)?;
    are_reset(party, crowd, server)?;
    let resets = resets_of_servers(party)? - resets;
    ensure!(resets == 0, "servers said so {resets} times");
    let status = party.daemon.status()?;
    let told = status
        .reasons
        .iter()
        .find(|counted| counted.reason == "connection_reset")
        .map_or(0, |counted| counted.packets);
    ensure!(told >= had as u64, "{told} resets for {had} connections");
    Ok(())
}

/// All connections of one server are reset, and no others.
fn are_reset(party: &Party, crowd: &Crowd, server: &str) -> Result<()> {
    let before = crowd.shares();
    let ended = stage::wait_until("the server's connections to end", 30 * SECOND, || {
        Ok(crowd
            .shares()
            .get(server)
            .is_none_or(|share| share.open == 0))
    });
    ended.with_context(|| {
        let status = party.daemon.cli(&["status"]).unwrap_or_default();
        format!("{:?}\n{status}", crowd.shares())
    })?;
    for (name, share) in crowd.shares() {
        if name == server {
            let reset = std::io::ErrorKind::ConnectionReset.to_string();
            ensure!(share.broken.keys().eq([&reset]), "{name}: {share:?}");
        } else {
            let had = before.get(&name).map_or(0, |share| share.open);
            ensure!(
                share.broken.is_empty() && share.open == had,
                "{name}: {share:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn at_the_deadline_of_a_drain_connections_are_moved_or_reset() -> Result<()> {
    drain_to_the_end("rehash", are_moved)?;
    drain_to_the_end("reset", are_ended)
}

fn drain_to_the_end(word: &str, end: fn(&Party, &Crowd, &str) -> Result<()>) -> Result<()> {
    // Another word for backends that die, so that one is not taken for the other.
    let keys = format!("on_drain_end = \"{word}\"\non_backend_down = \"keep\"");
    let party = Party::build("drain", Mode::Nat, 3, &keys)?;
    let crowd = party.open(90)?;
    let before = crowd.shares();
    let first = party.service.backends[0].address.to_string();
    let said = party
        .daemon
        .cli(&["drain", "party", &first, "--deadline", "4s"])?;
    ensure!(said.contains("its connections have 4s"), "{said}");
    let status = party.daemon.cli(&["status"])?;
    ensure!(status.contains("drains by command"), "{status}");
    whole(&crowd, &before, "the drain has begun")?;
    end(&party, &crowd, "server1")?;
    let status = party.daemon.cli(&["status"])?;
    ensure!(status.contains("drained by command"), "{status}");
    Ok(())
}

#[test]
fn connections_of_a_backend_that_dies_are_moved_reset_or_kept() -> Result<()> {
    for on_down in ["rehash", "reset", "keep"] {
        let keys = format!("on_backend_down = \"{on_down}\"");
        let party = Party::build("down", Mode::Nat, 3, &keys)?;
        let crowd = party.open(90)?;
        let before = crowd.shares();
        party.lab.cut("server1", "eth0", Direction::ToHost)?;
        match on_down {
            "rehash" => {
                are_moved(&party, &crowd, "server1")?;
                continue;
            }
            "reset" => {
                are_ended(&party, &crowd, "server1")?;
                continue;
            }
            _ => {}
        }
        party
            .daemon
            .wait_until("server1 down", 20 * SECOND, |status| {
                daemon::backends(status).any(|backend| !backend.state.serves())
            })?;
        std::thread::sleep(3 * SECOND);
        party.lab.mend("server1", "eth0", Direction::ToHost)?;
        whole(&crowd, &before, "the server is back")?;
    }
    Ok(())
}

#[test]
fn flows_are_listed_and_counted_while_a_backend_is_drained() -> Result<()> {
    // The first backends that came up have left slots in change.
    let keys = "timeouts = { established_s = 3, closing_s = 1, half_open_s = 1 }";
    let party = Party::build("list", Mode::Nat, 3, keys)?;
    party
        .daemon
        .wait_until("no slot in change", 60 * SECOND, |status| {
            status
                .services
                .iter()
                .all(|service| service.slots_in_change == 0)
        })?;
    let crowd = party.open(120)?;
    let count = |arguments: &[&str]| -> Result<usize> {
        let all = [&["flows", "--json"], arguments].concat();
        Ok(party.daemon.cli(&all)?.lines().count())
    };
    assert_eq!(count(&[])?, 0, "nothing is in change");
    let first = party.service.backends[0].address.to_string();
    let had = crowd.shares().get("server1").map_or(0, |share| share.open);
    party.daemon.cli(&["drain", "party", &first])?;
    std::thread::sleep(SECOND / 10);
    crowd.wait_until_all_answer(30 * SECOND)?;
    // All of its slots have changed hands, and no other's need have.
    assert_eq!(
        count(&["--backend", &first, "--state", "established"])?,
        had
    );
    assert_eq!(count(&["--client", "10.9.9.9"])?, 0);
    let text = party.daemon.cli(&[
        "flows",
        "--count",
        "--service",
        "party",
        "--backend",
        &first,
    ])?;
    ensure!(text.contains(&format!("{had} established")), "{text}");
    let status = party.daemon.status()?;
    let service = daemon::service(&status, "party")?;
    ensure!(service.slots_in_change > 1000, "{service:?}");
    Ok(())
}
