//! Renewals of all sessions of this gateway: one update for all workers heard within the window.

use std::time::Duration;

use common::store::{Beat, BeatAnswer, Stores};

use super::lane::{Inbox, Lane, Lent, lane};

/// Longest time that heartbeats are collected for.
const WINDOW_MAX: Duration = Duration::from_millis(500);

/// The window as a part of the heartbeat: a tenth leaves the agent nine to hear the answer in.
const WINDOW_PART: u32 = 10;

const BATCH: usize = 10_000;

/// Answers none when the store did not: then nothing is acknowledged, and the agent asks again.
pub type Renewals = Lane<Beat, Option<BeatAnswer>>;

pub fn renewals() -> (Renewals, Inbox<Beat, Option<BeatAnswer>>) {
    lane(BATCH)
}

/// Writes until nobody asks any more.
pub async fn run(mut inbox: Lent<Beat, Option<BeatAnswer>>, stores: Stores, heartbeat: Duration) {
    let window = WINDOW_MAX.min(heartbeat / WINDOW_PART);
    while let Some(asked) = inbox.batch(BATCH, window).await {
        let beats: Vec<Beat> = asked.iter().map(|(beat, _)| *beat).collect();
        let mut answers = match stores.workers.beat(&beats).await {
            Ok(answers) => answers.into_iter().map(Some).collect(),
            Err(error) => {
                tracing::warn!(%error, sessions = beats.len(), "sessions were not renewed");
                Vec::new()
            }
        }
        .into_iter();
        for (_, reply) in asked {
            // A connection that has closed meanwhile needs no answer.
            let _ = reply.send(answers.next().flatten());
        }
    }
}
