//! A job in its container, seen through attachments that may break at any time.
//!
//! Invariants: frames are delivered in order of `seq` without gaps or repeats, whatever was attached when. What the
//! agent asked for (acknowledgement, deadline, stop) is kept and said again to each new attachment. Ended is told by
//! init's own frame; the engine's word counts only when the container is gone without one. `next` may be dropped at
//! every await: an attachment is kept only when all was said to it, and a frame that takes awaiting is held until it
//! was heard out.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::models::ContainerInspectResponse;
use common::attempt::Usage;
use common::log::Stream;
use common::time::Mono;
use jobworker_init::protocol as init;
use jobworker_init::protocol::{Command, Frame, Phase};

use super::attach::{Attachment, SendError};
use super::ending::{ended_by, ended_silently, not_started, reason};
use super::engine::{is_not_found, words};
use super::handle::Handle;
use super::oom;
use super::shared::Shared;
use crate::executor::{
    Chunk, Collected, ContainerRef, End, Ended, ExecEvent, ExecutorError, Running, Status, StopWhy,
};

/// Between two looks at an engine that does not answer.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// After its deadline, or the grace of a stop, init kills within its linger of 2 s; past this it is stuck itself.
const FORCE_AFTER: Duration = Duration::from_secs(20);
/// What init is given to take `bye`.
const BYE_MAX: Duration = Duration::from_millis(200);

pub struct DockerRunning {
    shared: Arc<Shared>,
    handle: Handle,
    attachment: Option<Attachment>,
    /// Read, and not heard out yet.
    held: Option<Frame>,
    /// What init said on standard error through the last attachment.
    complaint: String,
    generation: u64,
    /// Init's clock less the host's, in ms; at most zero but for the time that a frame was under way.
    skew: i64,
    last_seq: u64,
    acked: u64,
    deadline: Option<Mono>,
    stop: Option<StopWhy>,
    /// When it is killed from outside.
    force_at: Option<Mono>,
    grace: Duration,
    /// Said again until the start was seen.
    run: Option<Box<init::Run>>,
    started_ms: Option<u64>,
    backoff: Duration,
    engine_was_away: bool,
    collected: bool,
}

impl DockerRunning {
    pub fn new(shared: Arc<Shared>, handle: Handle, last_seq: u64, grace: Duration) -> Self {
        Self {
            shared,
            handle,
            attachment: None,
            held: None,
            complaint: String::new(),
            generation: 0,
            skew: 0,
            last_seq,
            acked: last_seq,
            deadline: None,
            stop: None,
            force_at: None,
            grace,
            run: None,
            started_ms: None,
            backoff: BACKOFF_FIRST,
            engine_was_away: false,
            collected: false,
        }
    }

    /// Takes over an attachment whose `ready` was seen, and says `run` through it.
    pub async fn begin(
        &mut self,
        attachment: Attachment,
        skew: i64,
        run: init::Run,
        deadline: Mono,
    ) -> Result<(), SendError> {
        self.generation = attachment.generation();
        self.attachment = Some(attachment);
        self.skew = skew;
        self.deadline = Some(deadline);
        self.run = Some(Box::new(run));
        self.say_run().await
    }

    async fn say_run(&mut self) -> Result<(), SendError> {
        let (Some(run), Some(deadline)) = (self.run.clone(), self.deadline) else {
            return Ok(());
        };
        let deadline_ms = self.on_init_clock(deadline);
        self.say(Command::Run(Box::new(init::Run { deadline_ms, ..*run })))
            .await
    }

    /// A broken attachment is dropped here; the next look at frames attaches anew and says everything again.
    async fn say(&mut self, command: Command) -> Result<(), SendError> {
        let Some(attachment) = self.attachment.as_mut() else {
            return Ok(());
        };
        let sent = attachment.send(&command).await;
        if let Err(SendError::TimedOut | SendError::Broken(_)) = &sent {
            self.attachment = None;
        }
        sent
    }

