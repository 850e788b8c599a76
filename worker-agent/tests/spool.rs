//! Spool and pump together: whatever happens between job and store, each chunk is stored once and in order.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

use std::collections::VecDeque;

use bytes::Bytes;
use common::log::Stream;
use proptest::prelude::*;
use worker_agent::executor::Chunk;
use worker_agent::log_pump::Pump;
use worker_agent::spool::Spool;

#[derive(Debug, Clone)]
enum Step {
    /// The job prints this much to stdout or stderr.
    Print {
        stderr: bool,
        len: usize,
    },
    /// Up to so many chunks are handed to the link.
    Send(usize),
    /// The server stores and acknowledges the oldest so many of what it has heard on this connection.
    Store(usize),
    Disconnect,
    /// The agent dies and comes back; init sends the last chunks again.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (any::<bool>(), 0usize..200).prop_map(|(stderr, len)| Step::Print { stderr, len }),
        4 => (1usize..6).prop_map(Step::Send),
        4 => (1usize..6).prop_map(Step::Store),
        1 => Just(Step::Disconnect),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 0..120)
}

/// The job, the agent's spool and pump, the wire and the store.
struct Rig {
    folder: tempfile::TempDir,
    cap: u64,
    spool: Spool,
    pump: Pump,
    printed: Vec<Chunk>,
    wire: VecDeque<Chunk>,
    /// By stream.
    stored: [Vec<Chunk>; 2],
}

impl Rig {
    fn new(cap: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path(), cap).unwrap();
        let pump = Pump::new(spool.start());
        Self {
            folder,
            cap,
            spool,
            pump,
            printed: vec![],
            wire: VecDeque::new(),
            stored: [vec![], vec![]],
        }
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Print { stderr, len } => self.print(*stderr, *len),
            Step::Send(count) => self.send(*count),
            Step::Store(count) => self.store(*count),
            Step::Disconnect => {
                self.wire.clear();
                self.pump.disconnected();
            }
            Step::Restart => {
                self.wire.clear();
                self.spool = Spool::open(self.folder.path(), self.cap).unwrap();
                self.pump = Pump::new(self.spool.start());
                for chunk in self.printed.iter().rev().take(3).rev() {
                    self.spool.append(chunk).unwrap();
                }
            }
        }
    }

    fn print(&mut self, stderr: bool, len: usize) {
        let stream = if stderr { Stream::Stderr } else { Stream::Stdout };
        let seq = self.printed.len() as u64 + 1;
        let chunk = Chunk {
            seq,
            stream,
            stream_seq: self.printed.iter().filter(|chunk| chunk.stream == stream).count() as u64,
            bytes: Bytes::from(vec![u8::try_from(seq % 251).unwrap(); len]),
        };
        self.spool.append(&chunk).unwrap();
        self.printed.push(chunk);
    }

    fn send(&mut self, count: usize) {
        for _ in 0..count {
            let Some((from, _)) = self.pump.wants() else {
                return;
            };
            let records = self.spool.read(from, 1).unwrap();
            let Some(record) = records.first() else { return };
            if self.pump.take(record) {
                self.wire.push_back(record.chunk.clone());
            }
        }
    }

    fn store(&mut self, count: usize) {
        for _ in 0..count {
            let Some(chunk) = self.wire.pop_front() else {
                return;
            };
            let stored = &mut self.stored[chunk.stream.index()];
            let repeat = stored.iter().any(|known| known.stream_seq == chunk.stream_seq);
            if !repeat {
                stored.push(chunk.clone());
            }
            self.pump.acknowledged(chunk.stream, chunk.stream_seq);
            self.spool.release(self.pump.stored_before()).unwrap();
        }
    }

    fn finish(&mut self) {
        self.spool.seal();
        loop {
            self.send(8);
            if self.wire.is_empty() {
                return;
            }
            self.store(8);
        }
    }

    fn printed_on(&self, stream: Stream) -> Vec<Chunk> {
        self.printed
            .iter()
            .filter(|chunk| chunk.stream == stream)
            .cloned()
            .collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn every_chunk_is_stored_exactly_once_and_in_order(steps in steps()) {
        let mut rig = Rig::new(1024 * 1024);
        for step in &steps {
            rig.apply(step);
        }
        rig.finish();
        for stream in Stream::ALL {
            prop_assert_eq!(&rig.stored[stream.index()], &rig.printed_on(stream));
            prop_assert_eq!(rig.spool.log_end().of(stream).dropped, None);
        }
    }

    #[test]
    fn past_the_cap_what_is_missing_is_exactly_the_range_that_is_named(steps in steps(), cap in 400u64..4_000) {
        let mut rig = Rig::new(cap);
        for step in &steps {
            rig.apply(step);
        }
        rig.finish();
        let end = rig.spool.log_end();
        for stream in Stream::ALL {
            let printed = rig.printed_on(stream);
            let said = end.of(stream);
            prop_assert_eq!(said.chunks, printed.len() as u64);
            prop_assert_eq!(said.bytes, printed.iter().map(|chunk| chunk.bytes.len() as u64).sum::<u64>());
            let gap = said.dropped.map_or(0..0, |dropped| dropped.from..dropped.until);
            let (missing, kept): (Vec<_>, Vec<_>) =
                printed.into_iter().partition(|chunk| gap.contains(&chunk.stream_seq));
            prop_assert_eq!(
                said.dropped.map_or(0, |dropped| dropped.bytes),
                missing.iter().map(|chunk| chunk.bytes.len() as u64).sum::<u64>()
            );
            prop_assert_eq!(&rig.stored[stream.index()], &kept);
        }
        let kept: u64 = rig.stored.iter().flatten().map(|chunk| chunk.bytes.len() as u64).sum();
        // One chunk of the tail may stand over, since its last segment is never dropped.
        prop_assert!(kept <= cap + 200, "{} of {}", kept, cap);
    }

    #[test]
    fn a_spool_that_was_cut_anywhere_opens_and_goes_on(prints in 1usize..30, cut in any::<prop::sample::Index>()) {
        let mut rig = Rig::new(1024 * 1024);
        for len in 0..prints {
            rig.print(len % 3 == 0, len * 7);
        }
        let file = std::fs::read_dir(rig.folder.path()).unwrap().next().unwrap().unwrap().path();
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, &whole[..cut.index(whole.len())]).unwrap();
        rig.spool = Spool::open(rig.folder.path(), rig.cap).unwrap();
        rig.pump = Pump::new(rig.spool.start());
        prop_assert!(rig.spool.last_seq() <= prints as u64);
        for chunk in rig.printed.clone() {
            rig.spool.append(&chunk).unwrap();
        }
        rig.finish();
        for stream in Stream::ALL {
            prop_assert_eq!(&rig.stored[stream.index()], &rig.printed_on(stream));
        }
    }
}

#[test]
fn stored_segments_are_deleted() {
    let mut rig = Rig::new(16 * 1024);
    for _ in 0..60 {
        rig.print(false, 200);
        rig.send(1);
        rig.store(1);
    }
    let files = std::fs::read_dir(rig.folder.path()).unwrap().count();
    assert!(files <= 2, "{files}");
}
