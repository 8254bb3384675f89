//! What a figure was measured on.

use std::{fs, process::Command, time::Duration};

/// Processor, kernel, date and load, in one line.
pub fn describe() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpu.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(": "))
            .map_or("?", |(_, value)| value)
            .to_owned()
    };
    let cpus = cpu
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease").trim().to_owned();
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    let memory = read("/proc/meminfo")
        .split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<u64>().ok())
        .unwrap_or(0)
        >> 20;
    let date = Command::new("date").args(["-u", "+%F %R"]).output();
    let date = date.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    );
    format!(
        "{cpus} × {} (family {} model {}), {memory} GiB, Linux {kernel}, {date} UTC, load average at the start {load}",
        field("model name"),
        field("cpu family"),
        field("model\t"),
    )
}

/// Keeps this thread on the last CPU: the kernel's own work tends to be on the first.
pub fn pin() {
    // SAFETY: a plain set of bits, zeroed; the call reads it only.
    unsafe {
        let cpus = libc::sysconf(libc::_SC_NPROCESSORS_ONLN).max(1) as usize;
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpus - 1, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// CPU time of this thread: what other programs take meanwhile is not in it.
pub fn thread_time() -> Duration {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure is ours, and every Linux has the clock.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
