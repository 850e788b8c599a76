//! The machine that a simulation runs on: time that passes only when everybody waits, and chance from a seed.
//!
//! Three functions of the C library are defined here, before the library's own: the clock, the wait for events, and
//! random bytes. On every other thread they do what they always do. On a thread inside [`run`] time stands still while
//! anything can run, and jumps to the next timer when nothing can; random bytes come from the seed. So everything that
//! asks the system is repeatable without knowing it: hash maps, `select!`, random ids, timers. Code that is written
//! tomorrow is repeatable too, which no list of forbidden calls could promise.
//!
//! What is not repeatable are other threads: nothing that a simulation runs may use one. A wait that nothing but
//! another thread could end is a fault of the simulation, and panics.

#![allow(
    unsafe_code,
    reason = "functions of the C library are replaced, and called, here and nowhere else"
)]

use std::cell::Cell;
use std::ffi::{c_int, c_long, c_uint, c_void};
use std::future::Future;
use std::time::Duration;

/// Where simulated time begins, in nanoseconds: not at zero, since the library subtracts from it.
const BEGIN: u64 = 1_000_000_000_000;

#[derive(Debug, Clone, Copy)]
struct Machine {
    nanos: u64,
    chance: u64,
    /// Looks for events since time or an event moved on: a wait that never ends would be a loop here.
    idle: u32,
}

thread_local! {
    static MACHINE: Cell<Option<Machine>> = const { Cell::new(None) };
}

/// Runs `work` to its end on a machine of its own, in a thread of its own; the same seed runs alike.
///
/// # Panics
/// As `work` does.
pub fn run<T, F>(seed: u64, work: impl FnOnce() -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    // A fresh thread: hash maps draw their keys once a thread.
    let thread = std::thread::Builder::new()
        .name(format!("simulation {seed}"))
        .spawn(move || {
            MACHINE.set(Some(Machine {
                nanos: BEGIN,
                chance: seed,
                idle: 0,
            }));
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime can be made");
            let answer = runtime.block_on(async { work().await });
            drop(runtime);
            answer
        });
    match thread.expect("a thread can be made").join() {
        Ok(answer) => answer,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Simulated time since the machine began.
///
/// # Panics
/// Outside of [`run`].
pub fn elapsed() -> Duration {
    let machine = MACHINE.get().expect("asked within a simulation");
    Duration::from_nanos(machine.nanos - BEGIN)
}

/// The next random number of this machine.
fn next(machine: &mut Machine) -> u64 {
    // SplitMix64: every seed gives another sequence, and none is short.
    machine.chance = machine.chance.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = machine.chance;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// The machine of this thread, if it has one. Also asked while a thread ends, when nothing of it is left.
fn with_machine<T>(change: impl FnOnce(&mut Machine) -> T) -> Option<T> {
    MACHINE
        .try_with(|cell| {
            let mut machine = cell.get()?;
            let answer = change(&mut machine);
            cell.set(Some(machine));
            Some(answer)
        })
        .ok()
        .flatten()
}

#[repr(C)]
pub struct Timespec {
    seconds: i64,
    nanos: c_long,
}

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

#[cfg(target_arch = "x86_64")]
mod numbers {
    use super::c_long;
    pub const CLOCK_GETTIME: c_long = 228;
    pub const EPOLL_PWAIT: c_long = 281;
    pub const GETRANDOM: c_long = 318;
}

#[cfg(target_arch = "aarch64")]
mod numbers {
    use super::c_long;
    pub const CLOCK_GETTIME: c_long = 113;
    pub const EPOLL_PWAIT: c_long = 22;
    pub const GETRANDOM: c_long = 278;
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int {
    match with_machine(|machine| machine.nanos) {
        Some(nanos) => {
            let read = Timespec {
                seconds: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
                nanos: (nanos % 1_000_000_000) as c_long,
            };
            // SAFETY: the caller gives a place for one.
            unsafe { time.write(read) };
            0
        }
        // SAFETY: what the caller gave, unchanged.
        None => unsafe { syscall(numbers::CLOCK_GETTIME, clock, time) as c_int },
    }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_wait(epoll: c_int, events: *mut c_void, most: c_int, timeout: c_int) -> c_int {
    let wait = |timeout: c_int| {
        // SAFETY: what the caller gave; no signal mask is set.
        unsafe {
            syscall(
                numbers::EPOLL_PWAIT,
                epoll,
                events,
                most,
                timeout,
                std::ptr::null::<c_void>(),
                8usize,
            ) as c_int
        }
    };
    if MACHINE.try_with(Cell::get).ok().flatten().is_none() {
        return wait(timeout);
    }
    let ready = wait(0);
    let stuck = with_machine(|machine| {
        if ready != 0 {
            machine.idle = 0;
            return false;
        }
        match u64::try_from(timeout) {
            Ok(0) => false,
            Ok(millis) => {
                machine.nanos += millis * 1_000_000;
                machine.idle = 0;
                false
            }
            Err(_) => {
                machine.idle += 1;
                machine.idle > 1_000
            }
        }
    });
    if stuck == Some(true) {
        // Nothing can run, and no timer is set: nobody would ever wake this thread. There is no way to unwind from here.
        std::process::abort();
    }
    ready
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(bytes: *mut c_void, count: usize, flags: c_uint) -> isize {
    let drawn = with_machine(|machine| {
        // SAFETY: the caller gives room for as many.
        let bytes = unsafe { std::slice::from_raw_parts_mut(bytes.cast::<u8>(), count) };
        for part in bytes.chunks_mut(8) {
            let number = next(machine).to_le_bytes();
            part.copy_from_slice(&number[..part.len()]);
        }
        isize::try_from(count).unwrap_or(isize::MAX)
    });
    // SAFETY: what the caller gave, unchanged.
    drawn.unwrap_or_else(|| unsafe { syscall(numbers::GETRANDOM, bytes, count, flags) as isize })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// What usually differs from run to run. Not the branches of `select!`: they also depend on how many runtimes the
    /// process has had, so `tests/simulation.rs` compares whole runs, each in a process of its own.
    fn drawn(seed: u64) -> (u128, Vec<u32>, Duration) {
        run(seed, || async {
            let map: HashMap<u32, ()> = (0..64).map(|number| (number, ())).collect();
            let begun = tokio::time::Instant::now();
            tokio::time::sleep(Duration::from_millis(1_234)).await;
            (rand::random(), map.into_keys().collect(), begun.elapsed())
        })
    }

    #[test]
    fn the_same_seed_draws_alike_and_another_does_not() {
        let first = drawn(1);
        assert_eq!(first, drawn(1));
        let other = drawn(2);
        assert_ne!(first.0, other.0);
        assert_ne!(first.1, other.1);
    }

    #[test]
    fn a_day_passes_at_once_and_exactly() {
        let passed = run(1, || async {
            let begun = tokio::time::Instant::now();
            tokio::time::sleep(Duration::from_secs(86_400)).await;
            begun.elapsed()
        });
        assert!(passed.as_secs() == 86_400, "{passed:?}");
    }

    #[test]
    fn other_threads_keep_the_real_clock_and_real_chance() {
        let clock = common::time::SystemClock;
        let calendar = common::time::Clock::now(&clock);
        assert!(calendar.as_millis() > 1_700_000_000_000);
        assert_ne!(rand::random::<u128>(), rand::random::<u128>());
    }
}
