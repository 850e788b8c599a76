//! The one loop: waits for whatever comes first and hands it to the [`Supervisor`].
//!
//! Nothing here blocks but `poll`. Input that ended and output that is gone are tried again after a while (an
//! engine that restarts closes and opens them), and meanwhile not watched, so that the loop never spins.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use jobworker_init::protocol::LineDecoder;

use crate::{
    settings::Settings,
    supervisor::{Leave, Supervisor},
    sys::{
        clock::{Alarm, boot_ms},
        fd::{self, Moved, PollSet, STDERR, STDIN, STDOUT, Slot},
        signals::Signals,
    },
};

/// How much input is taken in one turn, before the job's pipes have theirs.
const INPUT_BYTES: usize = 64 * 1024;
/// How long input or output that is gone is left alone.
const GONE_RETRY_MS: u64 = 250;
/// `poll` wakes at least so often, should the alarm not work on a strange kernel.
const SLEEP_MS_MAX: u64 = 60_000;

struct Loop {
    supervisor: Supervisor,
    lines: LineDecoder,
    input: Box<[u8]>,
    input_gone_until_ms: u64,
    output_gone_until_ms: u64,
}

#[derive(Default)]
struct Watched {
    signals: Option<Slot>,
    input: Option<Slot>,
    job: [Option<Slot>; 2],
}

/// Runs until there is nothing left to do.
pub fn run(settings: &Settings) -> io::Result<Leave> {
    for standard in [STDIN, STDOUT, STDERR] {
        if !fd::is_open(standard) {
            return Err(io::Error::other("standard input, output and error must be open"));
        }
    }
    fd::set_nonblocking(STDIN)?;
    fd::set_nonblocking(STDOUT)?;
    let signals = Signals::take()?;
    let mut alarm = Alarm::new()?;
    let now = boot_ms();
    let mut this = Loop {
        supervisor: Supervisor::new(settings.ring_bytes, now.saturating_add(settings.wait_ms), now),
        lines: LineDecoder::default(),
        input: vec![0; INPUT_BYTES].into_boxed_slice(),
        input_gone_until_ms: 0,
        output_gone_until_ms: 0,
    };
    let mut polled = PollSet::default();
    loop {
        // time first: after a suspend or a freeze the deadline is judged before anything else happens
        let leave = this.supervisor.tick(boot_ms());
        this.flush();
        if let Some(leave) = leave {
            return Ok(leave);
        }
        let watched = this.wait(&mut polled, &signals, &mut alarm)?;
        let now = boot_ms();
        if polled.can(watched.signals) {
            this.supervisor.hear(signals.hear(), now);
        }
        if polled.can(watched.input)
            && let Some(leave) = this.read_commands(now)
        {
            this.flush();
            return Ok(leave);
        }
        if watched.job.iter().any(|slot| polled.can(*slot)) {
            this.supervisor.relay(now);
        }
    }
}

impl Loop {
    fn wait(&self, polled: &mut PollSet, signals: &Signals, alarm: &mut Alarm) -> io::Result<Watched> {
        let now = boot_ms();
        let mut wake_ms = self.supervisor.next_tick_ms(now);
        let mut watched = Watched::default();
        polled.clear();
        watched.signals = Some(polled.readable(signals.as_fd().as_raw_fd()));
        polled.readable(alarm.as_fd().as_raw_fd());
        if now >= self.input_gone_until_ms {
            watched.input = Some(polled.readable(STDIN));
        } else {
            wake_ms = wake_ms.min(self.input_gone_until_ms);
        }
        if self.supervisor.outbox().wants_to_write() {
            if now >= self.output_gone_until_ms {
                polled.writable(STDOUT);
            } else {
                wake_ms = wake_ms.min(self.output_gone_until_ms);
            }
        }
        if let Some(job) = self.supervisor.job()
            && (job.is_starting() || !self.supervisor.outbox().is_full())
        {
            for (slot, fd) in watched.job.iter_mut().zip(job.watched()) {
                *slot = Some(polled.readable(fd));
            }
        }
        alarm.set(wake_ms)?;
        polled.wait(wake_ms.saturating_sub(now).min(SLEEP_MS_MAX))?;
        Ok(watched)
    }

    fn read_commands(&mut self, now: u64) -> Option<Leave> {
        match fd::read(STDIN, &mut self.input) {
            Moved::Later => None,
            Moved::Gone => {
                // the end of input is not a command: the engine closed it, and may open it again
                self.input_gone_until_ms = now + GONE_RETRY_MS;
                None
            }
            Moved::Bytes(n) => {
                let mut input = &self.input[..n];
                while let Some(line) = self.lines.next_line(&mut input) {
                    // what is not understood is dropped: half a line of a dead attacher looks just so
                    if let Ok(line) = line
                        && let Some(leave) = self.supervisor.obey(line, now)
                    {
                        return Some(leave);
                    }
                }
                None
            }
        }
    }

    fn flush(&mut self) {
        let now = boot_ms();
        if now < self.output_gone_until_ms || !self.supervisor.outbox().wants_to_write() {
            return;
        }
        if self.supervisor.flush(|bytes| fd::write(STDOUT, bytes)) == Moved::Gone {
            self.output_gone_until_ms = now + GONE_RETRY_MS;
        }
    }
}
