//! Writes a history down while it happens, from many hands, and speaks with the API as a careful client that is never
//! sure of more than it was told.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use common::api_types::{JobView, SubmitJob};
use common::ids::JobId;
use rustix::time::{ClockId, clock_gettime};

use super::{Answer, Event, History, Line, Nanos, Request, Row};
use crate::client::{Client, Refused};
use crate::wait::wait_for;

/// For an acknowledgement, while the server may be away.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Default)]
pub struct Recorder {
    lines: Arc<Mutex<Vec<Line>>>,
    calls: Arc<AtomicU64>,
    /// The hash of each row as it was noted last.
    rows: Arc<Mutex<HashMap<JobId, String>>>,
}

impl Recorder {
    pub fn now() -> Nanos {
        let read = clock_gettime(ClockId::Monotonic);
        u64::try_from(read.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(read.tv_nsec).unwrap_or(0)
    }

    pub fn note(&self, event: Event) {
        self.note_at(Self::now(), event);
    }

    pub fn note_at(&self, at: Nanos, event: Event) {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Line { at, event });
    }

    pub fn history(&self) -> History {
        History::new(self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Submits under the key until it is acknowledged; an unknown answer is asked for again.
    ///
    /// # Errors
    /// A refusal, or no acknowledgement in time.
    pub async fn submit(&self, client: &Client, key: &str, job: &SubmitJob) -> Result<JobId> {
        let job = SubmitJob {
            name: Some(key.to_owned()),
            ..job.clone()
        };
        let stored = wait_for(ACKNOWLEDGED_WITHIN, "an acknowledgement", async || {
            let request = Request::Submit { key: key.to_owned() };
            let answer = self.call(request, client.submit_keyed(&job, key)).await;
            match answer {
                Err(error) if unknown(&error) => Err(format!("{error:#}")),
                told => Ok(told),
            }
        });
        Ok(stored.await??.id)
    }

    /// # Errors
    /// The refusal, or what broke.
    pub async fn cancel(&self, client: &Client, job: JobId) -> Result<JobView> {
        self.call(Request::Cancel { job }, client.cancel(job, "changed my mind"))
            .await
    }

    /// Reads every row, and notes those that are not as they were noted last.
    ///
    /// # Errors
    /// The refusal, or what broke; then nothing is noted.
    pub async fn read_rows(&self, client: &Client) -> Result<Vec<JobView>> {
        self.read_rows_of(client, "").await
    }

    /// As [`Recorder::read_rows`], of those that `which` names ([`Client::jobs_of`]).
    ///
    /// # Errors
    /// As [`Recorder::read_rows`].
    pub async fn read_rows_of(&self, client: &Client, which: &str) -> Result<Vec<JobView>> {
        let jobs = client.jobs_of(which).await?;
        self.note_rows(&jobs);
        Ok(jobs)
    }

    /// Rows as they were read just now, by one reader at a time.
    pub fn note_rows(&self, jobs: &[JobView]) {
        let mut known = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        for row in jobs.iter().map(Row::from) {
            if known.get(&row.job) != Some(&row.hash) {
                known.insert(row.job, row.hash.clone());
                self.note(Event::Row { row: Box::new(row) });
            }
        }
    }

    async fn call(&self, request: Request, answer: impl Future<Output = Result<JobView>>) -> Result<JobView> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        self.note(Event::Asked { call, request });
        let told = answer.await;
        let answer = match &told {
            Ok(job) => Answer::Ok { job: job.id },
            Err(error) => match error.downcast_ref::<Refused>() {
                Some(refused) if refused.status < 500 => Answer::Fail {
                    status: refused.status,
                },
                Some(_) | None => Answer::Info,
            },
        };
        self.note(Event::Answered { call, answer });
        told
    }
}

fn unknown(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<Refused>()
        .is_none_or(|refused| refused.status >= 500)
}
