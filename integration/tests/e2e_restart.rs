//! The daemon ends in every way there is, and packets do not notice unless they should. Needs root.

use std::{fs, net::IpAddr, path::Path, time::Duration};

use anyhow::{Result, ensure};
use integration::{
    Host, Segments, Signal,
    daemon::{self, Daemon},
    http::{self, Load},
    probe::{Gap, Prober},
    stage::{self, ECHO, HTTP, Stage},
};
use lb_core::model::Mode;
use lb_userspace::api::status::Status;

const MS: Duration = Duration::from_millis(1);

/// Of the file that is downloaded; `FUTAGO_DOWNLOAD_MIB` sets another size.
fn mebibytes() -> usize {
    let wanted = std::env::var("FUTAGO_DOWNLOAD_MIB").ok();
    wanted.and_then(|text| text.parse().ok()).unwrap_or(1024)
}

#[test]
fn a_killed_daemon_loses_no_packet_and_the_next_adopts_nat() -> Result<()> {
    killed_during_a_download(Mode::Nat, Segments::Two)
}

#[test]
fn a_killed_daemon_loses_no_packet_and_the_next_adopts_l2_dsr() -> Result<()> {
    killed_during_a_download(Mode::L2Dsr, Segments::One)
}

fn killed_during_a_download(mode: Mode, segments: Segments) -> Result<()> {
    let size = mebibytes();
    let (mut stage, sha256) = Stage::build("kill", mode, segments, Some(size))?;
    let client = stage.client()?.clone();
    let url = format!("http://{}/big", stage::vip(false, HTTP));
    let download = {
        let client = client.clone();
        std::thread::spawn(move || http::download(&client, &url, &["--limit-rate", "200M"]))
    };
    let probers = [false, true]
        .map(|ipv6| Prober::udp(&client, stage::vip(ipv6, ECHO), MS))
        .into_iter()
        .collect::<integration::Result<Vec<_>>>()?;
    std::thread::sleep(500 * MS);
    let before = stage.daemon.status()?;
    ensure!(!before.adopted);

    stage.daemon.process.kill()?;
    std::thread::sleep(500 * MS);
    let lb = stage.balancer()?.clone();
    // The kernel may forget neighbours meanwhile; the tables do not.
    lb.ip(&["neigh flush all"])?;
    stage.daemon = Daemon::start_again(&lb, &[])?;
    let adopted = stage.daemon.status()?;
    std::thread::sleep(1000 * MS);
    ensure!(
        !download.is_finished(),
        "the download was too short to be interrupted"
    );

    let gaps: Vec<Gap> = probers
        .into_iter()
        .map(Prober::stop)
        .collect::<integration::Result<_>>()?;
    let downloaded = download.join().expect("the download does not panic")?;
    let after = stage.daemon.status()?;
    assert_eq!(downloaded.bytes, (size << 20) as u64);
    assert_eq!(downloaded.sha256, sha256);
    for gap in &gaps {
        ensure!(gap.lost == 0 && gap.sent > 1000, "{gap:?}");
        println!("{gap:?}");
    }
    ensure!(adopted.adopted, "the tables were not adopted");
    assert_eq!(adopted.config_digest, before.config_digest);
    // Adopted backends are up before any probe, and counters go on.
    ensure!(daemon::backends(&adopted).all(|backend| backend.state.serves()));
    for (before, adopted) in daemon::backends(&before).zip(daemon::backends(&adopted)) {
        ensure!(adopted.packets >= before.packets);
    }
    assert_eq!(dropped(&after), Vec::<String>::new());
    let (sent, counted) = (
        gaps.iter().map(|gap| gap.sent).collect::<Vec<_>>(),
        ["echo4", "echo6"]
            .iter()
            .map(|name| daemon::service(&after, name).map(|service| service.packets))
            .collect::<integration::Result<Vec<_>>>()?,
    );
    assert_eq!(
        sent, counted,
        "datagrams sent, and counted over both daemons"
    );
    Ok(())
}

#[test]
fn sigterm_leaves_the_host_as_it_was() -> Result<()> {
    for mode in [Mode::Nat, Mode::L2Dsr] {
        let lab = stage::lab("term", mode, Segments::Two)?;
        let lb = lab.host("lb1")?.clone();
        let before = traces(&lb)?;
        drop(lab);
        let (mut stage, _) = Stage::build("term", mode, Segments::Two, None)?;
        let lb = stage.balancer()?.clone();
        ensure!(
            traces(&lb)? != before,
            "the daemon left no trace while it ran"
        );
        let status = stage.daemon.process.terminate(10_000 * MS)?;
        ensure!(status.success(), "{status}\n{}", stage.daemon.process.log());
        assert_eq!(traces(&lb)?, before, "{}", stage.daemon.process.log());
        ensure!(!daemon::socket_path(&lb).exists());
        let report = http::get_many(
            stage.client()?,
            Load {
                timeout: 200 * MS,
                ..Load::new(stage::vip(false, HTTP), 1)
            },
        )?;
        assert_eq!(report.answered(), 0);
        // A second start is like the first.
        stage.daemon = Daemon::start_again(&lb, &[])?;
        ensure!(!stage.daemon.wait_until_up()?.adopted);
        http::get_many(stage.client()?, Load::new(stage::vip(false, HTTP), 100))?.all_answered()?;
    }
    Ok(())
}

