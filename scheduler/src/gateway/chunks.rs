//! Log chunks of all connections of this gateway, stored in batches on a lane of their own.

use std::collections::HashSet;
use std::iter::Peekable;
use std::time::Duration;

use common::ids::AttemptId;
use common::log::LogChunk;
use common::store::{Stores, Topic};
use common::time::SharedClock;

use super::lane::{Asked, Inbox, Lane, Lent, lane};

/// Connections whose chunks are asked for at once.
const BATCH: usize = 32;

/// Most of one write, in bytes with [`CHUNK_WEIGHT`]; one connection's chunks go whole, however many. What would go
/// past it waits for the next, so that one that brings little is not held up by many that bring much.
const WRITE_BYTES: usize = 8 * 1024 * 1024;

/// What a chunk costs beside its bytes, in bytes that cost a store as much: about the row that it is kept in. So a
/// write of chunks of one byte has some eight thousand of them.
const CHUNK_WEIGHT: usize = 1024;

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
    asked: &mut Peekable<impl Iterator<Item = Asked<Vec<LogChunk>, bool>>>,
    stores: &Stores,
    clock: &SharedClock,
) {
    let (mut all, mut replies, mut total) = (Vec::new(), Vec::new(), 0);
    while let Some((chunks, reply)) =
        asked.next_if(|(chunks, _)| replies.is_empty() || total + weight(chunks) <= WRITE_BYTES)
    {
        total += weight(&chunks);
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

fn weight(chunks: &[LogChunk]) -> usize {
    chunks.iter().map(|chunk| chunk.bytes.len() + CHUNK_WEIGHT).sum()
}
