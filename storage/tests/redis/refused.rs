//! A Redis that cannot be used is refused at the start, with a sentence that says what to do.

use std::error::Error;
use std::sync::Arc;

use common::time::{SharedClock, SystemClock};
use storage::conformance::redis_server::RedisServer;
use storage::redis_coord::{Config, connect};

use crate::backend::PATIENT;

/// Everything that the error says, causes included.
pub async fn said(url: &str) -> String {
    let config = Config {
        deadlines: PATIENT,
        ..Config::new(url)
    };
    let clock: SharedClock = Arc::new(SystemClock);
    let Err(error) = connect(&config, &clock).await else {
        return "nothing".into();
    };
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        said = format!("{said}: {error}");
        cause = error.source();
    }
    said
}

pub fn contains_all(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
}

#[tokio::test]
async fn a_server_that_evicts_is_refused_with_the_setting_and_the_mend() {
    for policy in ["allkeys-lru", "volatile-lru"] {
        let server = RedisServer::with(&["--maxmemory", "10mb", "--maxmemory-policy", policy]).await;
        contains_all(
            &said(&server.url()).await,
            &["maxmemory-policy", policy, "noeviction"],
        );
    }
}

#[tokio::test]
async fn what_is_no_address_is_refused_and_not_repeated() {
    for wrong in [
        "127.0.0.1:6379",
        "http://x:hidden@h/",
        "redis://x:hidden@h:port",
        "",
    ] {
        let said = said(wrong).await;
        contains_all(&said, &["REDIS_URL", "redis://[user:password@]host[:port]"]);
        assert!(!said.contains("hidden"), "{said}");
    }
}

#[tokio::test]
async fn an_address_where_nobody_answers_is_named_without_the_password() {
    let mut server = RedisServer::start().await;
    server.kill();
    let address = format!("127.0.0.1:{}", server.port());
    let said = said(&format!("redis://:hidden@{address}/")).await;
    contains_all(&said, &[&address, "REDIS_URL"]);
    assert!(!said.contains("hidden"), "{said}");
}

#[tokio::test]
async fn a_wrong_password_or_none_is_told_as_such() {
    let server = RedisServer::start().await;
    let set = ["CONFIG", "SET", "requirepass", "right"];
    server.ask::<()>(&set).await.unwrap();
    for (user, database) in [("", ""), ("", "1"), (":wrong@", ""), (":wrong@", "1")] {
        let url = server.url().replace("redis://", &format!("redis://{user}"));
        let url = format!("{url}{database}");
        contains_all(&said(&url).await, &["refused this user", "REDIS_URL"]);
    }
    let url = server.url().replace("redis://", "redis://:right@");
    assert_eq!(said(&url).await, "nothing");
}

#[tokio::test]
async fn a_server_without_tls_is_told_where_tls_was_asked_for() {
    let server = RedisServer::start().await;
    let url = server.url().replace("redis://", "rediss://");
    contains_all(&said(&url).await, &["REDIS_URL", "rediss://"]);
}

#[tokio::test]
async fn what_is_no_redis_is_told_as_that() {
    use tokio::io::AsyncWriteExt as _;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}/", listener.local_addr().unwrap());
    let other = async {
        let (mut client, _) = listener.accept().await.unwrap();
        client
            .write_all(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
            .await
            .unwrap();
        // The connection stays until the other side has had enough.
        std::future::pending::<()>().await;
        drop(client);
    };
    let said = tokio::select! {
        said = said(&url) => said,
        () = other => String::new(),
    };
    contains_all(&said, &["no Redis", "REDIS_URL"]);
}

#[tokio::test]
async fn a_server_that_hangs_up_is_told_from_one_that_is_not_there() {
    let server = RedisServer::start().await;
    let client = redis::Client::open(server.url()).unwrap();
    let mut only = client.get_multiplexed_async_connection().await.unwrap();
    let set = redis::cmd("CONFIG")
        .arg("SET")
        .arg("maxclients")
        .arg(1)
        .to_owned();
    set.exec_async(&mut only).await.unwrap();
    let said = said(&server.url()).await;
    contains_all(&said, &["hangs up", "protected mode", "maxclients", "rediss://"]);
    assert!(!said.contains("start it"), "{said}");
}

#[tokio::test]
async fn a_replica_is_refused() {
    let primary = RedisServer::start().await;
    let port = primary.port().to_string();
    let replica = RedisServer::with(&["--replicaof", "127.0.0.1", &port]).await;
    contains_all(&said(&replica.url()).await, &["replica", "primary"]);
}

#[tokio::test]
async fn a_managed_server_that_forbids_config_is_used() {
    let server = RedisServer::start().await;
    let user = "ACL SETUSER managed on >pass ~* &* +@all -config";
    let user: Vec<&str> = user.split(' ').collect();
    server.ask::<()>(&user).await.unwrap();
    let url = server.url().replace("redis://", "redis://managed:pass@");
    assert_eq!(said(&url).await, "nothing");
}

#[tokio::test]
async fn a_prefix_that_breaks_the_hash_tag_is_refused() {
    let server = RedisServer::start().await;
    let config = Config {
        prefix: "a}b".into(),
        ..Config::new(server.url())
    };
    let clock: SharedClock = Arc::new(SystemClock);
    assert!(connect(&config, &clock).await.is_err());
}
