//! A user of Redis with the rights that docs/OPERATIONS.md tells can do all that the programs do; one that lacks any of
//! them is refused at the start, with what it lacks and the mend.

use std::time::Duration;

use common::secret::Secret;
use common::store::Topic;
use common::time::{Clock, SharedClock, SystemClock};
use storage::conformance::redis_server::RedisServer;
use storage::redis_coord::{Config, connect};
use tokio::time::timeout;

use crate::backend::{EmbeddedAndRedis, PATIENT, answers, on_servers};
use crate::refused::{contains_all, said};

storage::coordination_suite!(documented);

const OPERATIONS: &str = include_str!("../../../docs/OPERATIONS.md");

/// Rights that only some servers or settings need.
const OPTIONAL: [&str; 3] = ["+config|get", "+cluster|slots", "+select"];

/// The words of the page's line.
fn line() -> Vec<&'static str> {
    let mut lines = OPERATIONS.lines().map(str::trim);
    let found = lines.find(|line| line.starts_with("ACL SETUSER jobworker "));
    found
        .expect("docs/OPERATIONS.md has the line")
        .split(' ')
        .collect()
}

/// The user as these words make it, and nothing of what it was before.
async fn make(server: &RedisServer, words: &[&str]) {
    let _: i64 = server.ask(&["ACL", "DELUSER", "jobworker"]).await.unwrap();
    server.ask::<()>(words).await.unwrap();
}

fn url(server: &RedisServer) -> String {
    let password = line()
        .into_iter()
        .find_map(|word| word.strip_prefix('>'))
        .unwrap();
    let user = format!("redis://jobworker:{password}@");
    server.url().replace("redis://", &user)
}

async fn documented() -> EmbeddedAndRedis {
    let server = RedisServer::start().await;
    make(&server, &line()).await;
    let config = Config {
        deadlines: PATIENT,
        ..Config::new(url(&server))
    };
    on_servers(config, server.url(), vec![server]).await
}

#[tokio::test]
async fn each_right_that_is_missing_is_told_by_name_with_the_mend() {
    let server = RedisServer::start().await;
    let line = line();
    let mend = line[line.iter().position(|word| word.starts_with('~')).unwrap()..].join(" ");
    let mut seen = 0;
    for missing in line.iter().filter(|word| word.starts_with('+')) {
        let words: Vec<&str> = line.iter().copied().filter(|word| word != missing).collect();
        make(&server, &words).await;
        let said_of = said(&url(&server)).await;
        if OPTIONAL.contains(missing) {
            assert_eq!(said_of, "nothing", "{missing}");
            continue;
        }
        let command = missing[1..].to_uppercase().replace('|', " ");
        let told = format!("does not allow its user `{command}");
        contains_all(&said_of, &[&told, "REDIS_URL", "ACL SETUSER", &mend]);
        assert!(!said_of.contains("password"), "{said_of}");
        seen += 1;
    }
    assert!(seen > 20, "{seen}");
}

#[tokio::test]
async fn keys_and_channels_of_another_name_are_told_with_the_mend() {
    let server = RedisServer::start().await;
    for (not, instead, told) in [
        ("~{jw}:*", "resetkeys", "SET {jw}:probe:text"),
        // the hash tag's braces forgotten
        ("~{jw}:*", "~jw:*", "SET {jw}:probe:text"),
        ("~{jw}:*", "%R~{jw}:*", "SET {jw}:probe:text"),
        ("&{jw}:*", "resetchannels", "PUBLISH {jw}:hints"),
        ("&{jw}:*", "&hints", "PUBLISH {jw}:hints"),
    ] {
        let line = line().into_iter();
        let words: Vec<&str> = line
            .map(|word| if word == not { instead } else { word })
            .collect();
        make(&server, &words).await;
        let said = said(&url(&server)).await;
        contains_all(&said, &[told, "no permissions", "REDIS_URL", "~{jw}:* &{jw}:*"]);
    }
}

#[tokio::test]
async fn another_database_needs_its_right_and_a_wrong_password_is_told_as_one() {
    let server = RedisServer::start().await;
    make(&server, &line()).await;
    let other = format!("{}1", url(&server));
    assert_eq!(said(&other).await, "nothing");
    let words: Vec<&str> = line().into_iter().filter(|word| *word != "+select").collect();
    make(&server, &words).await;
    contains_all(&said(&other).await, &["`SELECT`", "no permissions", "REDIS_URL"]);

    let wrong = server.url().replace("redis://", "redis://jobworker:wrong@");
    let said = said(&wrong).await;
    contains_all(
        &said,
        &["refused this user", "correct name and password in REDIS_URL"],
    );
    assert!(!said.contains("ACL SETUSER"), "{said}");
}

#[tokio::test]
async fn a_right_taken_away_in_operation_is_told_by_name_and_all_comes_back_with_it() {
    let server = RedisServer::start().await;
    make(&server, &line()).await;
    let config = Config {
        url: Secret::new(url(&server)),
        deadlines: PATIENT,
        ..Config::new("")
    };
    let clock: SharedClock = std::sync::Arc::new(SystemClock);
    let program = connect(&config, &clock).await.unwrap();
    let change = async |rule: &str| {
        let words = ["ACL", "SETUSER", "jobworker", rule];
        server.ask::<()>(&words).await.unwrap();
    };
    change("-hlen").await;
    let begun = SystemClock.mono();
    loop {
        let error = program.queue.len().await.unwrap_err();
        let why = std::error::Error::source(&error).unwrap().to_string();
        if why.contains("`HLEN {jw}:probe:hash`") && why.contains("REDIS_URL") {
            break;
        }
        let waited = SystemClock.mono().since(begun);
        assert!(waited < Duration::from_secs(30), "not told: {why}");
    }
    change("+hlen").await;
    answers(&program).await;
    let mut heard = program.hints.subscribe();
    program.hints.send(Topic::Capacity);
    let next = timeout(Duration::from_secs(30), heard.next()).await;
    assert_eq!(next.expect("a hint arrives"), Some(Topic::Capacity));
}
