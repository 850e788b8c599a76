//! The kernel's calls behind safe functions. Only these modules and `spawn` hold unsafe code: an init needs
//! `fork`, `waitpid(-1)`, signal and timer descriptors and `kill(-1)`, for which std has nothing, and a static
//! PID 1 in every container should carry no more crates than it must.

pub mod clock;
pub mod fd;
pub mod process;
pub mod signals;

use std::io;

/// The result of a call that says -1 and sets `errno`.
fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
