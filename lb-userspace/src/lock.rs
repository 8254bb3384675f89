//! One process at a time: a lock on an open file that ends with the process.

use std::{fs::File, io, os::fd::AsRawFd, thread, time::Duration};

/// How often the lock is tried, and the pause between.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(20);

/// Locks `file` for as long as it is open; false if another process holds it. Blocks for 200 ms at most: a child that was just
/// forked shares the lock until it executes another program, also when its parent is gone.
pub(crate) fn exclusive(file: &File) -> io::Result<bool> {
    for attempt in 1..=TRIES {
        // SAFETY: flock(2) takes no pointers, and `file` keeps the descriptor open.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::WouldBlock {
            return Err(error);
        }
        if attempt < TRIES {
            thread::sleep(PAUSE);
        }
    }
    Ok(false)
}
