//! The way to the database: commands with a deadline, a write concern and a bounded number of tries.
//!
//! Every write waits for the journals of a majority. It may be sent again when a connection breaks or the primary
//! moves, so each command that is given to [`Link::write`] has to mean the same the second time: compare-and-set with
//! a nonce, an insert under an id of ours, or a count that may skip. Every read asks the primary for what a majority
//! has, so nothing that was read can be rolled back.
//!
//! Failure: server selection ends after [`SELECTION_MAX`], a call after [`CALL_MAX`], whatever the network does. The
//! driver watches the servers and finds them again by itself.

use std::time::Duration;

use common::secret::Secret;
use mongodb::bson::{Bson, Document, RawDocument, RawDocumentBuf, doc};
use mongodb::options::{ClientOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern};
use mongodb::{Client, Collection, Database};

use super::trouble::{Trouble, is_duplicate, is_of_its_row};
use crate::passed_over::PassedOver;

/// Longest wait for an answer, all tries together: what callers are promised is 3 s.
pub(super) const CALL_MAX: Duration = Duration::from_millis(2_500);
/// Longest search for a server that takes the call. An election takes about as long as this at its quickest.
const SELECTION_MAX: Duration = Duration::from_secs(2);
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// How long the server waits for a majority before it says that the fate is open. Shorter than our own wait, so that it
/// can still say so.
const MAJORITY_MAX: Duration = Duration::from_secs(2);
/// The servers are looked at this often while nothing happens; a failed call looks at once.
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// Connections of one process: four lanes of writes, and readers. The driver's own default of 10 would queue readers.
const CONNECTIONS_MAX: u32 = 48;
/// A broken connection, a moved primary, and one more of each.
const TRIES: usize = 4;
/// Documents in one batch of an answer; the server's own limit of 16 MiB a batch comes first where they are large.
const BATCH: u32 = 1_000;
/// The database where MONGODB_URI names none: the one of the setting's default.
const DATABASE_DEFAULT: &str = "cmd-executor";

pub(super) struct Link {
    client: Client,
    database: Database,
    pub(super) passed_over: PassedOver,
}

/// A question that an index answers: its equalities and its order are the first fields of one, so that a server has no
/// choice to make. It is not told by name: there are servers that read everything when an index is named.
#[derive(Clone)]
pub(super) struct Question {
    pub(super) from: &'static str,
    pub(super) filter: Document,
    pub(super) sort: Option<Document>,
    pub(super) fields: Option<Document>,
    pub(super) limit: Option<usize>,
}

impl Question {
    pub(super) fn new(from: &'static str, filter: Document) -> Self {
        Self {
            from,
            filter,
            sort: None,
            fields: None,
            limit: None,
        }
    }

    pub(super) fn sorted(self, sort: Document) -> Self {
        Self {
            sort: Some(sort),
            ..self
        }
    }

    pub(super) fn only(self, fields: Document) -> Self {
        Self {
            fields: Some(fields),
            ..self
        }
    }

    pub(super) fn at_most(self, limit: usize) -> Self {
        Self {
            limit: Some(limit),
            ..self
        }
    }
}

/// What a write command did.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Matched by updates, stored by inserts, removed by deletes.
    pub(super) n: i64,
    pub(super) errors: Vec<WriteError>,
}

#[derive(Debug, Clone)]
pub(super) struct WriteError {
    /// Of the statement within its command.
    pub(super) index: usize,
    pub(super) code: i32,
    pub(super) message: String,
}

impl WriteError {
    pub(super) const fn is_duplicate(&self) -> bool {
        is_duplicate(self.code)
    }

    /// Whether the same statement would be refused again for as long as its row is as it is.
    pub(super) const fn is_of_its_row(&self) -> bool {
        is_of_its_row(self.code)
    }

    pub(super) fn trouble(&self) -> Trouble {
        Trouble::of_code(self.code, &self.message)
    }
}

impl Written {
    /// For commands of one statement.
    pub(super) fn whole(self) -> Result<Self, Trouble> {
        match self.errors.first() {
            Some(error) => Err(error.trouble()),
            None => Ok(self),
        }
    }
}

