//! Log chunks of all connections of this gateway, stored in batches on a lane of their own.

use std::collections::HashSet;
use std::time::Duration;

use common::ids::AttemptId;
use common::log::LogChunk;
use common::store::{Stores, Topic};
use common::time::SharedClock;

use super::lane::{Inbox, Lane, Lent, lane};

/// Connections whose chunks are stored in one write. Each brings a quarter of a MiB at the most.
const BATCH: usize = 32;

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
        let (chunks, replies): (Vec<Vec<LogChunk>>, Vec<_>) = asked.into_iter().unzip();
        let all: Vec<LogChunk> = chunks.into_iter().flatten().collect();
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
}
