//! Starting the job's main process, and what became of it.
//!
//! Between `fork` and `exec` the child only makes system calls on what was prepared before. It tells a failure
//! through a pipe that `exec` closes; the parent never waits for it, so a slow disk cannot hold up the deadline.
#![allow(
    unsafe_code,
    reason = "fork and what must happen between it and exec; std's Command looks up PATH and \
                                reports errors differently, and waits for the exec"
)]

use std::{
    ffi::{CString, c_char},
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    ptr,
};

use jobworker_init::protocol::{NotStartedReason, Run};

use crate::sys::{fd, process::Pid};

/// The engine's own default where the environment names no `PATH`.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The job is killed before init when memory runs out, or nobody could tell what happened.
const OOM_SCORE_ADJ: &[u8] = b"1000";

const FAILED_OTHER: u8 = 1;
const FAILED_DIR: u8 = 2;
const FAILED_EXEC: u8 = 3;
const FAILED_FOREIGN_ELF: u8 = 4;
const REPORT: usize = 5;

pub struct Spawned {
    pub pid: Pid,
    pub verdict: VerdictPipe,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// Readable once it is known whether the command runs.
pub struct VerdictPipe(OwnedFd);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Pending,
    Runs,
    Failed(NotStartedReason),
}

impl VerdictPipe {
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    pub fn look(&self) -> Verdict {
        let mut report = [0; REPORT];
        match fd::read(self.fd(), &mut report) {
            fd::Moved::Later => Verdict::Pending,
            fd::Moved::Gone => Verdict::Runs,
            fd::Moved::Bytes(_) => {
                let [kind, errno @ ..] = report;
                Verdict::Failed(reason(kind, i32::from_le_bytes(errno)))
            }
        }
    }
}

fn reason(kind: u8, errno: i32) -> NotStartedReason {
    match (kind, errno) {
        (FAILED_DIR, _) => NotStartedReason::BadWorkingDirectory,
        (FAILED_FOREIGN_ELF, _) => NotStartedReason::WrongArchitecture,
        (FAILED_EXEC, libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG | libc::ELOOP) => {
            NotStartedReason::NoSuchCommand
        }
        (FAILED_EXEC, libc::EACCES | libc::EISDIR | libc::ENOEXEC | libc::ELIBBAD) => {
            NotStartedReason::NotExecutable
        }
        _ => NotStartedReason::Other { errno },
    }
}

/// Starts the job. The job gets `/dev/null`, two pipes, its environment and nothing else of this program.
pub fn spawn(run: &Run) -> Result<Spawned, NotStartedReason> {
    let plan = Plan::new(run)?;
    let (stdin, stdout, stderr, verdict) = (
        empty_input().map_err(other)?,
        fd::pipe().map_err(other)?,
        fd::pipe().map_err(other)?,
        fd::pipe().map_err(other)?,
    );
    for end in [&stdout.0, &stderr.0, &verdict.0] {
        fd::set_nonblocking(end.as_raw_fd()).map_err(other)?;
    }
    let standard = [stdin.as_raw_fd(), stdout.1.as_raw_fd(), stderr.1.as_raw_fd()];
    // SAFETY: this program has one thread, so the child may do all that the parent may; it leaves `enter_job`
    // only by exec or _exit, and so never runs the parent's destructors.
    match unsafe { libc::fork() } {
        0 => unsafe { plan.enter_job(standard, verdict.1.as_raw_fd()) },
        pid if pid > 0 => Ok(Spawned {
            pid,
            verdict: VerdictPipe(verdict.0),
            stdout: stdout.0,
            stderr: stderr.0,
        }),
        _ => Err(other(io::Error::last_os_error())),
    }
}

fn other(error: io::Error) -> NotStartedReason {
    NotStartedReason::Other {
        errno: error.raw_os_error().unwrap_or(libc::EIO),
    }
}

/// `/dev/null`, or in an image without one the reading end of a pipe that nobody can write to.
fn empty_input() -> io::Result<OwnedFd> {
    match std::fs::File::open("/dev/null") {
        Ok(null) => Ok(null.into()),
        Err(_) => Ok(fd::pipe()?.0),
    }
}

/// Everything that the child needs, made before the fork.
struct Plan {
    /// Where the command may be, in the order to be tried.
    candidates: Vec<CString>,
    dir: CString,
    argv: Pointers,
    env: Pointers,
}

/// C's null-terminated list, with what it points into.
struct Pointers {
    list: Vec<*const c_char>,
    _strings: Vec<CString>,
}

impl Pointers {
    fn new(strings: &[String]) -> Result<Self, NotStartedReason> {
        let strings = strings
            .iter()
            .map(|s| c_string(s))
            .collect::<Result<Vec<_>, _>>()?;
        let list = strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect();
        Ok(Self {
            list,
            _strings: strings,
        })
    }
}

fn c_string(text: &str) -> Result<CString, NotStartedReason> {
    CString::new(text).map_err(|_| NotStartedReason::Other { errno: libc::EINVAL })
}

impl Plan {
    fn new(run: &Run) -> Result<Self, NotStartedReason> {
        let command = run
            .argv
            .first()
            .filter(|c| !c.is_empty())
            .ok_or(NotStartedReason::NoSuchCommand)?;
        let candidates = candidates(command, &run.env)
            .map(|c| c_string(&c))
            .collect::<Result<_, _>>()?;
        let dir = if run.dir.is_empty() { "/" } else { run.dir.as_str() };
        Ok(Self {
            candidates,
            dir: c_string(dir)?,
            argv: Pointers::new(&run.argv)?,
            env: Pointers::new(&run.env)?,
        })
    }

