//! Both servers behind TLS, with certificates from an authority of the operator's own.

use std::net::TcpListener;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use common::job::StateName;
use common::log::Stream;
use common::tasks::Tasks;
use jobworker_e2e::certificates::Certificates;
use jobworker_e2e::cluster::{Cluster, Settings};
use jobworker_e2e::door::Door;
use jobworker_e2e::process::program;
use jobworker_e2e::sim::{self, Simulated};
use jobworker_e2e::wait::LONG;
use std::time::Duration;
use storage::conformance::mongo_server;
use storage::conformance::redis_server::RedisServer;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const JOBS: usize = 5;

struct Servers {
    certificates: Certificates,
    mongo: mongo_server::Server,
    _redis: RedisServer,
    redis_url: String,
}

impl Servers {
    async fn start() -> Result<Self> {
        let certificates = Certificates::new()?;
        let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
        let [authority, server, key] = [
            certificates.authority(),
            certificates.server(),
            certificates.key(),
        ]
        .map(text);
        let mongo = mongo_server::Server::with(&["--tls-cert-file", &server, "--tls-key-file", &key]).await;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let redis = RedisServer::with(&[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &server,
            "--tls-key-file",
            &key,
            "--tls-ca-cert-file",
            &authority,
            "--tls-auth-clients",
            "no",
        ])
        .await;
        Ok(Self {
            certificates,
            mongo,
            _redis: redis,
            redis_url: format!("rediss://127.0.0.1:{port}"),
        })
    }

    fn mongo_uri(&self) -> String {
        let authority = self.certificates.authority();
        format!(
            "{}?tls=true&tlsCAFile={}",
            self.mongo.uri("jobworker").expose(),
            authority.display()
        )
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_live_on_servers_behind_tls() -> Result<()> {
    let servers = Servers::start().await?;
    let authority = servers.certificates.authority();
    let cluster = Cluster::without_waiting(Settings {
        agent: false,
        servers: Some((servers.mongo_uri(), servers.redis_url.clone())),
        environment: vec![("SSL_CERT_FILE".to_owned(), authority.display().to_string())],
        ..Settings::default()
    })
    .await?;
    let client = cluster.client()?;
    let tasks = Tasks::new();
    let door = Door::open(cluster.workers_address()?, &tasks).await?;
    let agent = Simulated::start(&cluster, door.address(), 2, Duration::ZERO)?;
    client.worker_ready(sim::POOL).await?;
    for id in client.submit_all((0..JOBS).map(|_| sim::job()).collect()).await? {
        let job = client.ended(id, LONG).await?;
        ensure!(job.state == StateName::Succeeded, "{job:?}");
        ensure!(client.log(id, Stream::Stdout).await? == sim::OUTPUT);
    }
    agent.stop().await?;
    tasks.stop();
    cluster.stop().await
}

#[tokio::test]
async fn a_server_that_nobody_vouches_for_is_not_spoken_to() -> Result<()> {
    let servers = Servers::start().await?;
    let trusted = servers.mongo_uri();
    let unknown = format!("{}?tls=true", servers.mongo.uri("jobworker").expose());
    let good_redis = RedisServer::start().await;
    for (mongo, redis, named) in [
        (
            &trusted,
            servers.redis_url.clone(),
            ["REDIS_URL", "certificate", "SSL_CERT_FILE"],
        ),
        (
            &unknown,
            good_redis.url(),
            ["MONGODB_URI", "certificate", "UnknownIssuer"],
        ),
    ] {
        let output = Command::new(program("jobworker-scheduler")?)
            .args(["--listen", "127.0.0.1:0"])
            .env_remove("SSL_CERT_FILE")
            .envs([
                ("WORKER_TOKEN_SECRET", SECRET),
                ("MONGODB_URI", mongo),
                ("REDIS_URL", &redis),
            ])
            .output()
            .context("starting the scheduler")?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1), "{:?}: {text}", output.status);
        for word in named {
            ensure!(text.contains(word), "`{word}` is not in: {text}");
        }
    }
    Ok(())
}