impl Link {
    /// Reads the setting; nothing is connected yet.
    pub(super) async fn new(url: &Secret<String>) -> Result<Self, mongodb::error::Error> {
        let mut options = ClientOptions::parse(url.expose().as_str()).await?;
        options.server_selection_timeout = Some(SELECTION_MAX);
        options.connect_timeout = Some(
            options
                .connect_timeout
                .map_or(CONNECT_MAX, |asked| asked.min(CONNECT_MAX)),
        );
        options.heartbeat_freq = Some(WATCH_EVERY);
        options.max_pool_size = Some(
            options
                .max_pool_size
                .map_or(CONNECTIONS_MAX, |asked| asked.max(8)),
        );
        options.app_name.get_or_insert_with(|| "jobworker".into());
        // Whatever the URI says of these would weaken a promise.
        options.write_concern = Some(
            WriteConcern::builder()
                .w(mongodb::options::Acknowledgment::Majority)
                .journal(true)
                .build(),
        );
        options.read_concern = Some(ReadConcern::majority());
        options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        let name = options
            .default_database
            .clone()
            .unwrap_or_else(|| DATABASE_DEFAULT.into());
        let client = Client::with_options(options)?;
        let database = client.database(&name);
        Ok(Self {
            client,
            database,
            passed_over: PassedOver::default(),
        })
    }

    pub(super) fn database_name(&self) -> &str {
        self.database.name()
    }

    pub(super) async fn close(&self) {
        self.client.clone().shutdown().immediate(true).await;
    }

    /// A command that changes something, sent again where that can help.
    pub(super) async fn write(&self, command: Document) -> Result<Written, Trouble> {
        let answer = self.durable(command, MAJORITY_MAX).await?;
        let mut written = Written {
            n: whole_number(&answer, "n").unwrap_or(0),
            errors: Vec::new(),
        };
        for error in answer
            .get_array("writeErrors")
            .map(Vec::as_slice)
            .unwrap_or_default()
        {
            let Bson::Document(error) = error else { continue };
            written.errors.push(WriteError {
                index: whole_number(error, "index")
                    .and_then(|index| usize::try_from(index).ok())
                    .unwrap_or(0),
                code: whole_number(error, "code")
                    .and_then(|code| i32::try_from(code).ok())
                    .unwrap_or(0),
                message: error.get_str("errmsg").unwrap_or_default().to_owned(),
            });
        }
        Ok(written)
    }

    /// `findAndModify`: the document before the change, or after it where the command asks for `new`.
    pub(super) async fn find_and_modify(&self, command: Document) -> Result<Option<Document>, Trouble> {
        let mut answer = self.durable(command, MAJORITY_MAX).await?;
        match answer.remove("value") {
            Some(Bson::Document(found)) => Ok(Some(found)),
            _ => Ok(None),
        }
    }

    /// What is answered once the journals of a majority have it; waiting for them is given up after `within`.
    pub(super) async fn durable(&self, mut command: Document, within: Duration) -> Result<Document, Trouble> {
        command.insert(
            "writeConcern",
            doc! { "w": "majority", "j": true, "wtimeout": millis(within) },
        );
        let answer = self.run(&command).await?;
        match answer.get_document("writeConcernError") {
            Ok(concern) => Err(Trouble::NotDurable(
                concern.get_str("errmsg").unwrap_or("no reason given").to_owned(),
            )),
            Err(_) => Ok(answer),
        }
    }

    /// A command as it is, sent again where that can help.
    pub(super) async fn run(&self, command: &Document) -> Result<Document, Trouble> {
        let raw = RawDocumentBuf::try_from(command)?;
        let mut tries = 0;
        loop {
            tries += 1;
            // Each try waits for a server of its own, so there is no need to pause between them.
            match self
                .database
                .run_raw_command(raw.clone())
                .await
                .map_err(Trouble::from)
            {
                Err(trouble) if trouble.passes() && tries < TRIES => {
                    tracing::debug!(%trouble, tries, "a command is sent again");
                }
                other => return other,
            }
        }
    }

