//! Settings that cannot be used: the programs end at once, with a sentence that names the setting and the mend.

use std::process::Command;

use anyhow::{Result, ensure};
use jobworker_e2e::process::program;
use storage::conformance::redis_server::RedisServer;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn refusal(binary: &str, environment: &[(&str, &str)]) -> Result<String> {
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
        .args(["--listen", "127.0.0.1:0"])
        .envs(environment.iter().copied())
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{:?}: {text}", output.status);
    Ok(text)
}

#[test]
fn without_a_secret_of_its_own_no_program_starts() -> Result<()> {
    for (binary, name) in [
        ("jobworker-api", "JWT_SECRET"),
        ("jobworker-scheduler", "WORKER_TOKEN_SECRET"),
    ] {
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
        for (binary, secret) in [
            ("jobworker-api", "JWT_SECRET"),
            ("jobworker-scheduler", "WORKER_TOKEN_SECRET"),
        ] {
            let text = refusal(
                binary,
                &[(secret, SECRET), ("MONGODB_URI", uri), ("REDIS_URL", redis)],
            )?;
            ensure!(text.contains(named), "{text}");
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
