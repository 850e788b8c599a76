//! Log chunks of all connections of this gateway, stored in batches on a lane of their own.

use std::collections::HashSet;
use std::time::Duration;

use common::ids::AttemptId;
use common::log::LogChunk;
use common::store::{Stores, Topic};
use common::time::SharedClock;

use super::lane::{Asked, Inbox, Lane, Lent, lane};

/// Connections whose chunks are asked for at once.
const BATCH: usize = 32;

/// Bytes of one write: what comes past it waits for the next, so that one that brings little is not held up by many
/// that bring much.
const WRITE_BYTES: usize = 8 * 1024 * 1024;

/// Connections that wait for the lane; the rest wait at its door.
const DEPTH: usize = 256;

/// One connection's chunks; true when all of them are stored.
pub type Chunks = Lane<Vec<LogChunk>, bool>;

pub fn chunks() -> (Chunks, Inbox<Vec<LogChunk>, bool>) {
    lane(DEPTH)
}

/// Stores until nobody asks any more.
pub async fn run(mut inbox: Lent<Vec<LogChunk>, bool>, stores: Stores, clock: SharedClock) {
    while let Some(asked) = inbox.batch(BATCH, Duration::ZERO).await {
        let mut asked = asked.into_iter().peekable();
        while asked.peek().is_some() {
            store(&mut asked, &stores, &clock).await;
        }
    }
}

/// One write of those who asked first.
async fn store(
    asked: &mut impl Iterator<Item = Asked<Vec<LogChunk>, bool>>,
    stores: &Stores,
    clock: &SharedClock,
) {
    let (mut all, mut replies, mut bytes) = (Vec::new(), Vec::new(), 0);
    while bytes < WRITE_BYTES
        && let Some((chunks, reply)) = asked.next()
    {
        bytes += chunks.iter().map(|chunk| chunk.bytes.len()).sum::<usize>();
        all.extend(chunks);
        replies.push(reply);
    }
    let attempts: HashSet<AttemptId> = all.iter().map(|chunk| chunk.attempt).collect();
    let stored = match stores.logs.append(all, clock.now()).await {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(%error, "log chunks were not stored; they are tried again");
            false
        }
    };
    for reply in replies {
        // A connection that has closed meanwhile needs no answer.
        let _ = reply.send(stored);
    }
    if stored {
        for attempt in attempts {
            stores.hints.send(Topic::Log(attempt));
        }
    }
}
