//! Hints over pub/sub: one channel, a task that sends, a task that listens.
//!
//! Sending never waits and never fails: what does not fit into the bounded channel is lost. Hints that wait together
//! travel together. The listener has a connection and a heartbeat of its own; whenever it had to connect
//! anew, whoever listens here is told that some were lost. On a Redis Cluster any node hears of what is sent at any
//! other; the listener goes where the commands go, so that no node which left the cluster is listened to.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use common::store::{Hint, HintStream, Hints, Topic};
use futures_util::StreamExt;
use redis::aio::{PubSubSink, PubSubStream};
use redis::{ConnectionAddr, RedisError, RedisResult};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::timeout;

use super::Shared;
use super::error::ConnectError;
use super::link::{HEARTBEAT, Link};

/// Hints that wait to be sent; past it they are lost, and ticks find what they told of.
const WAITING_MAX: usize = 4_096;

/// Hints of one message: some ten kilobytes.
const TOGETHER_MAX: usize = 256;

/// Hints that a slow reader may be behind by; then it is told to look at everything, which costs it less.
const BEHIND_MAX: usize = 4_096;

/// Between two tries to listen again.
const PAUSE: Duration = Duration::from_millis(250);

/// How the listener fares.
#[derive(Clone)]
enum Listening {
    NotYet,
    /// It hears, or did: it never goes back.
    Yes,
    Forbidden(ConnectError),
}

pub struct SharedHints {
    out: mpsc::Sender<Hint>,
    heard: broadcast::Sender<Option<Hint>>,
    listening: watch::Receiver<Listening>,
    _shared: Arc<Shared>,
}

impl SharedHints {
    pub fn start(shared: &Arc<Shared>) -> Self {
        let (out, waiting) = mpsc::channel(WAITING_MAX);
        let heard = broadcast::Sender::new(BEHIND_MAX);
        let (listens, listening) = watch::channel(Listening::NotYet);
        let (link, channel) = (&shared.link, &shared.keys.hints);
        shared.spawn(
            "redis-hints-out",
            publish(Arc::clone(link), channel.clone(), waiting),
        );
        let listener = Listener {
            link: Arc::clone(link),
            channel: channel.clone(),
            heard: heard.clone(),
        };
        shared.spawn("redis-hints-in", listener.run(listens));
        Self {
            out,
            heard,
            listening,
            _shared: Arc::clone(shared),
        }
    }

    /// Waits until hints arrive here; false when that takes too long.
    ///
    /// # Errors
    /// Listening is forbidden.
    pub async fn ready(&self, within: Duration) -> Result<bool, ConnectError> {
        let mut listening = self.listening.clone();
        let told = listening.wait_for(|told| !matches!(told, Listening::NotYet));
        match timeout(within, told).await {
            Ok(Ok(told)) => match &*told {
                Listening::Forbidden(error) => Err(error.clone()),
                Listening::Yes | Listening::NotYet => Ok(true),
            },
            Ok(Err(_)) | Err(_) => Ok(false),
        }
    }
}

#[async_trait]
impl Hints for SharedHints {
    fn send(&self, hint: Hint) {
        if self.out.try_send(hint).is_err() {
            tracing::debug!("a hint was lost: too many wait to be sent");
        }
    }

    fn subscribe(&self) -> HintStream {
        HintStream::new(self.heard.subscribe())
    }
}

/// Sends until nobody can give any more hints.
async fn publish(link: Arc<Link>, channel: String, mut waiting: mpsc::Receiver<Hint>) {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, TOGETHER_MAX).await > 0 {
        let mut seen = HashSet::new();
        // Freed capacity is told anew with each job that freed some: the leader looks when it hears the two.
        batch.retain(|hint| *hint == Topic::Capacity || seen.insert(hint.clone()));
        let lines: Vec<String> = batch.drain(..).map(|hint| write(&hint)).collect();
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(&channel).arg(lines.join("\n"));
        if let Err(error) = link.command::<()>(&publish).await {
            tracing::debug!(%error, hints = lines.len(), "hints were lost");
        }
    }
}

struct Listener {
    link: Arc<Link>,
    channel: String,
    heard: broadcast::Sender<Option<Hint>>,
}

