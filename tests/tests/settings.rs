//! Settings that cannot be used: the programs end at once, with a sentence that names the setting and the mend.

use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use common::config::StoreConfig;
use common::secret::Secret;
use common::time::SystemClock;
use jobworker_e2e::process::program;
use storage::conformance::mongo_server::{Database, Server};
use storage::conformance::redis_server::RedisServer;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// The programs of their own, and the secret of each.
const PROGRAMS: [(&str, &str); 2] = [
    ("jobworker-api", "JWT_SECRET"),
    ("jobworker-scheduler", "WORKER_TOKEN_SECRET"),
];

fn refusal(binary: &str, environment: &[(&str, &str)]) -> Result<String> {
    said(binary, &["--listen", "127.0.0.1:0"], environment)
}

/// What a program says when it ends by itself, as it has to.
fn said(binary: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Result<String> {
    let mut command = Command::new(program(binary)?);
    for name in [
        "MONGODB_URI",
        "REDIS_URL",
        "JWT_SECRET",
        "WORKER_TOKEN_SECRET",
        "PORT",
    ] {
        command.env_remove(name);
    }
    let output = command
        .args(arguments)
        .envs(environment.iter().copied())
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{:?}: {text}", output.status);
    Ok(text)
}

/// `jobworker up` over servers, without an agent.
fn up_refusal(environment: &[(&str, &str)]) -> Result<String> {
    let state = tempfile::tempdir()?;
    let state = state
        .path()
        .to_str()
        .context("a temporary folder has a plain name")?;
    let arguments = ["up", "--listen", "127.0.0.1:0", "--worker-listen", "127.0.0.1:0"];
    let arguments = [&arguments[..], &["--no-agent", "--state", state]].concat();
    said("jobworker", &arguments, environment)
}

/// What every program says of these servers.
fn every_refusal(mongo: &str, redis: &str) -> Result<Vec<String>> {
    let servers = [("MONGODB_URI", mongo), ("REDIS_URL", redis)];
    let mut texts = vec![up_refusal(&servers)?];
    for (binary, secret) in PROGRAMS {
        let environment = [&servers[..], &[(secret, SECRET)]].concat();
        texts.push(refusal(binary, &environment)?);
    }
    Ok(texts)
}

fn contains_all(text: &str, parts: &[&str]) -> Result<()> {
    for part in parts {
        ensure!(text.contains(part), "`{part}` is not in: {text}");
    }
    Ok(())
}

#[test]
fn without_a_secret_of_its_own_no_program_starts() -> Result<()> {
    for (binary, name) in PROGRAMS {
        for bad in ["", "short", "change-me-change-me-change-me-change-me"] {
            let text = refusal(binary, &[(name, bad)])?;
            ensure!(text.contains(name) && text.contains("openssl rand"), "{text}");
            ensure!(
                bad.is_empty() || !text.contains(bad),
                "the value is shown: {text}"
            );
        }
    }
    Ok(())
}

#[test]
fn in_development_a_secret_is_made_and_a_bad_one_is_refused_all_the_same() -> Result<()> {
    let nowhere = [("REDIS_URL", "redis://127.0.0.1:1")];
    let arguments = ["--dev", "--listen", "127.0.0.1:0"];
    for (binary, name) in PROGRAMS {
        let text = said(binary, &arguments, &nowhere)?;
        ensure!(
            text.contains("REDIS_URL") && !text.contains(name),
            "without a secret it goes on to its stores: {text}"
        );
        let bad = [&nowhere[..], &[(name, "change-me")]].concat();
        let text = said(binary, &arguments, &bad)?;
        contains_all(&text, &[name, "stands in examples", "openssl rand"])?;
    }
    Ok(())
}

#[tokio::test]
async fn a_store_that_cannot_be_used_is_named() -> Result<()> {
    let server = RedisServer::start().await;
    let redis = server.url();
    // nobody listens on port 1 of this machine
    for (uri, redis, named) in [
        (
            "mongodb://127.0.0.1:1/jobworker",
            "redis://127.0.0.1:1",
            "REDIS_URL",
        ),
        ("mongodb://127.0.0.1:1/jobworker", "not a url", "REDIS_URL"),
        ("not a uri", redis.as_str(), "MONGODB_URI"),
        ("mongodb://127.0.0.1:1/jobworker", redis.as_str(), "MONGODB_URI"),
    ] {
        for text in every_refusal(uri, redis)? {
            contains_all(&text, &[named])?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_user_of_redis_that_may_not_do_enough_is_told_what_it_lacks() -> Result<()> {
    let server = RedisServer::start().await;
    let user = [
        "ACL", "SETUSER", "u", "on", ">hidden", "~*", "&*", "+@all", "-evalsha",
    ];
    server.ask::<()>(&user).await?;
    let redis = server.url().replace("redis://", "redis://u:hidden@");
    let uri = "mongodb://127.0.0.1:1/jobworker";
    let text = refusal(
        "jobworker-scheduler",
        &[
            ("WORKER_TOKEN_SECRET", SECRET),
            ("MONGODB_URI", uri),
            ("REDIS_URL", &redis),
        ],
    )?;
    for part in ["REDIS_URL", "`EVALSHA", "ACL SETUSER", "+evalsha"] {
        ensure!(text.contains(part), "{part} is not in: {text}");
    }
    ensure!(!text.contains("hidden"), "the password is shown: {text}");
    Ok(())
}

#[tokio::test]
async fn a_database_that_is_another_ones_is_refused_by_every_program_with_what_to_do() -> Result<()> {
    let server = RedisServer::start().await;
    for (into, document, parts) in [
        (
            "schema",
            r#"{ "_id": "schema", "version": 99 }"#,
            [
                "is of schema version 99, this program knows version 3",
                "run the newer program",
            ],
        ),
        (
            "schema",
            r#"{ "_id": "schema", "version": 2 }"#,
            [
                "is of schema version 2, this program knows version 3",
                "run the program that wrote it",
            ],
        ),
        (
            "schema",
            r#"{ "_id": "schema", "version": "spring" }"#,
            [
                "a collection `schema` that another program has filled",
                "name an empty database",
            ],
        ),
        (
            "users",
            r#"{ "_id": 1, "name": "somebody" }"#,
            [
                "a collection `users` that another program has filled",
                "name an empty database",
            ],
        ),
    ] {
        let database = Database::shared().await;
        let insert = format!(r#"{{ "insert": "{into}", "documents": [{document}] }}"#);
        database.command(&insert).await;
        for text in every_refusal(database.uri().expose(), &server.url())? {
            contains_all(&text, &["MONGODB_URI"])?;
            contains_all(&text, &parts)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_right_that_is_missing_is_told_with_the_setting_and_the_mend() -> Result<()> {
    let redis = RedisServer::start().await;
    let strict = Server::with(&["--auth"]).await;
    for text in every_refusal(strict.uri("jobworker").expose(), &redis.url())? {
        contains_all(
            &text,
            &["MONGODB_URI", "a right is missing", "grant the role `readWrite`"],
        )?;
    }
    Ok(())
}

#[tokio::test]
async fn a_first_password_that_cannot_be_told_is_not_made() -> Result<()> {
    let (redis, database) = (RedisServer::start().await, Database::shared().await);
    let folder = tempfile::tempdir()?;
    let nowhere = folder.path().join("missing/password");
    let file = nowhere.to_str().context("a temporary folder has a plain name")?;
    let (mongo_url, redis_url) = (database.uri(), redis.url());
    let text = said(
        "jobworker-api",
        &["--listen", "127.0.0.1:0", "--password-file", file],
        &[
            ("JWT_SECRET", SECRET),
            ("MONGODB_URI", mongo_url.expose()),
            ("REDIS_URL", &redis_url),
        ],
    )?;
    contains_all(&text, &[file, "--password-file"])?;
    let redis_url = Secret::new(redis_url);
    let config = StoreConfig::MongoRedis { mongo_url, redis_url };
    let stores = storage::open(&config, Arc::new(SystemClock)).await?;
    ensure!(
        stores.identity.count_users().await? == 0,
        "nobody knows its password"
    );
    Ok(())
}

#[test]
fn one_server_without_the_other_is_told() -> Result<()> {
    for (set, missing) in [("MONGODB_URI", "REDIS_URL"), ("REDIS_URL", "MONGODB_URI")] {
        let text = up_refusal(&[(set, "somewhere")])?;
        contains_all(
            &text,
            &[&format!("{set} is set and {missing} is not"), "set both"],
        )?;
    }
    Ok(())
}

#[test]
fn numbers_out_of_range_are_told_with_the_range() -> Result<()> {
    for (binary, secret, name) in [
        ("jobworker-api", "JWT_SECRET", "RATE_LIMIT_MAX"),
        (
            "jobworker-scheduler",
            "WORKER_TOKEN_SECRET",
            "SCHEDULER_LOCK_TTL_MS",
        ),
    ] {
        let text = refusal(binary, &[(secret, SECRET), (name, "0")])?;
        ensure!(text.contains(name) && text.contains("from "), "{text}");
    }
    Ok(())
}
