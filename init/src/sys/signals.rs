//! Signals as a descriptor: who sent what.
#![allow(
    unsafe_code,
    reason = "signalfd: the sender's pid is the only thing that tells the engine from the job"
)]

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use super::{checked, fd};

/// What signals have said since the last look.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    pub child_ended: bool,
    /// A request to end that came from outside of the pid namespace.
    pub engine_asked: bool,
}

pub struct Signals {
    fd: OwnedFd,
}

/// Requests to end: what engines send by default and what images name as STOPSIGNAL most often.
const REQUESTS: [libc::c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP];
/// Faults of this program itself stay deadly.
const FAULTS: [libc::c_int; 6] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGABRT,
    libc::SIGSYS,
];

impl Signals {
    /// From here on no signal but a fault interrupts this program; `spawn` undoes it in the child.
    pub fn take() -> io::Result<Self> {
        // SAFETY: both sets are initialised by sigfillset/sigemptyset before they are used; the descriptor is new.
        unsafe {
            let mut blocked: libc::sigset_t = mem::zeroed();
            libc::sigfillset(&raw mut blocked);
            for fault in FAULTS {
                libc::sigdelset(&raw mut blocked, fault);
            }
            checked(libc::sigprocmask(
                libc::SIG_SETMASK,
                &raw const blocked,
                std::ptr::null_mut(),
            ))?;

            let mut wanted: libc::sigset_t = mem::zeroed();
            libc::sigemptyset(&raw mut wanted);
            for signal in REQUESTS.into_iter().chain([libc::SIGCHLD]) {
                libc::sigaddset(&raw mut wanted, signal);
            }
            let flags = libc::SFD_NONBLOCK | libc::SFD_CLOEXEC;
            Ok(Self {
                fd: OwnedFd::from_raw_fd(checked(libc::signalfd(-1, &raw const wanted, flags))?),
            })
        }
    }

    pub fn hear(&self) -> Heard {
        const RECORD: usize = mem::size_of::<libc::signalfd_siginfo>();
        let mut heard = Heard::default();
        let mut buffer = [0_u8; RECORD * 8];
        while let fd::Moved::Bytes(n) = fd::read(self.fd.as_raw_fd(), &mut buffer) {
            for record in buffer[..n].chunks_exact(RECORD) {
                // SAFETY: the kernel wrote a whole record here; it is plain integers and read without alignment.
                let info: libc::signalfd_siginfo =
                    unsafe { std::ptr::read_unaligned(record.as_ptr().cast()) };
                if info.ssi_signo == libc::SIGCHLD.unsigned_abs() {
                    heard.child_ended = true;
                } else if info.ssi_code == libc::SI_USER && info.ssi_pid == 0 {
                    // a sender within the namespace has a pid here; a signal of the kernel's own is not SI_USER
                    heard.engine_asked = true;
                }
            }
        }
        heard
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
