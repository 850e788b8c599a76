//! Descriptors: non-blocking reads and writes, pipes, `poll`.
#![allow(unsafe_code, reason = "poll, pipe2 and fcntl have no face in std")]

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

use super::checked;

pub const STDIN: RawFd = 0;
pub const STDOUT: RawFd = 1;
pub const STDERR: RawFd = 2;

/// What a non-blocking read or write brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    Bytes(usize),
    /// Nothing now; `poll` will tell.
    Later,
    /// End of input, or a peer or descriptor that is gone.
    Gone,
}

pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: fcntl with integer arguments only.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// Makes reads and writes of `fd` return at once.
pub fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: fcntl with integer arguments only.
    unsafe {
        let flags = checked(libc::fcntl(fd, libc::F_GETFL))?;
        checked(libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK))?;
    }
    Ok(())
}

/// A pipe whose ends no child inherits: (read, write).
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for both descriptors, which are new and owned by nobody else.
    unsafe {
        checked(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC))?;
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

pub fn read(fd: RawFd, into: &mut [u8]) -> Moved {
    // SAFETY: `into` is writable for its whole length during the call.
    moved(
        unsafe { libc::read(fd, into.as_mut_ptr().cast(), into.len()) },
        true,
    )
}

pub fn write(fd: RawFd, from: &[u8]) -> Moved {
    // SAFETY: `from` is readable for its whole length during the call.
    moved(
        unsafe { libc::write(fd, from.as_ptr().cast(), from.len()) },
        false,
    )
}

fn moved(result: isize, zero_is_end: bool) -> Moved {
    match usize::try_from(result) {
        Ok(0) if zero_is_end => Moved::Gone,
        Ok(0) => Moved::Later,
        Ok(n) => Moved::Bytes(n),
        Err(_) => match io::Error::last_os_error().kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Moved::Later,
            _ => Moved::Gone,
        },
    }
}

/// The set of descriptors of one turn of the loop.
#[derive(Default)]
pub struct PollSet {
    entries: Vec<libc::pollfd>,
}

/// Where a descriptor stands in a [`PollSet`].
#[derive(Debug, Clone, Copy)]
pub struct Slot(usize);

impl PollSet {
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    pub fn readable(&mut self, fd: RawFd) -> Slot {
        self.add(fd, libc::POLLIN)
    }

    pub fn writable(&mut self, fd: RawFd) -> Slot {
        self.add(fd, libc::POLLOUT)
    }

    fn add(&mut self, fd: RawFd, events: libc::c_short) -> Slot {
        self.entries.push(libc::pollfd {
            fd,
            events,
            revents: 0,
        });
        Slot(self.entries.len() - 1)
    }

    /// Waits until something can be done or `timeout_ms` is over. An interrupted wait says that nothing can.
    pub fn wait(&mut self, timeout_ms: u64) -> io::Result<()> {
        let timeout = libc::c_int::try_from(timeout_ms).unwrap_or(libc::c_int::MAX);
        let count = libc::nfds_t::try_from(self.entries.len()).unwrap_or(0);
        // SAFETY: the pointer and the count describe `entries`, which is not touched during the call.
        match checked(unsafe { libc::poll(self.entries.as_mut_ptr(), count, timeout) }) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.entries.iter_mut().for_each(|entry| entry.revents = 0);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Something can be done at once: also that the other side is gone.
    pub fn can(&self, slot: Option<Slot>) -> bool {
        slot.and_then(|slot| self.entries.get(slot.0))
            .is_some_and(|entry| entry.revents != 0)
    }
}

/// Every descriptor from 3 up is closed by `exec`. Async-signal-safe: used between `fork` and `exec`.
pub fn close_all_on_exec() {
    const FALLBACK_END: RawFd = 1024;
    // SAFETY: integer arguments only; marking a descriptor that is not open is an error without effect.
    unsafe {
        // the bare call, because the kernel or a seccomp profile may not know it: then one by one
        let flag = libc::CLOSE_RANGE_CLOEXEC as libc::c_uint;
        if libc::syscall(libc::SYS_close_range, 3_u32, libc::c_uint::MAX, flag) != 0 {
            for fd in 3..FALLBACK_END {
                libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
            }
        }
    }
}
