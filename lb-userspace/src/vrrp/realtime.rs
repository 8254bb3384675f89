//! Makes a thread run before ordinary ones, where the system lets it.

use std::io;

/// Above ordinary work, below the kernel's own real-time threads (50).
const PRIORITY: i32 = 20;

/// Real-time scheduling for the calling thread; what it starts is ordinary again.
pub fn schedule() -> io::Result<()> {
    let parameters = libc::sched_param {
        sched_priority: PRIORITY,
    };
    // SAFETY: `parameters` is valid for the duration of the call; 0 is the calling thread.
    let result = unsafe {
        libc::sched_setscheduler(
            0,
            libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK,
            &raw const parameters,
        )
    };
    outcome(result)
}

/// Keeps what the process has touched in memory: a page that has to be read back is a late advert.
pub fn lock_memory() -> io::Result<()> {
    // SAFETY: takes no pointers.
    outcome(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) })
}

fn outcome(result: i32) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
