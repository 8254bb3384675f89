//! A server dies under load and comes back. Needs root.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration::{
    Role, Segments,
    daemon::{self, Check},
    http::{self, Load},
    server,
    stage::{self, HTTP, Stage},
};
use lb_core::{health::State, model::Mode};

/// For a loaded machine: between the end of a process, a probe, and the table that follows from it.
const SLACK: Duration = Duration::from_millis(500);

#[test]
fn nat() -> Result<()> {
    a_killed_server_is_taken_out_and_comes_back(Mode::Nat)
}

#[test]
fn l2_dsr() -> Result<()> {
    a_killed_server_is_taken_out_and_comes_back(Mode::L2Dsr)
}

fn a_killed_server_is_taken_out_and_comes_back(mode: Mode) -> Result<()> {
    let (mut stage, _) = Stage::build("health", mode, Segments::One, None)?;
    let to = stage::vip(false, HTTP);
    let load = Load {
        concurrency: 4,
        ..Load::new(to, u64::MAX)
    };
    let load_began = Instant::now();
    let load = http::start(stage.client()?, load)?;
    stage::wait_until("a hundred answers", Duration::from_secs(10), || {
        Ok(load.so_far().answered() >= 100)
    })?;

    let killed_at = load_began.elapsed();
    stage.nginx[1].process.kill()?;
    let limit = Check::quick(HTTP).detection() + SLACK;
    let state = |number: usize| {
        move |status: &lb_userspace::api::status::Status| {
            daemon::service(status, "web4").map(|service| service.backends[number].state)
        }
    };
    let down = stage.daemon.wait_until("server2 down", limit, |status| {
        state(1)(status).is_ok_and(|state| state == State::Down)
    })?;
    let detected_at = load_began.elapsed();
    let reason = daemon::service(&down, "web4")?.backends[1].reason.clone();
    ensure!(
        reason
            .as_deref()
            .is_some_and(|reason| reason.contains("refused")),
        "{reason:?}"
    );
    ensure!(state(0)(&down)? == State::Up && state(2)(&down)? == State::Up);

    std::thread::sleep(Duration::from_millis(500));
    let report = load.so_far();
    ensure!(!report.failures.is_empty(), "nobody noticed: {report:?}");
    for failure in &report.failures {
        // A request that was under way when the server died began a little earlier.
        ensure!(
            failure.at + Duration::from_millis(100) >= killed_at
                && failure.at <= detected_at + Duration::from_millis(100),
            "{failure:?}, killed at {killed_at:?}, detected at {detected_at:?}"
        );
    }

    let servers = stage.lab.hosts_of(Role::Server).skip(1).take(1);
    let again = server::nginx_everywhere(servers, stage::extra_addresses(mode), HTTP, None)?;
    let began = Instant::now();
    stage.daemon.wait_until("server2 up", limit, |status| {
        state(1)(status).is_ok_and(|state| state == State::Up)
    })?;
    let took = began.elapsed();
    ensure!(
        took >= Duration::from_millis(150),
        "up after {took:?}: `rise` is 2"
    );
    std::thread::sleep(Duration::from_millis(200));
    let failed = load.so_far().failures.len();
    let answers = |report: &http::Report| report.by_server.get("server2").map_or(0, |s| s.answers);
    let before = answers(&load.so_far());
    stage::wait_until("answers of server2", Duration::from_secs(5), || {
        Ok(answers(&load.so_far()) > before + 10)
    })?;
    let report = load.stop();
    assert_eq!(
        report.failures.len(),
        failed,
        "{:?}",
        report.failures.last()
    );
    drop(again);
    Ok(())
}
