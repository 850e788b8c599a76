//! Every kind of write of every store, one after another, each with the commands that it is.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use common::identity::{Account, ApiKey, Login, Role, User};
use common::ids::{ApiKeyId, AttemptId, FileId, JobId, LoginId, SessionId, UserId};
use common::job::{Job, Revision};
use common::lifecycle::testing;
use common::log::{LogChunk, Stream};
use common::store::{
    AgentWords, Beat, Commit, FilePurpose, Fingerprint, IdempotencyKey, NewFile, NewJob, StoreError,
};
use common::time::{Clock, SystemClock};
use mongodb::bson::{Bson, Document, doc};
use storage::conformance::mongo_server::Database;
use storage::mongo::Rows;

use crate::support::open;
use crate::tap::{Tap, label, name};

const WRITES: [&str; 5] = ["insert", "update", "delete", "findAndModify", "createIndexes"];
const READS: [&str; 3] = ["find", "count", "aggregate"];
/// More than one chunk of a file, and than one command takes of them.
const FILE_BYTES: usize = 2_000_000;
/// Until what happens in the background has happened.
const SOON: Duration = Duration::from_secs(60);

/// Looks at what each call sends.
struct Watched<'a> {
    tap: &'a Tap,
    seen: usize,
}

impl Watched<'_> {
    /// Calls, and finds these commands among what was sent.
    async fn call<T>(
        &mut self,
        what: &str,
        expected: &[&str],
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> T {
        self.tap.taken();
        let answer = call.await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let mut sent = self.tap.taken();
        self.finds(what, expected, &mut sent).await;
        answer
    }

    /// Waits for those that are sent in the background.
    async fn finds(&mut self, what: &str, expected: &[&str], sent: &mut Vec<Document>) {
        let until = tokio::time::Instant::now() + SOON;
        loop {
            let labels: Vec<String> = sent.iter().map(label).collect();
            if expected
                .iter()
                .all(|expected| labels.iter().any(|label| label == expected))
            {
                break;
            }
            assert!(
                tokio::time::Instant::now() < until,
                "{what} is expected to send {expected:?} and sent {labels:?}"
            );
            // tidy: poll
            tokio::time::sleep(Duration::from_millis(5)).await;
            sent.extend(self.tap.taken());
        }
        for command in sent.iter() {
            keeps_the_promises(what, command);
        }
        self.seen += sent.len();
    }
}

fn keeps_the_promises(what: &str, command: &Document) {
    let asks = |concern: &str, field: &str, value: Bson| {
        let asked = command
            .get_document(concern)
            .ok()
            .and_then(|concern| concern.get(field));
        assert_eq!(asked, Some(&value), "{field} of {concern} in {what}: {command:?}");
    };
    let kind = name(command);
    if WRITES.contains(&kind) {
        asks("writeConcern", "w", "majority".into());
        asks("writeConcern", "j", true.into());
    } else if READS.contains(&kind) {
        asks("readConcern", "level", "majority".into());
    } else {
        assert_eq!(
            kind, "getMore",
            "no command that this test knows, in {what}: {command:?}"
        );
    }
    // With it the server would have to remember the write, which some cannot; ours mean the same when sent again.
    assert!(
        !command.contains_key("txnNumber"),
        "a retryable write in {what}: {command:?}"
    );
}

pub fn new_job() -> Job {
    let now = SystemClock.now();
    let alice = UserId::new("alice").unwrap();
    let account = testing::account("acme");
    Job::submitted(JobId::generate(now), account, alice, testing::spec(), now)
}

pub fn next_of(job: &Job) -> Commit {
    Commit {
        job: Job {
            revision: job.revision.next(),
            ..job.clone()
        },
        expected: job.revision,
    }
}

pub fn chunk(attempt: AttemptId, seq: u64) -> LogChunk {
    LogChunk {
        attempt,
        stream: Stream::Stdout,
        seq,
        bytes: Bytes::from_static(b"a line\n"),
    }
}

async fn jobs_and_logs(rows: &Rows, watched: &mut Watched<'_>) {
    let job = new_job();
    let keyed = NewJob {
        job: job.clone(),
        key: Some((IdempotencyKey("once".into()), Fingerprint("f".into()))),
    };
    watched
        .call("a job", &["insert jobs"], rows.jobs.insert(vec![keyed.clone()]))
        .await;
    let again = rows.jobs.insert(vec![keyed]);
    watched
        .call("the same job again", &["insert jobs", "find jobs"], again)
        .await;
    let commit = rows.jobs.commit(vec![next_of(&job)]);
    let answers = watched.call("a change", &["update jobs"], commit).await;
    assert_eq!(answers, [Ok(())]);
    let late = Commit {
        expected: Revision(99),
        ..next_of(&job)
    };
    let commit = rows.jobs.commit(vec![late]);
    watched
        .call("a change too late", &["update jobs", "find jobs"], commit)
        .await;

    let (attempt, now) = (AttemptId::random(), SystemClock.now());
    let chunks = (0..3).map(|seq| chunk(attempt, seq)).collect();
    let append = rows.logs.append(chunks, now);
    watched.call("output", &["insert jobLogs"], append).await;
    let purge = rows.logs.purge(attempt);
    watched.call("output that goes", &["delete jobLogs"], purge).await;
}

