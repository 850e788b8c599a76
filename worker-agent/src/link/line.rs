//! An open connection, attended to: a reader and a writer task, so that neither can hold the other up. The writer pings;
//! a peer that was silent for a ping and its deadline is given up.

use std::time::Duration;

use bytes::Bytes;
use common::protocol::{CONTROL_FRAME_BYTES_MAX, FromWorker, ToWorker};
use common::tasks::Tasks;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::CancellationToken;

use super::{CONTROL_QUEUE, Closed, Connection, INBOX_QUEUE, Incoming, LOG_QUEUE, Outbox};
use crate::config::LinkTimes;

/// Frames in both directions, as a WebSocket has them.
pub trait Line:
    Stream<Item = Result<Message, tungstenite::Error>>
    + Sink<Message, Error = tungstenite::Error>
    + Send
    + 'static
{
}

impl<L> Line for L where
    L: Stream<Item = Result<Message, tungstenite::Error>>
        + Sink<Message, Error = tungstenite::Error>
        + Send
        + 'static
{
}

/// Reads and writes `line` in tasks of its own until either side ends it.
pub fn attend(line: impl Line, times: LinkTimes, tasks: &Tasks) -> Connection {
    let (sink, stream) = line.split();
    let (control, control_out) = mpsc::channel(CONTROL_QUEUE);
    let (logs, logs_out) = mpsc::channel(LOG_QUEUE);
    let (incoming, inbox) = mpsc::channel(INBOX_QUEUE);
    let ended = CancellationToken::new();
    let silent_max = times.ping + times.pong_deadline;
    tasks.spawn("link reader", read(stream, incoming, silent_max, ended.clone()));
    tasks.spawn("link writer", write(sink, control_out, logs_out, times, ended));
    Connection {
        outbox: Outbox { control, logs },
        inbox,
    }
}

async fn read(
    mut stream: impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin,
    incoming: mpsc::Sender<Incoming>,
    silent_max: Duration,
    ended: CancellationToken,
) {
    let closed = loop {
        let next = tokio::select! {
            next = tokio::time::timeout(silent_max, stream.next()) => next,
            () = ended.cancelled() => break lost("the connection could not be written to"),
            () = incoming.closed() => break lost("closed by the agent"),
        };
        match next {
            Err(_) => break lost("nothing was heard in time"),
            Ok(None) => break lost("the connection ended"),
            Ok(Some(Err(error))) => break lost(&error.to_string()),
            Ok(Some(Ok(Message::Text(text)))) => match serde_json::from_str::<ToWorker>(&text) {
                Ok(message) => {
                    if incoming.send(Incoming::Message(message)).await.is_err() {
                        break lost("closed by the agent");
                    }
                }
                // A newer control plane may say things that this agent does not know; they are not for it.
                Err(error) => tracing::warn!(%error, "a message of the control plane is not understood"),
            },
            Ok(Some(Ok(Message::Close(frame)))) => {
                break Closed {
                    code: frame.as_ref().map(|frame| frame.code.into()),
                    reason: frame.map(|frame| frame.reason.to_string()).unwrap_or_default(),
                };
            }
            Ok(Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_)))) => {}
        }
    };
    ended.cancel();
    // The session may have left first.
    let _ = incoming.send(Incoming::Closed(closed)).await;
}

fn lost(reason: &str) -> Closed {
    Closed {
        code: None,
        reason: reason.to_owned(),
    }
}

async fn write(
    mut sink: impl Sink<Message, Error = tungstenite::Error> + Unpin,
    mut control: mpsc::Receiver<FromWorker>,
    mut logs: mpsc::Receiver<Bytes>,
    times: LinkTimes,
    ended: CancellationToken,
) {
    let mut pings = tokio::time::interval(times.ping);
    pings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            biased;
            () = ended.cancelled() => break,
            message = control.recv() => match message {
                Some(message) => text_of(&message),
                None => break,
            },
            _ = pings.tick() => Some(Message::Ping(Bytes::new())),
            Some(frame) = logs.recv() => Some(Message::Binary(frame)),
        };
        let Some(message) = message else { continue };
        // A peer that does not take a frame for so long would not answer a ping either.
        let sent = tokio::time::timeout(times.ping + times.pong_deadline, sink.send(message)).await;
        if !matches!(sent, Ok(Ok(()))) {
            break;
        }
    }
    ended.cancel();
    // A courtesy to a peer that may be gone.
    let _ = tokio::time::timeout(times.pong_deadline, sink.close()).await;
}

fn text_of(message: &FromWorker) -> Option<Message> {
    let text = serde_json::to_string(message).ok()?;
    if text.len() > CONTROL_FRAME_BYTES_MAX {
        // It would end the connection, again and again.
        tracing::error!(
            bytes = text.len(),
            "a message is too large for the link and is left out"
        );
        return None;
    }
    Some(Message::Text(text.into()))
}
