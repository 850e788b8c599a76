//! Following a job as a browser does: server-sent events, read as they arrive.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use common::api_types::{AttemptEvent, EndEvent, LogChunkView, StateEvent, event};
use reqwest::Response;

/// A follower that hears nothing for so long, not even the comment that keeps the connection, has been forgotten.
const SILENCE_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub enum Followed {
    Log(LogChunkView),
    State(StateEvent),
    Attempt(AttemptEvent),
    End(EndEvent),
}

/// An open `/logs/follow`.
#[derive(Debug)]
pub struct Follower {
    response: Response,
    rest: Vec<u8>,
}

impl Follower {
    pub fn new(response: Response) -> Self {
        Self {
            response,
            rest: Vec::new(),
        }
    }

    /// The next event; none when the server has ended the stream.
    ///
    /// # Errors
    /// A broken connection, or something that is no event of ours.
    pub async fn next(&mut self) -> Result<Option<Followed>> {
        loop {
            while let Some(block) = self.block() {
                if let Some(event) = understand(&block)? {
                    return Ok(Some(event));
                }
            }
            let read = tokio::time::timeout(SILENCE_MAX, self.response.chunk());
            match read.await.context("the follower heard nothing")?? {
                Some(bytes) => self.rest.extend_from_slice(&bytes),
                None => return Ok(None),
            }
        }
    }

    /// Everything up to the next empty line, which is one event.
    fn block(&mut self) -> Option<String> {
        let end = self.rest.windows(2).position(|pair| pair == b"\n\n")?;
        let block: Vec<u8> = self.rest.drain(..end + 2).collect();
        Some(String::from_utf8_lossy(&block).into_owned())
    }
}

fn understand(block: &str) -> Result<Option<Followed>> {
    let field = |name: &str| {
        block
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    let (Some(name), Some(data)) = (field("event"), field("data")) else {
        return Ok(None);
    };
    Ok(Some(match name {
        event::LOG => Followed::Log(serde_json::from_str(data)?),
        event::STATE => Followed::State(serde_json::from_str(data)?),
        event::ATTEMPT => Followed::Attempt(serde_json::from_str(data)?),
        event::END => Followed::End(serde_json::from_str(data)?),
        other => bail!("an event called `{other}`: {data}"),
    }))
}