async fn workers_and_terms(rows: &Rows, watched: &mut Watched<'_>) {
    let (mut worker, now) = (testing::worker("node-1"), SystemClock.now());
    let session = SessionId::random();
    (worker.session, worker.conn) = (Some(session), 1);
    let opened = rows.workers.open_session(session, &worker.id, now);
    watched.call("a session", &["insert heartbeats"], opened).await;
    watched
        .call("a hello", &["update workers"], rows.workers.put(&worker, None))
        .await;
    let resumed = rows.workers.resume_session(session, &worker.id);
    let resumed = watched
        .call("a session that goes on", &["update heartbeats"], resumed)
        .await;
    let conn = resumed.unwrap().conn;
    let worker = common::worker::Worker { conn, ..worker };
    let put = rows.workers.put(&worker, Some(session));
    watched.call("a hello again", &["update workers"], put).await;
    let beats = [Beat { session, conn }];
    watched
        .call("a renewal", &["update heartbeats"], rows.workers.beat(&beats))
        .await;
    let state = (worker.condition.clone(), worker.load.clone());
    for state in [None, Some(state)] {
        let words = AgentWords {
            session,
            conn,
            heard_at: now,
            state,
        };
        let refresh = rows.workers.refresh(&worker.id, &words);
        assert!(watched.call("words", &["update workers"], refresh).await);
    }
    let draining = rows.workers.set_draining(&worker.id, true);
    watched
        .call("draining", &["findAndModify workers"], draining)
        .await;
    let lost = rows.workers.declare_lost(session, 1);
    watched.call("a lost session", &["update heartbeats"], lost).await;

    watched
        .call("a term", &["findAndModify terms"], rows.terms.begin())
        .await;
}

async fn files(rows: &Rows, watched: &mut Watched<'_>) {
    let new = |name: &str| NewFile {
        id: FileId::generate(SystemClock.now()),
        account: testing::account("acme"),
        owner: UserId::new("alice").unwrap(),
        purpose: FilePurpose::Upload,
        name: name.to_owned(),
        content_type: "application/octet-stream".to_owned(),
        created_at: SystemClock.now(),
    };
    let file = new("kept.bin");
    let id = file.id;
    let begun = rows.files.create(file);
    let mut writer = watched.call("a file", &["update files.unfinished"], begun).await;
    let bytes = Bytes::from(vec![7; FILE_BYTES]);
    watched
        .call("its bytes", &["insert files.chunks"], writer.write(bytes))
        .await;
    let sent = [
        "insert files.chunks",
        "insert files.files",
        "delete files.unfinished",
    ];
    watched.call("its end", &sent, writer.finish(None)).await;
    let sent = [
        "update files.unfinished",
        "delete files.files",
        "delete files.chunks",
        "delete files.unfinished",
    ];
    watched
        .call("a file that goes", &sent, rows.files.delete(id))
        .await;

    let begun = rows.files.create(new("given-up.bin"));
    let mut writer = watched
        .call("another file", &["update files.unfinished"], begun)
        .await;
    let bytes = Bytes::from(vec![7; FILE_BYTES]);
    watched
        .call("its bytes", &["insert files.chunks"], writer.write(bytes))
        .await;
    drop(writer);
    let sent = ["delete files.chunks", "delete files.unfinished"];
    watched.finds("a file given up", &sent, &mut Vec::new()).await;
}

