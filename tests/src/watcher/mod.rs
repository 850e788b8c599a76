//! The jobs' own side of the story: when their processes live, by the kernel's word and nobody's else.
//!
//! A job carries its name on its command line (`sh -c … MARK:name`). From the first process with it on, every process
//! that descends from it belongs to that run, and the container is the one of its control group. The kernel's process
//! connector reports each start and end with its own time stamp, so a run is known to the nanosecond, whatever the
//! system under test does, stands still or claims. Where the kernel does not report to us (no root, a namespace of
//! one's own) or has lost reports because we were slow, `/proc` is looked through instead: then a run is known to
//! within [`LOOK_EVERY`].

mod connector;
mod procfs;

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use self::connector::{Connector, Heard};
use crate::history::{Event, Key, Nanos, Recorder};

/// Between two looks through `/proc`, where the kernel reports nothing.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Notes runs until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    exact: bool,
}

impl Watcher {
    /// Watches processes whose command line has an argument `mark:name`.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn start(mark: &str, recorder: Recorder) -> Result<Self> {
        let (stop, stopped) = sync_channel(1);
        let connector = Connector::open();
        let exact = connector.is_ok();
        match &connector {
            Ok(_) => println!("runs are known by the kernel's reports, exactly"),
            Err(error) => {
                println!("runs are known to within {LOOK_EVERY:?}: no reports of the kernel ({error:#})")
            }
        }
        let mut runs = Runs {
            mark: format!("{mark}:"),
            recorder,
            processes: HashMap::new(),
        };
        let watch = move || match connector {
            Ok(connector) => by_reports(&connector, &mut runs, &stopped),
            Err(_) => by_looking(&mut runs, &stopped),
        };
        let thread = std::thread::Builder::new()
            .name("watcher".into())
            .spawn(watch)
            .context("no thread for the watcher")?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
            exact,
        })
    }

    /// How far a time that it tells may be from the truth.
    pub fn resolution(&self) -> Duration {
        if self.exact { Duration::ZERO } else { LOOK_EVERY }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // one that panicked has said so
            let _ = thread.join();
        }
    }
}

fn by_reports(connector: &Connector, runs: &mut Runs, stopped: &Receiver<()>) {
    // what began before we listened
    runs.look();
    while stopped.try_recv() == Err(TryRecvError::Empty) {
        match connector.next() {
            Heard::Nothing => {}
            Heard::Forked { parent, child } => runs.forked(parent, child),
            Heard::Executed { pid, at } => runs.executed(pid, at),
            Heard::Exited { pid, at } => runs.exited(pid, at),
            Heard::Lost => {
                println!("the watcher was too slow and looks at /proc instead");
                runs.look();
            }
        }
    }
}

fn by_looking(runs: &mut Runs, stopped: &Receiver<()>) {
    while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
        runs.look();
    }
}

/// Which run a process belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Of {
    key: Key,
    container: String,
}

#[derive(Debug)]
struct Runs {
    mark: String,
    recorder: Recorder,
    processes: HashMap<u32, Of>,
}

impl Runs {
    fn forked(&mut self, parent: u32, child: u32) {
        if let Some(of) = self.processes.get(&parent).cloned() {
            self.processes.insert(child, of);
        }
    }

    fn executed(&mut self, pid: u32, at: Nanos) {
        if self.processes.contains_key(&pid) {
            return;
        }
        if let Some(of) = procfs::marked(pid, &self.mark) {
            self.begin(pid, of, at);
        }
    }

    fn exited(&mut self, pid: u32, at: Nanos) {
        let Some(of) = self.processes.remove(&pid) else {
            return;
        };
        if !self.processes.values().any(|other| *other == of) {
            self.recorder.note_at(
                at,
                Event::RunEnded {
                    key: of.key,
                    container: of.container,
                },
            );
        }
    }

    fn begin(&mut self, pid: u32, of: Of, at: Nanos) {
        let first = !self.processes.values().any(|other| *other == of);
        self.processes.insert(pid, of.clone());
        if first {
            self.recorder.note_at(
                at,
                Event::RunBegan {
                    key: of.key,
                    container: of.container,
                },
            );
        }
    }

    /// Compares what is known with what is there.
    fn look(&mut self) {
        let there = procfs::processes();
        let now = Recorder::now();
        let gone: Vec<u32> = self
            .processes
            .keys()
            .filter(|pid| !there.contains(pid))
            .copied()
            .collect();
        for pid in gone {
            self.exited(pid, now);
        }
        for pid in there {
            self.executed(pid, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::history::Run;
    use crate::wait::{LONG, wait_for};

    async fn one_run(recorder: &Recorder, ended: bool) -> Run {
        wait_for(LONG, "a run", async || {
            match recorder.history().runs().as_slice() {
                [run] if run.ended.is_some() == ended => Ok(run.clone()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
        .unwrap()
    }

    async fn sees_a_run_from_its_first_process_to_its_last(by_looking_alone: bool) {
        let recorder = Recorder::default();
        let mark = format!("watched-{:x}", rand::random::<u64>());
        let watcher = if by_looking_alone {
            let (stop, stopped) = sync_channel(1);
            let mut runs = Runs {
                mark: format!("{mark}:"),
                recorder: recorder.clone(),
                processes: HashMap::new(),
            };
            let thread = std::thread::spawn(move || by_looking(&mut runs, &stopped));
            Watcher {
                stop: Some(stop),
                thread: Some(thread),
                exact: false,
            }
        } else {
            Watcher::start(&mark, recorder.clone()).unwrap()
        };
        let before = Recorder::now();
        let name = format!("{mark}:a");
        let mut shell = Command::new("sh")
            .args(["-c", "read line; exit 0", &name])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let run = one_run(&recorder, false).await;
        assert_eq!(run.key, "a");
        assert!(run.began >= before);
        let alive = Recorder::now();
        drop(shell.stdin.take());
        shell.wait().unwrap();
        let run = one_run(&recorder, true).await;
        assert!(run.ended > Some(alive));
        drop(watcher);
    }

    #[tokio::test]
    async fn a_run_is_seen_from_its_first_process_to_its_last() {
        sees_a_run_from_its_first_process_to_its_last(false).await;
    }

    #[tokio::test]
    async fn without_the_kernels_reports_a_run_is_seen_by_looking() {
        sees_a_run_from_its_first_process_to_its_last(true).await;
    }

    #[test]
    fn a_run_lasts_until_its_last_descendant_is_gone() {
        let recorder = Recorder::default();
        let mut runs = Runs {
            mark: "m:".into(),
            recorder: recorder.clone(),
            processes: HashMap::new(),
        };
        let of = Of {
            key: "a".into(),
            container: "c".into(),
        };
        runs.begin(10, of, 1);
        runs.forked(10, 11);
        runs.forked(11, 12);
        runs.forked(99, 13);
        runs.exited(10, 2);
        runs.exited(11, 3);
        runs.exited(13, 4);
        assert_eq!(recorder.history().runs()[0].ended, None);
        runs.exited(12, 5);
        assert_eq!(recorder.history().runs()[0].ended, Some(5));
    }
}
