//! The real binary as an ordinary child with pipes, and waiting for facts with a deadline.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    os::fd::AsFd,
    process::{Child, ChildStdin, ChildStdout, Command as Process, ExitStatus as ProcessStatus, Stdio},
};

use jobworker_init::protocol::{
    Command, Data, Exit, Frame, FrameDecoder, NotStarted, Ready, Run, Stream, encode_line,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    time::{ClockId, clock_gettime},
};

/// Generous: a loaded machine is no failure.
const PATIENCE_MS: u64 = 30_000;

pub fn boot_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap() * 1000 + u64::try_from(now.tv_nsec).unwrap() / 1_000_000
}

fn timespec(ms: u64) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(ms / 1000).unwrap(),
        tv_nsec: i64::try_from(ms % 1000 * 1_000_000).unwrap(),
    }
}

/// Looks again and again until `look` has something.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = boot_ms() + PATIENCE_MS;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(boot_ms() < end, "waited in vain until {what}");
        poll(&mut [], Some(&timespec(5))).unwrap();
    }
}

pub fn alive(pid: i32) -> bool {
    // a zombie whose parent is slow is dead all the same
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

pub struct Init {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    decoder: FrameDecoder,
    frames: VecDeque<Frame>,
    pub generation: u64,
    pub ready: Ready,
}

impl Init {
    pub fn new() -> Self {
        Self::with(&[])
    }

    pub fn with(args: &[&str]) -> Self {
        let mut command = Process::new(env!("CARGO_BIN_EXE_jobworker-init-dynamic"));
        command.args(args);
        Self::from(command)
    }

    pub fn from(mut command: Process) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let mut init = Self {
            child,
            stdin,
            stdout,
            decoder: FrameDecoder::new(),
            frames: VecDeque::new(),
            generation: 1,
            ready: Ready {
                protocol: 0,
                boot_clock_ms: 0,
                phase: jobworker_init::protocol::Phase::Waiting,
                generation: 0,
                acked_seq: 0,
                last_seq: 0,
            },
        };
        let Frame::Ready(ready) = init.next() else {
            panic!("the first frame is ready")
        };
        init.ready = ready;
        init
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub fn tell(&mut self, command: &Command) {
        let line = encode_line(self.generation, command).unwrap();
        self.write(&line);
    }

    /// As `tell`, where init may have left meanwhile.
    pub fn tell_if_there(&mut self, command: &Command) {
        let line = encode_line(self.generation, command).unwrap();
        let _ = self.stdin.as_mut().unwrap().write_all(&line);
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }

    pub fn close_input(&mut self) {
        self.stdin = None;
    }

    pub fn close_output(&mut self) {
        self.stdout = None;
    }

    /// Runs a shell script with a deadline that no test reaches.
    pub fn shell(&mut self, script: &str) {
        let run = self.shell_run(script);
        self.tell(&Command::Run(Box::new(run)));
    }

    pub fn shell_run(&self, script: &str) -> Run {
        self.command_run(&["/bin/sh", "-c", script])
    }

    pub fn command_run(&self, argv: &[&str]) -> Run {
        Run {
            argv: argv.iter().map(ToString::to_string).collect(),
            env: vec!["PATH=/usr/local/bin:/usr/bin:/bin".into()],
            dir: "/".into(),
            grace_ms: 10_000,
            grace_max_ms: 10_000,
            stop_signal: 15,
            deadline_ms: self.ready.boot_clock_ms + 600_000,
        }
    }

    /// The next frame, or `None` if none comes within `ms`.
    pub fn next_within(&mut self, ms: u64) -> Option<Frame> {
        let end = boot_ms() + ms;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Some(frame);
            }
            let n = self.read_raw(&mut buffer, end)?;
            let mut input = &buffer[..n];
            while let Some(frame) = self.decoder.next_frame(&mut input) {
                self.frames.push_back(frame);
            }
        }
    }

    /// Bytes as they come, before `end`.
    pub fn read_raw(&mut self, buffer: &mut [u8], end: u64) -> Option<usize> {
        let stdout = self.stdout.as_mut().unwrap();
        let left = end.saturating_sub(boot_ms());
        let ready = {
            let mut fds = [PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::IN)];
            poll(&mut fds, Some(&timespec(left))).unwrap()
        };
        if ready == 0 {
            return None;
        }
        let n = stdout.read(buffer).unwrap();
        (n > 0).then_some(n)
    }

    pub fn next(&mut self) -> Frame {
        let frame = self.next_within(PATIENCE_MS);
        frame.unwrap_or_else(|| panic!("no frame came; init: {:?}", self.child.try_wait()))
    }

    /// The frames up to the ending, acknowledged one by one.
    pub fn follow(&mut self) -> Record {
        let mut record = Record::default();
        loop {
            let frame = self.next();
            let seq = frame.seq();
            let ended = record.take(frame);
            if let Some(seq) = seq {
                self.tell(&Command::Ack { seq });
            }
            if ended {
                return record;
            }
        }
    }

    /// The first whole line of the job's standard output.
    pub fn first_line(&mut self) -> String {
        let mut text = String::new();
        while !text.contains('\n') {
            if let Frame::Data(Data { bytes, .. }) = self.next() {
                text.push_str(std::str::from_utf8(&bytes).unwrap());
            }
        }
        text.lines().next().unwrap().to_owned()
    }

    /// A new attacher: the old one's reader is gone with what it had not used.
    pub fn attach_anew(&mut self, seq: u64) {
        self.decoder = FrameDecoder::new();
        self.frames.clear();
        self.generation += 1;
        self.tell(&Command::Resume { seq });
    }

    pub fn bye(mut self) -> ProcessStatus {
        self.tell(&Command::Bye);
        self.wait()
    }

    pub fn wait(&mut self) -> ProcessStatus {
        let child = &mut self.child;
        until("init leaves", || child.try_wait().unwrap())
    }

    pub fn has_left(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Clock ticks of CPU that init itself used.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// The most memory that init ever had, in KiB.
    pub fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What came, with the numbers checked on the way.
#[derive(Debug, Default)]
pub struct Record {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub started: bool,
    pub exit: Option<Exit>,
    pub not_started: Option<NotStarted>,
    pub last_seq: u64,
    chunks: [u64; 2],
}

impl Record {
    /// Takes the next frame; true for the ending.
    pub fn take(&mut self, frame: Frame) -> bool {
        if let Some(seq) = frame.seq() {
            assert_eq!(seq, self.last_seq + 1, "numbers have no gap");
            self.last_seq = seq;
        }
        match frame {
            Frame::Ready(_) => false,
            Frame::Started(_) => {
                assert_eq!(self.last_seq, 0, "started comes before all output");
                self.started = true;
                false
            }
            Frame::Data(data) => {
                let (bytes, chunks) = match data.stream {
                    Stream::Stdout => (&mut self.stdout, &mut self.chunks[0]),
                    Stream::Stderr => (&mut self.stderr, &mut self.chunks[1]),
                };
                assert_eq!(data.stream_seq, *chunks, "a stream's numbers have no gap");
                *chunks += 1;
                bytes.extend(data.bytes);
                false
            }
            Frame::Exit(exit) => {
                let said = [exit.totals.stdout.chunks, exit.totals.stderr.chunks];
                assert_eq!(said, self.chunks);
                assert_eq!(exit.totals.stdout.bytes, self.stdout.len() as u64);
                assert_eq!(exit.totals.stderr.bytes, self.stderr.len() as u64);
                self.exit = Some(exit);
                true
            }
            Frame::NotStarted(not) => {
                self.not_started = Some(not);
                true
            }
        }
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    pub fn exit(&self) -> &Exit {
        self.exit
            .as_ref()
            .unwrap_or_else(|| panic!("no exit came: {:?}", self.not_started))
    }
}

/// Bytes that look like nothing, with every value and long runs of zeros.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let run = if state >> 60 == 0 { 300 } else { 1 };
        let byte = if run > 1 { 0 } else { (state >> 33) as u8 };
        bytes.extend(std::iter::repeat_n(byte, run.min(len - bytes.len())));
    }
    bytes
}
