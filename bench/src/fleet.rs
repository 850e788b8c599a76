//! The programs of their own, as operators run them: one `jobworker-api` and some `jobworker-scheduler` over a database
//! and a Redis of this measurement's own.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use common::protocol::token::FleetSecrets;
use common::secret::Secret;
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use storage::conformance::redis_server::RedisServer;
use tempfile::TempDir;
use tokio::process::Child;

use crate::client::Client;
use crate::process;
use crate::servers::{Durability, Mongo, tied};
use crate::simulated::Door;
use crate::stats::Stopwatch;

/// Also with a million jobs, on a machine that compiles beside.
const READY_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(5);

pub struct Fleet {
    pub client: Client,
    pub api: Program,
    pub schedulers: Vec<Program>,
    secrets: Arc<FleetSecrets>,
    pub redis: RedisServer,
    pub mongo: Mongo,
    _folder: TempDir,
}

impl Fleet {
    /// Fresh servers and programs, all ready.
    ///
    /// # Errors
    /// One does not become ready; with what it said.
    pub async fn start(schedulers: usize, durability: Durability) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("jobworker-bench-").tempdir()?;
        let (mongo, redis) = (Mongo::start(durability).await?, RedisServer::start().await);
        let secret = HEXLOWER.encode(&rand::random::<[u8; 32]>());
        let settings = BTreeMap::from([
            ("MONGODB_URI", mongo.uri("jobworker")),
            ("REDIS_URL", redis.url()),
            ("JWT_SECRET", HEXLOWER.encode(&rand::random::<[u8; 32]>())),
            ("WORKER_TOKEN_SECRET", secret.clone()),
            ("WORKER_CONNECTIONS_MAX", "20000".to_owned()),
            ("RATE_LIMIT_MAX", "1000000".to_owned()),
            ("RUST_LOG", "info".to_owned()),
        ]);
        let password = folder.path().join("password");
        let program =
            |name: String, binary, arguments| Program::new(name, binary, arguments, &settings, &folder);
        let arguments = vec!["--password-file".to_owned(), password.display().to_string()];
        let mut api = program("api".to_owned(), "jobworker-api", arguments)?;
        let mut replicas = Vec::new();
        for number in 0..schedulers {
            replicas.push(program(
                format!("scheduler-{number}"),
                "jobworker-scheduler",
                vec![],
            )?);
        }
        api.start().await?;
        for scheduler in &mut replicas {
            scheduler.start().await?;
        }
        let client = sign_in(&api, &password).await?;
        Ok(Self {
            client,
            api,
            schedulers: replicas,
            secrets: Arc::new(fleet_secrets(&secret)?),
            redis,
            mongo,
            _folder: folder,
        })
    }

    pub fn door(&self) -> Door {
        Door {
            addresses: self.schedulers.iter().map(|one| one.address.clone()).collect(),
            fleet: Arc::clone(&self.secrets),
        }
    }

    /// The number of the replica that began the last term, once there is one.
    ///
    /// # Errors
    /// Nobody leads.
    pub async fn leader(&self) -> anyhow::Result<usize> {
        let watch = Stopwatch::start();
        loop {
            let terms = self.schedulers.iter().map(Program::last_term).enumerate();
            match terms.max_by_key(|(_, term)| *term) {
                Some((number, term)) if term > 0 && self.schedulers[number].runs() => return Ok(number),
                _ => {}
            }
            anyhow::ensure!(watch.read() < READY_WITHIN, "nobody leads");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// What the programs said last, for errors.
    pub fn last_lines(&self) -> String {
        let programs = std::iter::once(&self.api).chain(&self.schedulers);
        let said = programs.map(|program| format!("{} said last:\n{}", program.binary, program.last_lines()));
        said.collect::<Vec<_>>().join("\n")
    }
}

async fn sign_in(api: &Program, password: &PathBuf) -> anyhow::Result<Client> {
    let watch = Stopwatch::start();
    loop {
        let found = std::fs::read_to_string(password).unwrap_or_default();
        if !found.is_empty() {
            match Client::sign_in(&api.address, found.trim()).await {
                Ok((client, _)) => return Ok(client),
                Err(error) if watch.read() >= READY_WITHIN => return Err(error),
                Err(_) => {}
            }
        }
        anyhow::ensure!(
            watch.read() < READY_WITHIN,
            "nobody can sign in: {}",
            api.last_lines()
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// As the scheduler program makes them from its setting.
fn fleet_secrets(secret: &str) -> anyhow::Result<FleetSecrets> {
    let digest = Sha256::new_with_prefix(b"jobworker key id\n")
        .chain_update(secret.as_bytes())
        .finalize();
    let id = format!("k{}", HEXLOWER.encode(&digest[..4]));
    Ok(FleetSecrets::new(vec![(
        id,
        Secret::new(secret.as_bytes().to_vec()),
    )])?)
}

/// One program of the fleet. It keeps its address through kills and starts.
pub struct Program {
    binary: &'static str,
    pub address: String,
    log: PathBuf,
    arguments: Vec<String>,
    settings: BTreeMap<&'static str, String>,
    child: Option<Child>,
}

impl Program {
    fn new(
        name: String,
        binary: &'static str,
        arguments: Vec<String>,
        settings: &BTreeMap<&'static str, String>,
        folder: &TempDir,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            binary,
            address: TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.to_string(),
            log: folder.path().join(format!("{name}.log")),
            arguments,
            settings: settings.clone(),
            child: None,
        })
    }

    /// Starts it and waits until it takes connections.
    ///
    /// # Errors
    /// It ends before, or takes too long.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = tied(&process::sibling(self.binary)?);
        for name in [
            "LISTEN",
            "PORT",
            "DEFAULT_IMAGE",
            "ENFORCE_TLS",
            "ALLOWED_ORIGINS",
        ] {
            command.env_remove(name);
        }
        command
            .envs(&self.settings)
            .args(["--listen", &self.address])
            .args(&self.arguments)
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = self.child.insert(command.spawn().context("starting a program")?);
        let watch = Stopwatch::start();
        while tokio::net::TcpStream::connect(&self.address).await.is_err() {
            if let Some(status) = child.try_wait()? {
                anyhow::bail!("{} ended with {status}: {}", self.binary, self.last_lines());
            }
            anyhow::ensure!(watch.read() < READY_WITHIN, "{} does not listen", self.binary);
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// It does not run.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("it does not run")?;
        Ok(child.kill().await?)
    }

    /// # Errors
    /// It does not run.
    pub fn pid(&self) -> anyhow::Result<u32> {
        self.child.as_ref().and_then(Child::id).context("it does not run")
    }

    pub const fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// How many lines of its log have `text`.
    pub fn said(&self, text: &str) -> usize {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains(text)).count()
    }

    /// The number of the last term that it began; 0 before the first.
    fn last_term(&self) -> u64 {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let begun = log.lines().filter(|line| line.contains("a term begins"));
        let number = |line: &str| {
            let (_, rest) = line.split_once("Epoch(")?;
            rest.split_once(')')?.0.parse().ok()
        };
        begun.filter_map(number).max().unwrap_or(0)
    }

    pub fn last_lines(&self) -> String {
        process::tail(&self.log)
    }
}