#[test]
fn keep_goes_on_forwarding_until_it_is_taken_over() -> Result<()> {
    let (mut stage, _) = Stage::build("keep", Mode::Nat, Segments::One, None)?;
    let (client, lb) = (stage.client()?.clone(), stage.balancer()?.clone());
    let prober = Prober::udp(&client, stage::vip(false, ECHO), MS)?;
    std::thread::sleep(200 * MS);
    stage.daemon.cli(&["stop", "--keep"])?;
    ensure!(stage.daemon.process.wait(10_000 * MS)?.success());
    http::get_many(&client, Load::new(stage::vip(true, HTTP), 100))?.all_answered()?;

    stage.daemon = Daemon::start_again(&lb, &["--keep"])?;
    ensure!(stage.daemon.status()?.adopted);
    ensure!(stage.daemon.process.terminate(10_000 * MS)?.success());
    http::get_many(&client, Load::new(stage::vip(true, HTTP), 100))?.all_answered()?;

    stage.daemon = Daemon::start_again(&lb, &[])?;
    std::thread::sleep(200 * MS);
    let gap = prober.stop()?;
    ensure!(gap.lost == 0, "{gap:?}");
    let lab = stage::lab("keep", Mode::Nat, Segments::One)?;
    let untouched = traces(lab.host("lb1")?)?;
    ensure!(stage.daemon.process.terminate(10_000 * MS)?.success());
    assert_eq!(traces(&lb)?, untouched, "{}", stage.daemon.process.log());
    Ok(())
}

#[test]
fn a_second_daemon_is_refused_and_does_no_harm() -> Result<()> {
    let (stage, _) = Stage::build("second", Mode::Nat, Segments::One, None)?;
    let lb = stage.balancer()?;
    let prober = Prober::udp(stage.client()?, stage::vip(false, ECHO), MS)?;
    let mut second = Daemon::spawn(lb, &[])?;
    ensure!(!second.wait(10_000 * MS)?.success());
    ensure!(
        second.stderr().contains("another futago is running"),
        "{}",
        second.stderr()
    );
    let gap = prober.stop()?;
    ensure!(gap.lost == 0, "{gap:?}");
    assert_eq!(dropped(&stage.daemon.status()?), Vec::<String>::new());
    Ok(())
}

#[test]
fn an_interrupt_ends_it_as_sigterm_does() -> Result<()> {
    let (mut stage, _) = Stage::build("int", Mode::L2Dsr, Segments::One, None)?;
    let lb = stage.balancer()?.clone();
    stage.daemon.process.signal(Signal::SIGINT)?;
    ensure!(stage.daemon.process.wait(10_000 * MS)?.success());
    let (vips, _, pins) = traces(&lb)?;
    ensure!(
        !vips.contains("10.0.1.100") && pins.is_empty(),
        "{vips}\n{pins:?}"
    );
    Ok(())
}

fn dropped(status: &Status) -> Vec<String> {
    let reasons = status.reasons.iter();
    reasons
        .filter(|reason| reason.class == "dropped" && reason.packets > 0)
        .map(|reason| format!("{} {}", reason.packets, reason.reason))
        .collect()
}

/// What a daemon may leave on a host: addresses and programs on interfaces, kernel settings, pins.
fn traces(host: &Host) -> Result<(String, Vec<String>, Vec<String>)> {
    let output = |arguments: &[&str]| -> Result<String> {
        Ok(String::from_utf8(host.run("ip", arguments)?.stdout)?)
    };
    let links = output(&["-o", "link"])?;
    let programs = links.matches("prog/xdp").count();
    let addresses: Vec<IpAddr> = [stage::vip(false, 0), stage::vip(true, 0)]
        .map(|vip| vip.ip())
        .into();
    let held = output(&["-o", "addr"])?;
    let held: Vec<_> = addresses
        .iter()
        .filter(|vip| held.contains(&format!(" {vip}/")))
        .collect();
    let settings = host.enter(|| settings(Path::new("/proc/sys/net")))?;
    let mut pins = Vec::new();
    tree(&daemon::bpf_dir(host), &mut pins);
    Ok((
        format!("{programs} programs, VIPs {held:?}"),
        settings,
        pins,
    ))
}

/// The settings of the families that a daemon touches.
fn settings(root: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for family in ["ipv4/conf", "ipv6/conf"] {
        tree(&root.join(family), &mut files);
    }
    files
        .into_iter()
        .filter(|path| !path.contains("stable_secret"))
        .map(|path| {
            format!(
                "{path}={}",
                fs::read_to_string(&path).unwrap_or_default().trim()
            )
        })
        .collect()
}

/// All files below a directory, in order.
fn tree(directory: &Path, files: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() && !path.is_symlink() {
            tree(&path, files);
        } else {
            files.push(path.display().to_string());
        }
    }
}