    /// Asks, and reads each document until `read` answers none. The deadline is of each batch, not of the whole.
    pub(super) async fn ask<T>(
        &self,
        question: Question,
        mut read: impl FnMut(&RawDocument) -> Result<Option<T>, Trouble> + Send,
    ) -> Result<Vec<T>, Trouble>
    where
        T: Send,
    {
        let collection: Collection<RawDocumentBuf> = self.database.collection(question.from);
        let limit = question.limit.unwrap_or(usize::MAX);
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut find = collection
            .find(question.filter)
            .read_concern(ReadConcern::majority())
            .max_time(CALL_MAX)
            .batch_size(BATCH.min(u32::try_from(limit).unwrap_or(BATCH)));
        if let Some(limit) = question.limit {
            find = find.limit(i64::try_from(limit).unwrap_or(i64::MAX));
        }
        if let Some(sort) = question.sort {
            find = find.sort(sort);
        }
        if let Some(fields) = question.fields {
            find = find.projection(fields);
        }
        let mut cursor = in_time(async { Ok(find.await?) }).await?;
        let mut found = Vec::new();
        while in_time(async { Ok(cursor.advance().await?) }).await? {
            match read(cursor.current())? {
                Some(item) => found.push(item),
                None => break,
            }
        }
        Ok(found)
    }

    /// As [`Link::ask`], for every document that can be read; one that cannot is told and hides no other. As many as the
    /// question's limit are answered where there are as many, so fewer still mean that the end was reached. The question
    /// has to ask for `_id` too.
    pub(super) async fn ask_readable<T>(
        &self,
        question: Question,
        mut read: impl FnMut(&RawDocument) -> Result<T, Trouble> + Send,
    ) -> Result<Vec<T>, Trouble>
    where
        T: Send,
    {
        let mut beyond = 0;
        loop {
            let asked = question.limit.map(|limit| limit.saturating_add(beyond));
            let (mut seen, mut unreadable) = (0, Vec::new());
            let found = self.ask(
                Question {
                    limit: asked,
                    ..question.clone()
                },
                |row| {
                    seen += 1;
                    match read(row) {
                        Ok(item) => Ok(Some(Some(item))),
                        Err(trouble @ Trouble::Unreadable { .. }) => {
                            unreadable.push((id_of(row), told(&trouble)));
                            Ok(Some(None))
                        }
                        Err(other) => Err(other),
                    }
                },
            );
            let mut found: Vec<T> = found.await?.into_iter().flatten().collect();
            self.passed_over
                .tell("the database holds rows that cannot be read", &unreadable);
            let limit = question.limit.unwrap_or(usize::MAX);
            if found.len() >= limit || asked.is_none_or(|asked| seen < asked) {
                found.truncate(limit);
                return Ok(found);
            }
            // at least twice as far beyond each time: many of them are soon passed
            beyond = (2 * beyond).max(unreadable.len());
        }
    }

    /// As [`Link::ask`], for one document or none.
    pub(super) async fn ask_one<T: Send>(
        &self,
        question: Question,
        mut read: impl FnMut(&RawDocument) -> Result<T, Trouble> + Send,
    ) -> Result<Option<T>, Trouble> {
        let found = self
            .ask(question.at_most(1), |document| read(document).map(Some))
            .await?;
        Ok(found.into_iter().next())
    }
}

/// Holds a call to its deadline. Given up halfway, the driver closes the connection that it was on.
pub(super) async fn in_time<T>(call: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    tokio::time::timeout(CALL_MAX, call)
        .await
        .unwrap_or(Err(Trouble::Silent))
}

/// As far as it can be told.
fn id_of(row: &RawDocument) -> String {
    row.get_str("_id")
        .map_or_else(|_| "without a readable _id".to_owned(), str::to_owned)
}

/// With its cause, which is what tells how the row is bad.
fn told(trouble: &Trouble) -> String {
    match std::error::Error::source(trouble) {
        Some(source) => format!("{trouble}: {source}"),
        None => trouble.to_string(),
    }
}

/// A number of whatever width the server chose.
pub(super) fn whole_number(document: &Document, field: &str) -> Option<i64> {
    match document.get(field)? {
        Bson::Int32(number) => Some((*number).into()),
        Bson::Int64(number) => Some(*number),
        #[allow(clippy::cast_possible_truncation, reason = "a count, written as a double")]
        Bson::Double(number) => Some(*number as i64),
        _ => None,
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