    /// The child's way into the job.
    ///
    /// # Safety
    /// Only in a freshly forked child of a program with one thread.
    unsafe fn enter_job(&self, standard: [RawFd; 3], verdict: RawFd) -> ! {
        // SAFETY: every pointer is to a C string or list of `self`, which lives as long as this process image.
        unsafe {
            libc::setsid();
            for (from, to) in standard.into_iter().zip(0..) {
                if libc::dup2(from, to) < 0 {
                    fail(verdict, FAILED_OTHER);
                }
            }
            raise_oom_score();
            if libc::chdir(self.dir.as_ptr()) != 0 {
                fail(verdict, FAILED_DIR);
            }
            reset_signals();
            fd::close_all_on_exec();
            self.try_candidates(verdict)
        }
    }

    /// As `execvp` does it: go on where a candidate is not there or may not be run, remember the latter.
    ///
    /// # Safety
    /// As [`Plan::enter_job`].
    unsafe fn try_candidates(&self, verdict: RawFd) -> ! {
        let mut denied = false;
        for candidate in &self.candidates {
            // SAFETY: null-terminated strings and lists of `self`.
            unsafe {
                libc::execve(
                    candidate.as_ptr(),
                    self.argv.list.as_ptr(),
                    self.env.list.as_ptr(),
                )
            };
            match io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) {
                libc::EACCES => denied = true,
                libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG | libc::ELOOP | libc::ESTALE => {}
                libc::ENOEXEC if is_elf(candidate) => fail_with(verdict, FAILED_FOREIGN_ELF, libc::ENOEXEC),
                errno => fail_with(verdict, FAILED_EXEC, errno),
            }
        }
        fail_with(
            verdict,
            FAILED_EXEC,
            if denied { libc::EACCES } else { libc::ENOENT },
        )
    }
}

/// A command with a slash is a path (from the working directory); one without is looked up in the job's `PATH`.
fn candidates<'a>(command: &'a str, env: &'a [String]) -> impl Iterator<Item = String> + 'a {
    let path = env
        .iter()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or(PATH_DEFAULT);
    let (direct, looked_up) = if command.contains('/') {
        (Some(command), None)
    } else {
        (None, Some(path))
    };
    let found = looked_up
        .into_iter()
        .flat_map(|path| path.split(':'))
        .map(move |dir| match dir {
            "" => format!("./{command}"),
            dir => format!("{dir}/{command}"),
        });
    direct.into_iter().map(str::to_owned).chain(found)
}

fn raise_oom_score() {
    let path = c"/proc/self/oom_score_adj".as_ptr();
    let (no, yes): (libc::c_ulong, libc::c_ulong) = (0, 1);
    // SAFETY: integer arguments, a constant C string and a constant buffer with its own length.
    unsafe {
        // a process that is not dumpable does not own its files in /proc; nobody else runs here yet
        libc::prctl(libc::PR_SET_DUMPABLE, yes, no, no, no);
        let file = libc::open(path, libc::O_WRONLY | libc::O_CLOEXEC);
        if file >= 0 {
            libc::write(file, OOM_SCORE_ADJ.as_ptr().cast(), OOM_SCORE_ADJ.len());
            libc::close(file);
        }
        libc::prctl(libc::PR_SET_DUMPABLE, no, no, no, no);
    }
}

/// The job begins with every signal at its default and none blocked, whatever init and its starter had.
fn reset_signals() {
    /// The largest number, and the size of the kernel's own set of them in bytes.
    const SIGNALS: libc::c_int = 64;
    const KERNEL_SET_BYTES: usize = 8;
    // larger than the kernel's `struct sigaction` of any machine; zeroes are SIG_DFL without flags
    let default = [0_u64; 8];
    // SAFETY: the set is initialised before use; the kernel reads less than `default` holds and is asked for
    // nothing. The bare call, because the C library keeps the first two real-time signals from us; refusals
    // (KILL, STOP) are meant.
    unsafe {
        let nothing = ptr::null_mut::<libc::c_void>();
        for signal in 1..=SIGNALS {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                nothing,
                KERNEL_SET_BYTES,
            );
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

fn is_elf(path: &CString) -> bool {
    // SAFETY: a C string, and a buffer with its own length.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        let mut magic = [0_u8; 4];
        file >= 0 && libc::read(file, magic.as_mut_ptr().cast(), magic.len()) == 4 && magic == *b"\x7fELF"
    }
}

fn fail(verdict: RawFd, kind: u8) -> ! {
    fail_with(
        verdict,
        kind,
        io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO),
    )
}

fn fail_with(verdict: RawFd, kind: u8, errno: i32) -> ! {
    let [a, b, c, d] = errno.to_le_bytes();
    fd::write(verdict, &[kind, a, b, c, d]);
    // SAFETY: ends this process at once, without the parent's destructors.
    unsafe { libc::_exit(127) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bare_name_is_looked_up() {
        let env = ["A=1".to_owned(), "PATH=/a::/b".to_owned()];
        let all = |command, env| candidates(command, env).collect::<Vec<_>>();
        assert_eq!(all("x", &env), ["/a/x", "./x", "/b/x"]);
        assert_eq!(all("./x", &env), ["./x"]);
        assert_eq!(all("x", &[]).len(), PATH_DEFAULT.split(':').count());
    }
}
