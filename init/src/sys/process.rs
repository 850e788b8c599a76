//! Processes: what makes this one an init, waiting, killing, accounting.
#![allow(
    unsafe_code,
    reason = "prctl, waitpid for any child and kill of everything have no face in std"
)]

use std::mem;

use jobworker_init::protocol::{ExitStatus, Rusage};

pub type Pid = libc::pid_t;

/// Not dumpable (the job, which has the same uid, can neither trace it nor open its descriptors) and the one
/// that orphans fall to (PID 1 is that anyway; elsewhere it makes this program behave as if it were).
pub fn become_init() {
    // SAFETY: prctl with integer arguments only; on a kernel that refuses, the program still works.
    unsafe {
        let (no, yes): (libc::c_ulong, libc::c_ulong) = (0, 1);
        libc::prctl(libc::PR_SET_DUMPABLE, no, no, no, no);
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, yes, no, no, no);
    }
}

pub fn own_pid() -> Pid {
    // SAFETY: getpid takes nothing and cannot fail.
    unsafe { libc::getpid() }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaped {
    Child(Pid, ExitStatus),
    /// Children live, none has ended.
    NoneEnded,
    NoChildren,
}

/// Takes leave of one ended child, without waiting.
pub fn reap_one() -> Reaped {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
        0 => Reaped::NoneEnded,
        pid if pid > 0 => {
            let how = if libc::WIFSIGNALED(status) {
                ExitStatus::Signal(libc::WTERMSIG(status))
            } else {
                ExitStatus::Code(libc::WEXITSTATUS(status))
            };
            Reaped::Child(pid, how)
        }
        _ => Reaped::NoChildren,
    }
}

/// To one process; a negative pid is a process group. One that is gone is no error.
pub fn signal(pid: Pid, signal: libc::c_int) {
    // SAFETY: integer arguments only.
    unsafe { libc::kill(pid, signal) };
}

/// Over all children that were reaped.
pub fn children_rusage() -> Rusage {
    // SAFETY: rusage is plain integers, for which zeroes are a value; it outlives the call.
    let usage = unsafe {
        let mut usage: libc::rusage = mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
        usage
    };
    let micros = |t: libc::timeval| {
        u64::try_from(t.tv_sec).unwrap_or(0).saturating_mul(1_000_000) + u64::try_from(t.tv_usec).unwrap_or(0)
    };
    Rusage {
        user_us: micros(usage.ru_utime),
        system_us: micros(usage.ru_stime),
        max_rss_kib: u64::try_from(usage.ru_maxrss).unwrap_or(0),
    }
}