    async fn say_or_later(&mut self, command: Command) {
        if let Err(error) = self.say(command).await {
            tracing::debug!(container = %self.handle.name, %error, "a line is kept for the next attachment");
        }
    }

    fn on_init_clock(&self, at: Mono) -> u64 {
        at.as_millis().saturating_add_signed(self.skew)
    }

    /// Attached, or the ending of a container that is not there to attach to.
    async fn attach(&mut self) -> Option<Ended> {
        loop {
            let engine = Arc::clone(&self.shared.engine);
            let seen = match engine.client() {
                Ok(client) => client.inspect_container(&self.handle.container.0, None).await,
                Err(error) => Err(error),
            };
            match seen {
                Ok(seen) if seen.state.as_ref().and_then(|state| state.running) == Some(true) => {
                    if self.attach_once().await {
                        return None;
                    }
                }
                Ok(seen) => return Some(self.silent(&seen)),
                Err(error) if is_not_found(&error) => return Some(self.gone()),
                Err(error) => {
                    self.engine_was_away = true;
                    tracing::debug!(container = %self.handle.name, error = %words(&error), "the engine does not answer");
                }
            }
            self.wait().await;
        }
    }

    async fn attach_once(&mut self) -> bool {
        // above any earlier one, of earlier lives of the agent too: a container does not outlive the boot clock
        let generation = self.shared.clock.mono().as_millis().max(self.generation + 1);
        self.generation = generation;
        let engine = Arc::clone(&self.shared.engine);
        let Ok(client) = engine.client() else { return false };
        let mut attachment = match Attachment::open(client, &self.handle.container.0, generation).await {
            Ok(attachment) => attachment,
            Err(error) => {
                tracing::debug!(container = %self.handle.name, error = %words(&error), "not attached");
                return false;
            }
        };
        if let Err(error) = self.say_again(&mut attachment).await {
            tracing::debug!(container = %self.handle.name, %error, "the attachment broke at once");
            return false;
        }
        self.attachment = Some(attachment);
        true
    }

    /// Everything that an earlier attachment may not have handed over.
    async fn say_again(&mut self, attachment: &mut Attachment) -> Result<(), SendError> {
        attachment.send(&Command::Resume { seq: self.last_seq }).await?;
        attachment.send(&Command::Ack { seq: self.acked }).await?;
        if let Some(deadline) = self.deadline.filter(|_| self.run.is_none()) {
            let at_ms = self.on_init_clock(deadline);
            attachment.send(&Command::Deadline { at_ms }).await?;
        }
        if let Some(why) = self.stop {
            attachment.send(&Command::Stop { why: reason(why) }).await?;
        }
        Ok(())
    }

    async fn wait(&mut self) {
        let pause = self.backoff;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        tokio::time::sleep(pause).await;
    }

    /// What a frame means to the agent; none for what it does not see, or for one that is held.
    fn apply(&mut self, frame: Frame) -> Option<ExecEvent> {
        if let Some(seq) = frame.seq() {
            if seq <= self.last_seq {
                return None;
            }
            if seq > self.last_seq + 1 {
                // a frame was lost on the way: init still has it
                tracing::warn!(container = %self.handle.name, seq, last = self.last_seq, "frames are missing, attaching anew");
                self.attachment = None;
                return None;
            }
            self.last_seq = seq;
        }
        self.backoff = BACKOFF_FIRST;
        match frame {
            Frame::Ready(_) | Frame::Exit(_) => {
                self.held = Some(frame);
                None
            }
            Frame::Started(started) => {
                self.run = None;
                self.started_ms = Some(started.boot_clock_ms);
                Some(ExecEvent::Started)
            }
            Frame::Data(data) => Some(ExecEvent::Chunk(Chunk {
                seq: data.seq,
                stream: match data.stream {
                    init::Stream::Stdout => Stream::Stdout,
                    init::Stream::Stderr => Stream::Stderr,
                },
                stream_seq: data.stream_seq,
                bytes: data.bytes.into(),
            })),
            Frame::NotStarted(word) => Some(ExecEvent::Ended(not_started(&word, self.stop))),
        }
    }

