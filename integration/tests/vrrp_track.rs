//! What a node observes about itself decides whether it may be active: everything that can be tracked, readiness, and what a
//! reload does to addresses that were elected. Needs root.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use integration::{
    Direction, Host, Lab, Role, Segments, Topology, daemon::Daemon, pair, server::Echo,
    topology::VIP4,
};
use lb_userspace::{api::status::Status, vrrp::status::VirtualRouter};

const PATIENCE: Duration = Duration::from_secs(30);
const PORT: u16 = 7;

fn router(status: &Status) -> Option<&VirtualRouter> {
    status.election.as_ref()?.routers.first()
}

fn is(daemon: &Daemon, state: &str, priority: u8) -> Result<()> {
    daemon.wait_until(&format!("{state} with {priority}"), PATIENCE, |status| {
        router(status).is_some_and(|r| r.state == state && r.priority == priority)
    })?;
    Ok(())
}

fn eventually(what: &str, is: impl Fn() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !is()? {
        ensure!(
            start.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn program(path: &Path, text: &str) -> Result<()> {
    fs::write(path, format!("#!/bin/sh\n{text}\n"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn service(lab: &Lab, check: &str) -> Result<String> {
    let mut text = format!(
        "[dataplane]\nxdp = \"native\"\nslots = 251\n[[service]]\nname = \"echo\"\nvip = \"{VIP4}\"\nport = {PORT}\nmode = \"nat\"\n{check}\n"
    );
    for server in lab.hosts_of(Role::Server) {
        text += &format!("[[service.backend]]\naddress = \"{}\"\n", server.ipv4()?);
    }
    Ok(text)
}

#[test]
fn what_is_tracked_lowers_the_priority_or_takes_the_node_out() -> Result<()> {
    let mut lab = Topology::new(Segments::One).servers(1).build("track")?;
    lab.add_switch("other")?;
    lab.connect("lb1", "other", &integration::Link::new())?;
    let (lb, server) = (lab.host("lb1")?, lab.host("server1")?);
    let files = lb.files();
    let [low, asked, vital, script, hook, heard] =
        ["low", "asked", "vital", "script", "hook", "heard"].map(|name| files.join(name));
    for file in [&low, &asked, &vital] {
        fs::write(file, "")?;
    }
    program(&script, &format!("test -e {}", asked.display()))?;
    program(
        &hook,
        &format!(
            "echo \"$FUTAGO_NODE $FUTAGO_ROUTER $FUTAGO_FROM $FUTAGO_TO $FUTAGO_REASON\" >> {}",
            heard.display()
        ),
    )?;
    let mut text = format!(
        "[node.lb1]\ninterfaces = [\"eth0\"]\npriority = 200\n[pair]\nhook = \"{}\"\n[[virtual_router]]\nid = 51\ninterval_ms = 100\n",
        hook.display()
    );
    for track in [
        format!("file = \"{}\"\nlower = 1", low.display()),
        format!(
            "script = \"{}\"\ninterval_ms = 200\nfall = 2\nlower = 2",
            script.display()
        ),
        "gateway = \"10.0.1.10\"\ninterval_ms = 200\nfall = 2\nlower = 4".to_owned(),
        "gateway = \"fd00:1::10\"\ninterval_ms = 200\nfall = 2\nlower = 8".to_owned(),
        "interface = \"eth1\"\nlower = 16".to_owned(),
        "service = \"echo\"\nlower = 32".to_owned(),
        format!("file = \"{}\"", vital.display()),
    ] {
        text += &format!("[[virtual_router.track]]\n{track}\n");
    }
    text += &service(
        &lab,
        "check = { type = \"tcp\", interval_ms = 200, timeout_ms = 200, rise = 1, fall = 2 }",
    )?;
    let address = std::net::SocketAddr::new(server.ipv4()?, PORT);
    let echo = Echo::start(server, &[address])?;
    let daemon = Daemon::start(lb, &text, &[])?;
    is(&daemon, "active", 200)?;

    fs::remove_file(&low)?;
    is(&daemon, "active", 199)?;
    fs::remove_file(&asked)?;
    is(&daemon, "active", 197)?;
    lab.cut("client", "eth0", Direction::ToHost)?;
    is(&daemon, "active", 185)?;
    lab.unplug("lb1", "eth1")?;
    is(&daemon, "active", 169)?;
    drop(echo);
    is(&daemon, "active", 137)?;
    fs::remove_file(&vital)?;
    is(&daemon, "fault", 137)?;
    eventually("the address is given up", || holds(lb, false))?;

    let _echo = Echo::start(server, &[address])?;
    lab.plug("lb1", "eth1")?;
    lab.mend("client", "eth0", Direction::ToHost)?;
    for file in [&low, &asked, &vital] {
        fs::write(file, "")?;
    }
    is(&daemon, "active", 200)?;
    eventually("the address is held", || holds(lb, true))?;
    let metrics = daemon.cli(&["status"])?;
    ensure!(
        metrics.contains("51/ipv4") && metrics.contains("active"),
        "{metrics}"
    );
    eventually("the hook hears of every change", || {
        let heard = fs::read_to_string(&heard).unwrap_or_default();
        let changes = [
            "lb1 51/ipv4 initialize backup startup",
            "lb1 51/ipv4 backup active adverts_stopped",
            "lb1 51/ipv4 active fault fault",
            "lb1 51/ipv4 fault backup fault_cleared",
        ];
        Ok(changes
            .iter()
            .all(|change| heard.lines().any(|line| line == *change)))
    })
}

fn holds(host: &Host, wanted: bool) -> Result<bool> {
    Ok(host.enter(|| pair::has(VIP4))? == wanted)
}

#[test]
fn a_node_that_has_not_asked_its_backends_does_not_preempt() -> Result<()> {
    let lab = Topology::new(Segments::One)
        .balancers(2)
        .servers(1)
        .build("ready")?;
    // The first check of a backend that does not answer takes its whole timeout.
    lab.cut("server1", "eth0", Direction::ToHost)?;
    let mut text = String::new();
    for (node, priority) in [("lb1", 150), ("lb2", 100)] {
        text += &format!("[node.{node}]\ninterfaces = [\"eth0\"]\npriority = {priority}\n");
    }
    text += "[[virtual_router]]\nid = 51\ninterval_ms = 100\n";
    text += &service(
        &lab,
        "check = { type = \"tcp\", interval_ms = 3000, timeout_ms = 3000 }",
    )?;
    let second = Daemon::start(lab.host("lb2")?, &text, &[])?;
    is(&second, "active", 100)?;
    let first = Daemon::start(lab.host("lb1")?, &text, &[])?;
    is(&first, "active", 150)?;
    let status = first.status()?;
    let found = router(&status).context("a virtual router")?;
    ensure!(found.reason == "preempted", "{found:?}");
    // Three intervals and the skew are 341 ms: it has waited for the check.
    let waited = found.time_ms.get("backup").copied().unwrap_or(0);
    ensure!(waited > 1500, "it was backup for {waited} ms: {found:?}");
    is(&second, "backup", 100)
}

#[test]
fn addresses_that_are_elected_no_more_are_held_and_answered_for() -> Result<()> {
    let lab = Topology::new(Segments::One).servers(1).build("unelect")?;
    let (lb, client) = (lab.host("lb1")?, lab.host("client")?);
    let node = "[node.lb1]\ninterfaces = [\"eth0\"]\n";
    let services = service(&lab, "")?;
    let with = |more: &str| {
        format!("{node}[[virtual_router]]\nid = 51\ninterval_ms = 100\n{more}\n{services}")
    };
    let answers = |wanted: bool| {
        eventually(&format!("ping is answered: {wanted}"), || {
            client.ip(&["neigh flush all"])?;
            let vip = VIP4.to_string();
            let answered = client.run("ping", &["-c1", "-W1", &vip]).is_ok();
            let shown = client.run("ip", &["neigh", "show", &vip])?;
            let known = String::from_utf8_lossy(&shown.stdout).contains("lladdr");
            // ARP is answered whatever becomes of the ping.
            Ok(known && answered == wanted)
        })
    };
    let daemon = Daemon::start(lb, &with(""), &[])?;
    is(&daemon, "active", 100)?;
    answers(true)?;
    daemon.reload(&with("accept = false"))?;
    is(&daemon, "active", 100)?;
    answers(false)?;
    daemon.reload(&with("virtual_mac = true"))?;
    is(&daemon, "active", 100)?;
    answers(true)?;
    let links = || {
        let shown = lb.run("ip", &["-o", "addr"])?;
        Ok::<_, anyhow::Error>(String::from_utf8_lossy(&shown.stdout).into_owned())
    };
    let shown = links()?;
    let vip = format!("{VIP4}/32");
    let place = shown.lines().filter(|line| line.contains(&vip));
    let place: Vec<&str> = place.collect();
    ensure!(
        place.len() == 1 && place[0].contains("futago4-51"),
        "{shown}"
    );

    daemon.reload(&format!("{node}{services}"))?;
    answers(true)?;
    ensure!(!links()?.contains("futago4-51"), "{}", links()?);
    Ok(())
}
