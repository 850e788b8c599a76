//! The boot clock, which runs on while the machine is suspended, and a timer on it.
#![allow(
    unsafe_code,
    reason = "clock_gettime and timerfd: std has neither the boot clock nor timers on it"
)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use super::checked;

/// Milliseconds of `CLOCK_BOOTTIME`.
pub fn boot_ms() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` outlives the call; it cannot fail for a clock that every Linux since 2.6.39 has.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    let (secs, nanos) = (
        u64::try_from(now.tv_sec).unwrap_or(0),
        u64::try_from(now.tv_nsec).unwrap_or(0),
    );
    secs.saturating_mul(1000).saturating_add(nanos / 1_000_000)
}

/// Becomes readable at a moment of the boot clock: `poll`'s own timeout stands still during suspend.
pub struct Alarm {
    fd: OwnedFd,
    set_ms: u64,
}

impl Alarm {
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the descriptor returned is new and owned by nobody else.
        let fd = unsafe {
            OwnedFd::from_raw_fd(checked(libc::timerfd_create(
                libc::CLOCK_BOOTTIME,
                libc::TFD_NONBLOCK | libc::TFD_CLOEXEC,
            ))?)
        };
        Ok(Self { fd, set_ms: 0 })
    }

    /// Rings at `at_ms`, at once if that is over. Setting it anew also silences it.
    pub fn set(&mut self, at_ms: u64) -> io::Result<()> {
        let at_ms = at_ms.max(1);
        if at_ms == self.set_ms && at_ms > boot_ms() {
            return Ok(());
        }
        let nothing = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let value = libc::timespec {
            tv_sec: libc::time_t::try_from(at_ms / 1000).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::try_from(at_ms % 1000).unwrap_or(0) * 1_000_000,
        };
        let spec = libc::itimerspec {
            it_interval: nothing,
            it_value: value,
        };
        // SAFETY: `spec` outlives the call and the old value is not asked for.
        checked(unsafe {
            libc::timerfd_settime(
                self.fd.as_raw_fd(),
                libc::TFD_TIMER_ABSTIME,
                &raw const spec,
                std::ptr::null_mut(),
            )
        })?;
        self.set_ms = at_ms;
        Ok(())
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