    /// The frames that need awaiting. May be dropped and called again with the same one.
    async fn hear_out(&mut self, frame: &Frame) -> Option<ExecEvent> {
        match frame {
            Frame::Ready(ready) => {
                self.hear_clock(ready.boot_clock_ms);
                if ready.acked_seq > self.last_seq {
                    // asking again would give the same: nobody has them any more
                    tracing::error!(container = %self.handle.name, acked = ready.acked_seq, last = self.last_seq,
                        "chunks were acknowledged that are not in the spool");
                    self.last_seq = ready.acked_seq;
                    self.acked = self.acked.max(ready.acked_seq);
                }
                if ready.phase == Phase::Waiting && self.run.is_none() {
                    // adopted from a life that died before it said `run`: what to say is not known any more
                    return Some(ExecEvent::Ended(ended_silently(End::Silent {
                        engine_restarted: true,
                        oom: false,
                        message: "the agent ended before the job was begun".to_owned(),
                    })));
                }
                if ready.phase == Phase::Waiting {
                    if let Err(error) = self.say_run().await {
                        tracing::debug!(%error, "run is said again later");
                    }
                } else {
                    self.run = None;
                }
                None
            }
            Frame::Exit(exit) => Some(ExecEvent::Ended(self.exited(exit).await)),
            Frame::Started(_) | Frame::Data(_) | Frame::NotStarted(_) => None,
        }
    }

    fn hear_clock(&mut self, init_ms: u64) {
        let here = i64::try_from(self.shared.clock.mono().as_millis()).unwrap_or(i64::MAX);
        self.skew = i64::try_from(init_ms).unwrap_or(i64::MAX).saturating_sub(here);
    }

    async fn exited(&mut self, exit: &init::Exit) -> Ended {
        let facts = oom::read(&self.handle.container.0);
        let status = match exit.status {
            init::ExitStatus::Code(code) => Status::Code(code),
            init::ExitStatus::Signal(signal) => Status::Signal(signal),
        };
        let killed = matches!(status, Status::Signal(9) | Status::Code(137));
        let oom = match exit.oom() {
            Some(oom) => oom && killed,
            None if killed => match facts.oom_kills {
                Some(kills) => kills > 0,
                None => self.engine_saw_oom().await,
            },
            None => false,
        };
        Ended {
            seq: Some(exit.seq),
            end: End::Process {
                status,
                by: ended_by(&exit.ended_by),
                oom,
            },
            usage: Usage {
                cpu_ms: (exit.rusage.user_us + exit.rusage.system_us) / 1_000,
                memory_peak_bytes: facts
                    .memory_peak
                    .unwrap_or(0)
                    .max(exit.rusage.max_rss_kib * 1_024),
            },
            run_ms: Some(exit.ended_at_ms.saturating_sub(exit.started_at_ms)),
        }
    }

    async fn engine_saw_oom(&mut self) -> bool {
        let Ok(client) = self.shared.engine.client() else {
            return false;
        };
        let seen = client.inspect_container(&self.handle.container.0, None).await;
        seen.ok().and_then(|seen| seen.state?.oom_killed).unwrap_or(false)
    }

    fn silent(&self, seen: &ContainerInspectResponse) -> Ended {
        let state = seen.state.clone().unwrap_or_default();
        let code = state.exit_code.unwrap_or(-1);
        ended_silently(End::Silent {
            engine_restarted: self.engine_was_away
                || self
                    .shared
                    .engine_restarted_since(state.started_at.as_deref().unwrap_or_default()),
            oom: state.oom_killed.unwrap_or(false),
            message: format!(
                "the container ended with {code} without word of the job {}{}",
                state.error.unwrap_or_default(),
                self.complaint
            ),
        })
    }