async fn identity(rows: &Rows, watched: &mut Watched<'_>) {
    let (identity, now) = (&rows.identity, SystemClock.now());
    let (account, user) = (testing::account("acme"), UserId::new("alice").unwrap());
    let record = Account {
        id: account.clone(),
        name: "Acme".into(),
        plan: "free".into(),
        weight: 1,
        log_bytes_max: 1,
        running_max: None,
        waiting_max: None,
        created_at: now,
    };
    let created = identity.create_account(&record);
    watched.call("an account", &["insert accounts"], created).await;
    let record = User {
        id: user.clone(),
        account: account.clone(),
        name: "alice".into(),
        email: None,
        role: Role::User,
        password_hash: "old".into(),
        disabled: false,
        created_at: now,
        last_login_at: None,
    };
    let created = identity.create_user(&record);
    watched.call("a user", &["insert users"], created).await;
    let changed = identity.set_password(&user, "old", "new");
    assert!(watched.call("a password", &["update users"], changed).await);
    let changed = identity.set_disabled(&user, true);
    assert!(
        watched
            .call("a user who may not", &["update users"], changed)
            .await
    );
    watched
        .call("how many users", &["count users"], identity.count_users())
        .await;

    let ended = common::time::Timestamp::from_millis(1);
    let login = |absolute_end| Login {
        id: LoginId::generate(now),
        user: user.clone(),
        created_at: now,
        idle_end: absolute_end,
        absolute_end,
        revoked: false,
    };
    let old = login(ended);
    let created = identity.create_login(&old);
    watched.call("a sign-in", &["insert logins"], created).await;
    let new = login(now);
    let created = identity.create_login(&new);
    let sent = ["insert logins", "delete logins"];
    watched.call("a sign-in after an ended one", &sent, created).await;
    let touched = identity.touch_login(new.id, now);
    assert!(
        watched
            .call("a sign-in in use", &["update logins"], touched)
            .await
    );
    let revoked = identity.revoke_login(new.id);
    watched.call("a sign-out", &["update logins"], revoked).await;
    let revoked = identity.revoke_logins_of(&user, None);
    watched.call("all sign-ins", &["update logins"], revoked).await;

    let key = ApiKey {
        id: ApiKeyId::generate(now),
        account,
        user,
        role: Role::User,
        name: "ci".into(),
        secret_sha256: "00".into(),
        created_at: now,
        expires_at: None,
        revoked: false,
    };
    let created = identity.create_api_key(&key);
    watched.call("a key", &["insert apiKeys"], created).await;
    let revoked = identity.revoke_api_key(key.id);
    assert!(
        watched
            .call("a key that ends", &["update apiKeys"], revoked)
            .await
    );
}

/// Whether a write of the driver's own carries the number that a server's retryable writes need.
async fn the_driver_asks_for_retries(tap: &Tap, option: &str) -> bool {
    let client = mongodb::Client::with_uri_str(tap.uri(option).expose())
        .await
        .unwrap();
    let own = client
        .default_database()
        .unwrap()
        .collection::<Document>("of_the_test");
    tap.taken();
    own.insert_one(doc! { "x": 1 }).await.unwrap();
    let sent = tap.taken();
    let insert = sent.iter().find(|command| name(command) == "insert");
    insert.unwrap().contains_key("txnNumber")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_waits_for_the_journals_of_a_majority_and_none_leans_on_the_servers_retries() {
    for option in ["", "retryWrites=true", "retryWrites=false"] {
        let database = Database::shared().await;
        let tap = Tap::before(&database).await;
        // The control: the tap shows the number where one is, and the switch is the driver's own.
        let asks = the_driver_asks_for_retries(&tap, option).await;
        assert_eq!(asks, option != "retryWrites=false", "{option}");

        let mut watched = Watched { tap: &tap, seen: 0 };
        let rows = open(&tap.uri(option)).await.unwrap();
        let made = ["createIndexes jobs", "createIndexes heartbeats", "insert schema"];
        watched.finds("a start", &made, &mut tap.taken()).await;
        jobs_and_logs(&rows, &mut watched).await;
        workers_and_terms(&rows, &mut watched).await;
        files(&rows, &mut watched).await;
        identity(&rows, &mut watched).await;
        let seen = watched.seen;
        assert!(seen > 50, "{seen} commands were looked at");
        rows.closing.close().await;
    }
}

/// What stands for a store that is not waiting for its writes: the check is no check if it lets this pass.
#[test]
fn a_write_that_waits_for_nobody_is_found() {
    let patient = doc! { "insert": "jobs", "writeConcern": { "w": "majority", "j": true } };
    keeps_the_promises("patient", &patient);
    let mut retried = patient.clone();
    retried.insert("txnNumber", 1_i64);
    let hasty = [
        doc! { "insert": "jobs" },
        doc! { "update": "jobs", "writeConcern": { "w": "majority" } },
        doc! { "delete": "jobs", "writeConcern": { "w": 1, "j": true } },
        doc! { "drop": "jobs" },
        doc! { "find": "jobs" },
        retried,
    ];
    for command in hasty {
        let found = std::panic::catch_unwind(|| keeps_the_promises("hasty", &command));
        assert!(found.is_err(), "this passes: {command:?}");
    }
}
