//! Workers and their sessions.
//!
//! A worker's row is changed field by field, so that an agent's words and an administrator's wish never undo each other.
//! What every agent asks for has a lane of its own, so that a fleet costs a few commands and not some for each agent:
//! renewals, the words that come with them, and the steps of a hello.

mod beats;
mod rows;
mod sessions;
mod words;

use std::sync::Arc;

use async_trait::async_trait;
use common::ids::{SessionId, WorkerId};
use common::store::{AgentWords, Beat, BeatAnswer, StoreError, WorkerStore};
use common::tasks::Tasks;
use common::time::Timestamp;
use common::worker::{Session, Worker};
use mongodb::bson::{Document, doc};

use self::beats::Renewer;
use self::rows::{Put, Putter, Reader, worker};
use self::sessions::{Begun, Opener, Resumer, Wanted, session};
use self::words::{Listener, Said};
use super::lane::{Lane, Work};
use super::link::{Link, Question, in_time};
use super::schema;
use super::trouble::Trouble;

/// Ids in one question.
const IDS_MAX: usize = 1_000;

/// Commands under way in each lane: while one waits for the majority's journals, the next is on its way.
const HANDS: usize = 2;

pub(super) struct Workers {
    link: Arc<Link>,
    beats: Lane<Renewer>,
    words: Lane<Listener>,
    reads: Lane<Reader>,
    opens: Lane<Opener>,
    resumes: Lane<Resumer>,
    puts: Lane<Putter>,
}

impl Workers {
    pub(super) fn new(link: &Arc<Link>, tasks: &Tasks) -> Self {
        Self {
            link: Arc::clone(link),
            beats: lane("store-beats", link, tasks, Renewer),
            words: lane("store-words", link, tasks, Listener),
            reads: lane("store-workers", link, tasks, Reader),
            opens: lane("store-sessions", link, tasks, Opener),
            resumes: lane("store-resumes", link, tasks, Resumer),
            puts: lane("store-hellos", link, tasks, Putter),
        }
    }
}

fn lane<W: Work>(
    name: &'static str,
    link: &Arc<Link>,
    tasks: &Tasks,
    hand: impl Fn(Arc<Link>) -> W,
) -> Lane<W> {
    Lane::start(name, tasks, (0..HANDS).map(|_| hand(Arc::clone(link))))
}

#[async_trait]
impl WorkerStore for Workers {
    async fn put(&self, worker: &Worker, replaces: Option<SessionId>) -> Result<bool, StoreError> {
        let put = self.puts.write(vec![Put::of(worker, replaces)?]).await?;
        Ok(put.into_iter().all(|speaks| speaks))
    }

    async fn refresh(&self, id: &WorkerId, words: &AgentWords) -> Result<bool, StoreError> {
        let said = self.words.write(vec![Said::of(id, words)?]).await?;
        Ok(said.into_iter().all(|stored| stored))
    }

    async fn set_draining(&self, id: &WorkerId, draining: bool) -> Result<Option<Worker>, StoreError> {
        let command = doc! {
            "findAndModify": schema::WORKERS, "query": { "_id": id.as_str() },
            "update": { "$set": { "draining": draining } }, "new": true,
        };
        let found = in_time(self.link.find_and_modify(command)).await?;
        Ok(found
            .as_ref()
            .map(raw)
            .transpose()?
            .map(|row| worker(&row))
            .transpose()?)
    }

    async fn get(&self, id: &WorkerId) -> Result<Option<Worker>, StoreError> {
        let found = self.reads.write(vec![id.clone()]).await?;
        Ok(found.into_iter().next().flatten())
    }

    async fn list(&self) -> Result<Vec<Worker>, StoreError> {
        let question = Question::new(schema::WORKERS, Document::new()).sorted(doc! { "_id": 1 });
        Ok(self.link.ask(question, |row| worker(row).map(Some)).await?)
    }

    async fn open_session(
        &self,
        id: SessionId,
        worker: &WorkerId,
        now: Timestamp,
    ) -> Result<Session, StoreError> {
        let begun = Begun {
            id,
            worker: worker.clone(),
            at: now,
        };
        let opened = self.opens.write(vec![begun]).await?;
        opened.into_iter().next().flatten().ok_or(StoreError::Exists)
    }

    async fn resume_session(&self, id: SessionId, worker: &WorkerId) -> Result<Option<Session>, StoreError> {
        let wanted = Wanted {
            id,
            worker: worker.clone(),
        };
        let resumed = self.resumes.write(vec![wanted]).await?;
        Ok(resumed.into_iter().next().flatten())
    }

    async fn beat(&self, beats: &[Beat]) -> Result<Vec<BeatAnswer>, StoreError> {
        Ok(self.beats.write(beats.to_vec()).await?)
    }

    async fn declare_lost(&self, id: SessionId, beat: u64) -> Result<bool, StoreError> {
        let statement = doc! {
            "q": { "_id": id.to_string(), "beat": beat.cast_signed() }, "u": { "$set": { "lost": true } },
        };
        let command = doc! { "update": schema::HEARTBEATS, "updates": [statement] };
        let written = in_time(self.link.write(command)).await?.whole()?;
        Ok(written.n == 1)
    }

    async fn live_sessions(&self) -> Result<Vec<Session>, StoreError> {
        let question = Question::new(schema::HEARTBEATS, doc! { "lost": false });
        Ok(self.link.ask(question, |row| session(row).map(Some)).await?)
    }

    async fn sessions(&self, ids: &[SessionId]) -> Result<Vec<Session>, StoreError> {
        let mut found = Vec::with_capacity(ids.len());
        for part in ids.chunks(IDS_MAX) {
            let ids: Vec<String> = part.iter().map(ToString::to_string).collect();
            let question = Question::new(schema::HEARTBEATS, doc! { "_id": { "$in": ids } });
            found.extend(self.link.ask(question, |row| session(row).map(Some)).await?);
        }
        Ok(found)
    }
}

fn raw(document: &Document) -> Result<mongodb::bson::RawDocumentBuf, Trouble> {
    Ok(mongodb::bson::RawDocumentBuf::try_from(document)?)
}