    fn gone(&self) -> Ended {
        ended_silently(End::Silent {
            engine_restarted: self.engine_was_away,
            oom: false,
            message: "the container was removed by somebody else".to_owned(),
        })
    }

    async fn force(&mut self) {
        // again, should this be dropped or fail
        self.force_at = Some(self.shared.clock.mono().after(BACKOFF_MAX));
        tracing::warn!(container = %self.handle.name, "init does not end the job, killing the container");
        let Ok(client) = self.shared.engine.client() else {
            return;
        };
        match client.kill_container(&self.handle.container.0, None).await {
            Ok(()) => self.force_at = None,
            Err(error) => {
                tracing::warn!(container = %self.handle.name, error = %words(&error), "the container was not killed");
            }
        }
    }

    fn until_force(&self) -> Duration {
        // a deadline that passed unheeded is a reason as good as a stop
        let deadline = self.deadline.map(|at| at.after(self.grace).after(FORCE_AFTER));
        let at = [self.force_at, deadline].into_iter().flatten().min();
        at.map_or(Duration::MAX, |at| at.since(self.shared.clock.mono()))
    }
}

#[async_trait]
impl Running for DockerRunning {
    fn container(&self) -> &ContainerRef {
        &self.handle.container
    }

    async fn next(&mut self) -> ExecEvent {
        loop {
            if let Some(frame) = self.held.clone() {
                let event = self.hear_out(&frame).await;
                self.held = None;
                if let Some(event) = event {
                    return event;
                }
                continue;
            }
            if self.attachment.is_none()
                && let Some(ended) = self.attach().await
            {
                return ExecEvent::Ended(ended);
            }
            let force_in = self.until_force();
            let Some(attachment) = self.attachment.as_mut() else {
                continue;
            };
            match tokio::time::timeout(force_in, attachment.frame()).await {
                Err(_) => {
                    self.deadline = None;
                    self.force().await;
                }
                Ok(None) => {
                    self.complaint = attachment.complaint().to_owned();
                    self.attachment = None;
                    self.wait().await;
                }
                Ok(Some(frame)) => {
                    if let Some(event) = self.apply(frame) {
                        return event;
                    }
                    if self.attachment.is_none() {
                        self.wait().await;
                    }
                }
            }
        }
    }

    async fn ack(&mut self, seq: u64) {
        if seq > self.acked {
            self.acked = seq;
            self.say_or_later(Command::Ack { seq }).await;
        }
    }

    async fn set_deadline(&mut self, deadline: Mono) {
        self.deadline = Some(deadline);
        let at_ms = self.on_init_clock(deadline);
        self.say_or_later(Command::Deadline { at_ms }).await;
    }

    async fn stop(&mut self, why: StopWhy) {
        if self.stop.is_some() {
            return;
        }
        self.stop = Some(why);
        self.force_at = Some(self.shared.clock.mono().after(self.grace).after(FORCE_AFTER));
        self.say_or_later(Command::Stop { why: reason(why) }).await;
    }

    async fn collect(&mut self, globs: &[String]) -> Result<Collected, ExecutorError> {
        if std::mem::replace(&mut self.collected, true) || globs.is_empty() {
            return Ok(Collected::default());
        }
        super::collect::collect(&self.shared, &self.handle.name, globs).await
    }

    async fn finish(mut self: Box<Self>) {
        if self.attachment.is_some() {
            let bye = async {
                self.say_or_later(Command::Ack { seq: self.last_seq }).await;
                self.say_or_later(Command::Bye).await;
            };
            // removal is by force, so it only spares the engine a kill
            if tokio::time::timeout(BYE_MAX, bye).await.is_err() {
                tracing::debug!("bye was not taken");
            }
        }
        self.shared.reap(self.handle.clone()).await;
    }
}