impl Listener {
    /// Listens for ever.
    async fn run(self, listens: watch::Sender<Listening>) {
        loop {
            match self.subscribe().await {
                Ok((sink, stream, address)) => {
                    if matches!(listens.send_replace(Listening::Yes), Listening::Yes) {
                        // Not for the first time: between the two there was nobody who heard.
                        let _ = self.heard.send(None);
                    }
                    self.listen(sink, stream, &address).await;
                    tracing::debug!("the connection that hints come over broke");
                }
                Err(error) => {
                    tracing::debug!(%error, "hints cannot be listened to");
                    let first = matches!(*listens.borrow(), Listening::NotYet);
                    if first && matches!(error, ConnectError::Forbidden { .. }) {
                        listens.send_replace(Listening::Forbidden(error));
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn subscribe(&self) -> Result<(PubSubSink, PubSubStream, ConnectionAddr), ConnectError> {
        let (client, address) = self.link.client().map_err(ConnectError::BadUrl)?;
        let subscribed = async {
            let deadlines = self.link.deadlines;
            let connecting = timeout(deadlines.connect, client.get_async_pubsub());
            let (mut sink, stream) = connecting.await.map_err(late)??.split();
            timeout(deadlines.answer, sink.subscribe(&self.channel))
                .await
                .map_err(late)??;
            RedisResult::Ok((sink, stream))
        };
        match subscribed.await {
            Ok((sink, stream)) => Ok((sink, stream, address)),
            Err(error) => {
                let tried = format!("SUBSCRIBE {}", self.channel);
                Err(self.link.unusable(&address, &tried, error))
            }
        }
    }

    /// Until the connection breaks, does not answer a ping, or is not where the keys are.
    async fn listen(&self, sink: PubSubSink, mut stream: PubSubStream, address: &ConnectionAddr) {
        let mut dead = std::pin::pin!(self.until_dead(sink, address));
        loop {
            tokio::select! {
                () = &mut dead => return,
                message = stream.next() => match message {
                    Some(message) => self.tell(message.get_payload_bytes()),
                    None => return,
                },
            }
        }
    }

    async fn until_dead(&self, mut sink: PubSubSink, address: &ConnectionAddr) {
        while !self.link.has_left(address) {
            tokio::time::sleep(HEARTBEAT).await;
            let answered = timeout(self.link.deadlines.answer, sink.ping::<redis::Value>());
            if !matches!(answered.await, Ok(Ok(_))) {
                return;
            }
        }
    }

    fn tell(&self, message: &[u8]) {
        let Ok(message) = std::str::from_utf8(message) else {
            return;
        };
        for line in message.lines() {
            match read(line) {
                // Nobody listening is no fault.
                Some(hint) => drop(self.heard.send(Some(hint))),
                None => tracing::debug!(line, "a hint of another release is not understood"),
            }
        }
    }
}

fn late(_: tokio::time::error::Elapsed) -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

fn write(hint: &Hint) -> String {
    match hint {
        Topic::Queue => "queue".to_owned(),
        Topic::Capacity => "capacity".to_owned(),
        Topic::Worker(id) => format!("worker {id}"),
        Topic::Job(id) => format!("job {id}"),
        Topic::Log(id) => format!("log {id}"),
    }
}

fn read(line: &str) -> Option<Hint> {
    match line.split_once(' ') {
        None if line == "queue" => Some(Topic::Queue),
        None if line == "capacity" => Some(Topic::Capacity),
        Some(("worker", id)) => id.parse().ok().map(Topic::Worker),
        Some(("job", id)) => id.parse().ok().map(Topic::Job),
        Some(("log", id)) => id.parse().ok().map(Topic::Log),
        None | Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use common::ids::{AttemptId, JobId, WorkerId};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_hint_reads_back_as_itself() {
        let hints = [
            Topic::Queue,
            Topic::Capacity,
            Topic::Worker(WorkerId::new("node-1").unwrap()),
            Topic::Job(JobId::from_u128(7)),
            Topic::Log(AttemptId::random()),
        ];
        for hint in hints {
            assert_eq!(read(&write(&hint)), Some(hint));
        }
    }

    proptest! {
        #[test]
        fn no_line_panics(line in "\\PC*") {
            let _ = read(&line);
        }
    }
}
