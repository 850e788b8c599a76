//! Calls that come together are one command of many statements, and rows are read back only where fewer matched.
//!
//! On one thread, so that every call waits in its lane before the first hand of the lane wakes up.

use common::ids::{AttemptId, SessionId, WorkerId};
use common::job::{Job, Revision};
use common::store::{Appended, Beat, BeatAnswer, Commit, CommitError, Inserted, NewJob};
use common::time::{Clock, SystemClock};
use futures_util::future::{join_all, try_join_all};
use mongodb::bson::Document;
use storage::conformance::mongo_server::Database;
use storage::mongo::Rows;

use crate::support::open;
use crate::tap::{Tap, label};
use crate::writes::{chunk, new_job, next_of};

/// Calls at once.
const CALLS: usize = 50;
/// Commands that they may be: two hands take what waits, and it may be that one of them has waited already.
const COMMANDS_MAX: usize = 3;
/// Output has four lanes, by attempt.
const LOG_COMMANDS_MAX: usize = 4;

async fn tapped(database: &Database) -> (Tap, Rows) {
    let tap = Tap::before(database).await;
    let rows = open(&tap.uri("")).await.unwrap();
    (tap, rows)
}

/// Of the commands of this name and collection: how many statements each has in this field.
fn statements(sent: &[Document], of: &str, field: &str) -> Vec<usize> {
    let those = sent.iter().filter(|command| label(command) == of);
    those
        .map(|command| command.get_array(field).unwrap().len())
        .collect()
}

fn together(sent: &[Document], of: &str, field: &str, commands_max: usize) {
    let found = statements(sent, of, field);
    assert_eq!(found.iter().sum::<usize>(), CALLS, "{of}: {found:?}");
    assert!(found.len() <= commands_max, "{of}: {found:?}");
}

/// Where in what was sent these commands are.
fn places(sent: &[Document], of: &str) -> Vec<usize> {
    (0..sent.len()).filter(|at| label(&sent[*at]) == of).collect()
}

/// As many calls at once as there are jobs.
async fn submitted(tap: &Tap, rows: &Rows) -> Vec<Job> {
    let jobs: Vec<Job> = (0..CALLS).map(|_| new_job()).collect();
    tap.taken();
    let inserts = jobs.iter().map(|job| {
        rows.jobs.insert(vec![NewJob {
            job: job.clone(),
            key: None,
        }])
    });
    let answers = try_join_all(inserts).await.unwrap();
    assert!(
        answers
            .into_iter()
            .flatten()
            .all(|answer| answer == Inserted::Stored)
    );
    together(&tap.taken(), "insert jobs", "documents", COMMANDS_MAX);
    jobs
}

async fn change(rows: &Rows, changes: Vec<Commit>) -> Vec<Result<(), CommitError>> {
    let calls = changes.into_iter().map(|change| rows.jobs.commit(vec![change]));
    try_join_all(calls).await.unwrap().into_iter().flatten().collect()
}

#[tokio::test]
async fn changes_of_many_callers_are_one_command_and_read_back_only_where_one_came_too_late() {
    let database = Database::shared().await;
    let (tap, rows) = tapped(&database).await;
    let mut jobs = submitted(&tap, &rows).await;

    let answers = change(&rows, jobs.iter().map(next_of).collect()).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let sent = tap.taken();
    together(&sent, "update jobs", "updates", COMMANDS_MAX);
    assert!(
        places(&sent, "find jobs").is_empty(),
        "all matched, so nothing is to be asked"
    );

    for job in &mut jobs {
        job.revision = job.revision.next();
    }
    let late = CALLS / 2;
    let mut changes: Vec<Commit> = jobs.iter().map(next_of).collect();
    (changes[late].expected, changes[late].job.revision) = (Revision(1), Revision(2));
    let answers = change(&rows, changes).await;
    for (at, answer) in answers.iter().enumerate() {
        let expected = if at == late {
            Err(CommitError::Conflict)
        } else {
            Ok(())
        };
        assert_eq!(*answer, expected, "of the change {at}");
    }
    let sent = tap.taken();
    together(&sent, "update jobs", "updates", COMMANDS_MAX);
    let (asked, read_back) = (places(&sent, "update jobs"), places(&sent, "find jobs"));
    assert_eq!(read_back.len(), 1, "one group has to be told apart");
    assert!(read_back[0] > asked[0], "read back before it was written");
    rows.closing.close().await;
}

#[tokio::test]
async fn renewals_of_a_fleet_are_one_statement_and_read_back_only_where_a_session_is_lost() {
    let database = Database::shared().await;
    let (tap, rows) = tapped(&database).await;
    let worker = WorkerId::new("node").unwrap();
    let sessions: Vec<SessionId> = (0..CALLS).map(|_| SessionId::random()).collect();
    tap.taken();
    let opened = sessions
        .iter()
        .map(|id| rows.workers.open_session(*id, &worker, SystemClock.now()));
    try_join_all(opened).await.unwrap();
    together(&tap.taken(), "insert heartbeats", "documents", COMMANDS_MAX);

    let beats: Vec<Beat> = sessions
        .iter()
        .map(|&session| Beat { session, conn: 1 })
        .collect();
    let renew = async || -> Vec<BeatAnswer> {
        let calls = beats
            .iter()
            .map(|beat| rows.workers.beat(std::slice::from_ref(beat)));
        try_join_all(calls).await.unwrap().concat()
    };
    assert_eq!(renew().await, vec![BeatAnswer::Renewed; CALLS]);
    let sent = tap.taken();
    let found = statements(&sent, "update heartbeats", "updates");
    assert!(
        found.len() <= COMMANDS_MAX && found.iter().all(|each| *each == 1),
        "{found:?}"
    );
    assert!(places(&sent, "find heartbeats").is_empty(), "all matched");

    assert!(rows.workers.declare_lost(sessions[7], 2).await.unwrap());
    tap.taken();
    let answers = renew().await;
    assert_eq!(
        answers
            .iter()
            .filter(|answer| **answer == BeatAnswer::Lost)
            .count(),
        1
    );
    assert_eq!(answers[7], BeatAnswer::Lost);
    let sent = tap.taken();
    let (asked, read_back) = (
        places(&sent, "update heartbeats"),
        places(&sent, "find heartbeats"),
    );
    assert_eq!(read_back.len(), 1, "one group has to be told apart");
    assert!(read_back[0] > asked[0], "read back before it was written");
    rows.closing.close().await;
}

#[tokio::test]
async fn output_of_many_attempts_is_a_command_a_lane() {
    let database = Database::shared().await;
    let (tap, rows) = tapped(&database).await;
    let attempts: Vec<AttemptId> = (0..CALLS).map(|_| AttemptId::random()).collect();
    for seq in 0..2 {
        tap.taken();
        let now = SystemClock.now();
        let calls = attempts
            .iter()
            .map(|attempt| rows.logs.append(vec![chunk(*attempt, seq)], now));
        for answer in join_all(calls).await {
            assert_eq!(answer.unwrap(), [Appended::Stored]);
        }
        together(&tap.taken(), "insert jobLogs", "documents", LOG_COMMANDS_MAX);
    }
    rows.closing.close().await;
}
