//! The lab itself: hosts reach each other, labs do not meet, and nothing outlives its owner. Needs root.

use std::{
    fs,
    io::{BufRead, BufReader, Lines},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use integration::{Direction, Host, Lab, Role, Segments, ServersAre, Topology, topology};

/// Set for a copy of this test program that makes a lab and waits to be killed.
const OWNER: &str = "FUTAGO_LAB_TEST_OWNER";

fn ping(from: &Host, to: &str) -> Result<()> {
    from.run("ping", &["-c1", "-W1", to])?;
    Ok(())
}

#[test]
fn hosts_reach_each_other_in_both_families() -> Result<()> {
    for segments in [Segments::One, Segments::Two] {
        let lab = Topology::new(segments).balancers(2).build("reach")?;
        let client = lab.host("client")?;
        for address in [
            "10.0.1.2",
            "fd00:1::2",
            "10.0.1.3",
            "10.0.2.21",
            "fd00:2::23",
        ] {
            ping(client, address)?;
        }
    }
    Ok(())
}

#[test]
fn a_dsr_server_holds_the_vip_but_does_not_answer_for_it() -> Result<()> {
    let vips = vec![topology::VIP4, topology::VIP6];
    let lab = Topology::new(Segments::One)
        .servers_are(ServersAre::L2Dsr(vips))
        .build("dsr")?;
    let client = lab.host("client")?;
    for vip in [topology::VIP4, topology::VIP6] {
        assert!(
            ping(client, &vip.to_string()).is_err(),
            "somebody answers for {vip}"
        );
        ping(lab.host("server1")?, &vip.to_string())?;
    }
    ping(client, "10.0.2.21")
}

#[test]
fn two_labs_at_once_do_not_meet() -> Result<()> {
    let a = Topology::new(Segments::One).servers(1).build("twin")?;
    let b = Topology::new(Segments::One).servers(2).build("twin")?;
    assert_ne!(a.id(), b.id());
    ping(b.host("client")?, "10.0.2.22")?;
    assert!(
        ping(a.host("client")?, "10.0.2.22").is_err(),
        "labs are connected"
    );
    Ok(())
}

#[test]
fn cables_can_be_pulled_cut_one_way_and_mended() -> Result<()> {
    let mut lab = Lab::new("cable")?;
    lab.add_switch("lan")?;
    for (name, address) in [("a", "10.0.1.1/24"), ("b", "10.0.1.2/24")] {
        lab.add_host(name, Role::Client)?;
        lab.connect(
            name,
            "lan",
            &integration::Link::new().mtu(9000).address(address.parse()?),
        )?;
    }
    let a = lab.host("a")?;
    ping(a, "10.0.1.2")?;
    a.run("ping", &["-c1", "-W1", "-Mdo", "-s8972", "10.0.1.2"])?;

    lab.unplug("b", "eth0")?;
    assert!(
        ping(a, "10.0.1.2").is_err(),
        "answered over an unplugged cable"
    );
    lab.plug("b", "eth0")?;
    ping(a, "10.0.1.2")?;

    for direction in [Direction::ToHost, Direction::FromHost] {
        let received = || rx_packets(lab.host("b")?);
        let before = received()?;
        lab.cut("b", "eth0", direction)?;
        assert!(
            ping(a, "10.0.1.2").is_err(),
            "answered over a cable cut {direction:?}"
        );
        assert_eq!(
            received()? > before,
            direction == Direction::FromHost,
            "{direction:?}"
        );
        lab.mend("b", "eth0", direction)?;
        ping(a, "10.0.1.2")?;
    }
    Ok(())
}

fn rx_packets(host: &Host) -> Result<u64> {
    let table =
        host.enter(|| fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default())?;
    let line = table
        .lines()
        .find_map(|line| line.trim().strip_prefix("eth0:"))
        .unwrap_or_default();
    Ok(line
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(0))
}

#[test]
fn a_failed_command_says_what_where_and_why() -> Result<()> {
    let lab = Topology::new(Segments::One).servers(0).build("words")?;
    let error = lab
        .host("client")?
        .run("ip", &["link", "show", "nosuch"])
        .expect_err("no such interface");
    let text = error.to_string();
    assert!(
        text.contains("ip link show nosuch")
            && text.contains("client")
            && text.contains("does not exist"),
        "{text}"
    );
    let text = lab.host("lb7").expect_err("no such host").to_string();
    assert!(text.contains("lb7") && text.contains("lb1"), "{text}");
    Ok(())
}

#[test]
fn nothing_remains_after_drop_and_after_a_panic() -> Result<()> {
    let lab = Topology::new(Segments::One).build("drop")?;
    let id = lab.id().to_owned();
    assert!(!traces(&id).is_empty());
    let sleeper = lab.host("client")?.spawn("sleep", &["1000"])?;
    let stray = sleeper.pid();
    std::mem::forget(sleeper);
    drop(lab);
    assert_eq!(traces(&id), [""; 0]);
    assert!(!runs(stray), "a process outlived its lab");

    let panicked = thread::spawn(|| -> Result<()> {
        let lab = Topology::new(Segments::One).build("panic")?;
        std::panic::panic_any(lab.id().to_owned());
    });
    let id = panicked.join().expect_err("it panics");
    let id = id
        .downcast_ref::<String>()
        .expect("the id is what it panicked with");
    assert_eq!(traces(id), [""; 0]);
    Ok(())
}

#[test]
fn nothing_remains_when_the_owner_is_killed() {
    for signal in ["INT", "TERM", "KILL"] {
        let mut owner = Owner::start("make");
        assert!(!traces(&owner.id).is_empty());
        owner.kill(signal);
        wait_until_gone(&owner.id);
        assert!(
            !runs(owner.sleeper),
            "a process outlived the owner killed by SIG{signal}"
        );
    }
}

#[test]
fn the_next_lab_removes_what_a_killed_watchdog_could_not() -> Result<()> {
    let mut owner = Owner::start("make");
    send(owner.watchdog, "KILL");
    assert!(
        runs(owner.sleeper) && !traces(&owner.id).is_empty(),
        "there is nothing to sweep"
    );
    // From here on any new lab on this machine sweeps it; `next` is the last to do so.
    owner.kill("KILL");
    let next = Lab::new("next")?;
    assert_eq!(traces(&owner.id), [""; 0]);
    assert!(!runs(owner.sleeper));
    drop(next);
    Ok(())
}

#[test]
fn a_kept_lab_stays_until_it_is_removed() -> Result<()> {
    let mut owner = Owner::start("keep");
    owner.child.wait().expect("it ends by itself");
    let _other = Lab::new("other")?;
    assert!(!traces(&owner.id).is_empty(), "swept although kept");
    assert!(runs(owner.sleeper), "its programs ended");
    // Not `clean_all`: others on this machine may keep labs of their own.
    let status = Command::new("sh")
        .arg(format!("/run/futago-lab/{}/remove", owner.id))
        .status();
    assert!(status.expect("sh runs").success());
    assert_eq!(traces(&owner.id), [""; 0]);
    assert!(!runs(owner.sleeper));
    Ok(())
}

/// Not a test of its own: what [`Owner::start`] runs in a second process.
#[test]
fn owner() -> Result<()> {
    let Ok(what) = std::env::var(OWNER) else {
        return Ok(());
    };
    let mut lab = Topology::new(Segments::One).servers(1).build("owner")?;
    let sleeper = lab.host("client")?.spawn("sleep", &["1000"])?;
    println!(
        "\nlab {} {} {}",
        lab.id(),
        lab.watchdog_pid(),
        sleeper.pid()
    );
    if what == "keep" {
        let commands = lab.keep()?;
        assert!(
            commands.contains("nsenter") && commands.contains("remove"),
            "{commands}"
        );
    } else {
        thread::sleep(Duration::from_secs(60));
    }
    Ok(())
}

struct Owner {
    child: Child,
    /// Held, so that what the test harness of the child writes later has somewhere to go.
    _stdout: Lines<BufReader<ChildStdout>>,
    id: String,
    watchdog: u32,
    sleeper: u32,
}

impl Owner {
    fn start(what: &str) -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new(program)
            .args(["--exact", "owner", "--nocapture"])
            .env(OWNER, what)
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be run");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe")).lines();
        let line = stdout
            .by_ref()
            .map_while(std::result::Result::ok)
            .find(|line| line.starts_with("lab "));
        let line = line.expect("the owner says which lab it made");
        let [_, id, watchdog, sleeper] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let pid = |text: &str| text.parse().expect("a pid");
        Self {
            child,
            _stdout: stdout,
            id: id.into(),
            watchdog: pid(watchdog),
            sleeper: pid(sleeper),
        }
    }

    fn kill(&mut self, signal: &str) {
        send(self.child.id(), signal);
        self.child.wait().expect("it ends");
    }
}

fn send(pid: u32, signal: &str) {
    let status = Command::new("kill")
        .args([format!("-{signal}"), pid.to_string()])
        .status();
    assert!(status.expect("kill runs").success());
}

fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // An orphan that nobody has reaped yet has ended all the same.
    !stat.is_empty() && !stat.contains(") Z ")
}

/// Everything on this machine that belongs to a lab: namespaces, mounts, directories.
fn traces(id: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&format!("futago-{id}.")) {
            found.push(name);
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is there");
    found.extend(
        mounts
            .lines()
            .filter(|line| line.contains(id))
            .map(str::to_owned),
    );
    for dir in [
        format!("/run/futago-lab/{id}"),
        format!("/var/tmp/futago-lab/{id}"),
    ] {
        if Path::new(&dir).exists() {
            found.push(dir);
        }
    }
    found
}

fn wait_until_gone(id: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !traces(id).is_empty() {
        assert!(Instant::now() < deadline, "still there: {:?}", traces(id));
        thread::sleep(Duration::from_millis(50));
    }
}
