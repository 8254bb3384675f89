//! The clock of the election and of the leases: `CLOCK_BOOTTIME`, which goes on while the host sleeps and is what the XDP
//! program reads.

use std::time::Duration;

/// Time since the host was started.
pub fn now() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid for the duration of the call.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// A number that no earlier start had.
pub fn epoch() -> u64 {
    let mut bytes = [0_u8; 8];
    // SAFETY: the buffer is as long as said.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got == 8 {
        u64::from_ne_bytes(bytes)
    } else {
        u64::try_from(now().as_nanos()).unwrap_or(u64::MAX)
    }
}
