//! The programs of their own, as operators run them: `jobworker-api` and `jobworker-scheduler`, several of each, over a
//! real MongoDB-protocol server and a real Redis of this test's own.
//!
//! Each program keeps its address through kills and starts, as behind a load balancer. Agents come in through a
//! [`Door`](crate::door::Door), which the test leads to a scheduler that lives. Nothing outlives the test.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use common::config::StoreConfig;
use common::ids::WorkerId;
use common::protocol::token::WorkerKey;
use common::secret::Secret;
use common::tasks::Tasks;
use data_encoding::HEXLOWER;
use rustix::process::Signal;
use storage::conformance::mongo_server::Server;
use storage::conformance::redis_server::RedisServer;
use tempfile::TempDir;

use crate::client::Client;
use crate::images;
use crate::process::{Running, program};
use crate::proxy::Proxy;
use crate::wait::{LONG, wait_for};

const LOG_LINES_SHOWN: usize = 40;
/// What each program logs once all of it is open.
const SERVES: &str = " serves";

/// How many of each.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub apis: usize,
    pub schedulers: usize,
}

/// The ways of one program to the servers, which can be cut apart from everybody else's.
#[derive(Debug, Clone)]
pub struct Ways {
    pub mongo: Proxy,
    pub redis: Proxy,
}

pub struct Fleet {
    pub mongo: Server,
    pub redis: RedisServer,
    pub apis: Vec<Program>,
    pub schedulers: Vec<Program>,
    environment: Environment,
    folder: TempDir,
    tasks: Tasks,
    stopped: bool,
}

impl Fleet {
    /// Fresh servers and programs, all ready.
    ///
    /// # Errors
    /// When one does not become ready; with what it said.
    pub async fn start(size: Size) -> Result<Self> {
        Self::start_by(size, RedisServer::start().await, false, None).await
    }

    /// As [`Fleet::start`] over that Redis, where each program speaks with each server over a proxy of its own.
    ///
    /// # Errors
    /// As [`Fleet::start`].
    pub async fn start_apart(size: Size, redis: RedisServer) -> Result<Self> {
        Self::start_by(size, redis, true, None).await
    }

    /// As [`Fleet::start_apart`], with the programs that lie in this folder instead of this build's.
    ///
    /// # Errors
    /// As [`Fleet::start`].
    pub async fn start_others(size: Size, programs: PathBuf) -> Result<Self> {
        Self::start_by(size, RedisServer::start().await, true, Some(programs)).await
    }

    async fn start_by(
        size: Size,
        redis: RedisServer,
        apart: bool,
        programs: Option<PathBuf>,
    ) -> Result<Self> {
        let folder = crate::place::folder("fleet")?;
        // Kills count here, and what was acknowledged has to be on the disk by then.
        let mongo = Server::with(&["--sync-on-commit"]).await;
        let environment = Environment {
            mongo: mongo.uri("jobworker").expose().clone(),
            redis: redis.url(),
            jwt_secret: HEXLOWER.encode(&rand::random::<[u8; 32]>()),
            worker_secret: HEXLOWER.encode(&rand::random::<[u8; 32]>()),
            image: images::base()?,
            programs,
        };
        let mut fleet = Self {
            mongo,
            redis,
            apis: Vec::new(),
            schedulers: Vec::new(),
            environment,
            folder,
            tasks: Tasks::new(),
            stopped: false,
        };
        for number in 0..size.apis {
            let api = fleet.program(&format!("api-{number}"), "jobworker-api")?;
            fleet.apis.push(api);
        }
        for number in 0..size.schedulers {
            let scheduler = fleet.program(&format!("scheduler-{number}"), "jobworker-scheduler")?;
            fleet.schedulers.push(scheduler);
        }
        if apart {
            let (mongo, redis) = (fleet.mongo.address().parse()?, fleet.redis.port());
            let redis = SocketAddr::from(([127, 0, 0, 1], redis));
            for program in fleet.apis.iter_mut().chain(&mut fleet.schedulers) {
                program.stand_apart(mongo, redis, &fleet.tasks).await?;
            }
        }
        for program in fleet.apis.iter_mut().chain(&mut fleet.schedulers) {
            program.start()?;
            program.listens().await?;
        }
        Ok(fleet)
    }

    fn program(&self, name: &str, binary: &'static str) -> Result<Program> {
        Ok(Program {
            binary,
            address: free_address()?,
            log: self.folder.path().join(format!("{name}.log")),
            arguments: match binary {
                "jobworker-scheduler" => vec!["--scaled-times".to_owned()],
                _ => vec![
                    "--password-file".to_owned(),
                    self.password_file().display().to_string(),
                ],
            },
            environment: self.environment.clone(),
            ways: None,
            process: None,
            served: 0,
        })
    }

    fn password_file(&self) -> PathBuf {
        self.folder.path().join("password")
    }

    /// The administrator, at this one of the APIs.
    ///
    /// # Errors
    /// When nobody can sign in there.
    pub async fn client(&self, api: usize) -> Result<Client> {
        let api = self.apis.get(api).context("there are fewer APIs")?;
        self.client_at(api.address).await
    }

    /// The administrator, at whatever API stands behind this address.
    ///
    /// # Errors
    /// When nobody can sign in there.
    pub async fn client_at(&self, address: SocketAddr) -> Result<Client> {
        let base = format!("http://{address}");
        wait_for(LONG, "a sign-in", async || {
            let password = std::fs::read_to_string(self.password_file());
            let password = password.map_err(|error| format!("no password yet: {error}"))?;
            let client = Client::new(&base).map_err(|error| error.to_string())?;
            client
                .sign_in("admin", password.trim_end())
                .await
                .map_err(|error| format!("{error:#}"))
        })
        .await
    }

    /// Of a worker of this fleet, as the scheduler program tells it.
    ///
    /// # Errors
    /// When it does not.
    pub fn worker_key(&self, worker: &WorkerId) -> Result<WorkerKey> {
        let mut command = Command::new(self.environment.program("jobworker-scheduler")?);
        self.environment.give(&mut command);
        let output = command.args(["worker-key", worker.as_str()]).output()?;
        if !output.status.success() {
            bail!("worker-key: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(WorkerKey::parse(String::from_utf8(output.stdout)?.trim_end())?)
    }

    /// What its programs keep their jobs in, past every proxy.
    pub fn stores(&self) -> StoreConfig {
        StoreConfig::MongoRedis {
            mongo_url: Secret::new(self.environment.mongo.clone()),
            redis_url: Secret::new(self.environment.redis.clone()),
        }
    }

    /// A folder of this fleet's, for what a test wants to write.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A program like the first scheduler or API, over this Redis; what it says and how it ends, in time.
    ///
    /// # Errors
    /// When it cannot be started, or does not end.
    pub async fn ends_over(&self, binary: &'static str, redis: &str) -> Result<(ExitStatus, String)> {
        let mut program = self.program(&format!("over-{:08x}", rand::random::<u32>()), binary)?;
        redis.clone_into(&mut program.environment.redis);
        program.start()?;
        let process = program.process.as_mut().context("it was started")?;
        let status = process.wait(LONG).await?;
        Ok((status, program.last_lines()))
    }

    /// TERM to all that still run; each has to end well.
    ///
    /// # Errors
    /// When one does not.
    pub async fn stop(mut self) -> Result<()> {
        for program in self.apis.iter_mut().chain(&mut self.schedulers) {
            program.terminate().await?;
        }
        self.tasks.stop();
        self.stopped = true;
        Ok(())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.tasks.stop();
        if self.stopped {
            return;
        }
        for program in self.apis.iter().chain(&self.schedulers) {
            println!("---- {}\n{}", program.log.display(), program.last_lines());
        }
    }
}

#[derive(Debug, Clone)]
struct Environment {
    mongo: String,
    redis: String,
    jwt_secret: String,
    worker_secret: String,
    image: String,
    /// The folder of other programs than this build's.
    programs: Option<PathBuf>,
}

impl Environment {
    fn program(&self, name: &str) -> Result<PathBuf> {
        match &self.programs {
            Some(folder) => Ok(folder.join(name)),
            None => program(name),
        }
    }

    fn give(&self, command: &mut Command) {
        for name in ["LISTEN", "PORT", "ENFORCE_TLS", "ALLOWED_ORIGINS"] {
            command.env_remove(name);
        }
        command
            .env("MONGODB_URI", &self.mongo)
            .env("REDIS_URL", &self.redis)
            .env("JWT_SECRET", &self.jwt_secret)
            .env("WORKER_TOKEN_SECRET", &self.worker_secret)
            .env("DEFAULT_IMAGE", &self.image)
            .env("RATE_LIMIT_MAX", "1000000")
            .env("RUST_LOG", "info");
    }
}

/// One program of the fleet.
#[derive(Debug)]
pub struct Program {
    binary: &'static str,
    pub address: SocketAddr,
    log: PathBuf,
    arguments: Vec<String>,
    environment: Environment,
    ways: Option<Ways>,
    process: Option<Running>,
    /// How often it had said that it serves, before its last start.
    served: usize,
}

impl Program {
    async fn stand_apart(&mut self, mongo: SocketAddr, redis: SocketAddr, tasks: &Tasks) -> Result<()> {
        let ways = Ways {
            mongo: Proxy::open(vec![mongo], tasks).await?,
            redis: Proxy::open(vec![redis], tasks).await?,
        };
        // otherwise the driver asks the server for its address, and goes there past the proxy
        self.environment.mongo = format!(
            "mongodb://{}/jobworker?directConnection=true",
            ways.mongo.address()
        );
        self.environment.redis = format!("redis://{}/", ways.redis.address());
        self.ways = Some(ways);
        Ok(())
    }

    /// Of a fleet whose programs stand apart.
    ///
    /// # Errors
    /// When they do not.
    pub fn ways(&self) -> Result<&Ways> {
        self.ways.as_ref().context("it speaks with its servers directly")
    }

    /// While it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Running::pid)
    }

    /// All that it has logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// # Errors
    /// When it runs already, or cannot be started.
    pub fn start(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("{} runs already", self.log.display());
        }
        self.served = self.said(SERVES);
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(self.environment.program(self.binary)?);
        self.environment.give(&mut command);
        command
            .args(["--listen", &self.address.to_string()])
            .args(&self.arguments);
        command.stdout(log.try_clone()?).stderr(log);
        self.process = Some(Running::start(&mut command)?);
        Ok(())
    }

    /// Until it has opened its stores and takes connections.
    ///
    /// # Errors
    /// When it ends before, or takes too long.
    pub async fn listens(&mut self) -> Result<()> {
        let (address, served, log) = (self.address, self.served, self.log.clone());
        let process = self.process.as_mut().context("it does not run")?;
        let ready = wait_for(LONG, "a program to listen", async || {
            if let Ok(Some(status)) = process.ended() {
                return Ok(Err(status));
            }
            // its port is there before its stores are: who finds none ends again
            if lines_with(&log, SERVES) <= served {
                return Err("it does not say that it serves".to_owned());
            }
            let connected = tokio::net::TcpStream::connect(address).await;
            connected.map(|_| Ok(())).map_err(|error| error.to_string())
        });
        ready
            .await?
            .map_err(|status| anyhow::anyhow!("{} ended with {status}: {}", self.binary, self.last_lines()))
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("it does not run")?.kill()
    }

    /// SIGSTOP or SIGCONT.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.as_ref().context("it does not run")?.signal(signal)
    }

    pub const fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Whether its log has a line with `text`, how often.
    pub fn said(&self, text: &str) -> usize {
        lines_with(&self.log, text)
    }

    /// The number of the last term that it began; 0 before the first.
    pub fn last_term(&self) -> u64 {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let begun = log.lines().filter(|line| line.contains("a term begins"));
        let number = |line: &str| {
            let (_, rest) = line.split_once("Epoch(")?;
            rest.split_once(')')?.0.parse().ok()
        };
        begun.filter_map(number).max().unwrap_or(0)
    }

    /// Whether it is in a term, by its own words: the last of those that begin or end one, or its life, begins one.
    pub fn leads(&self) -> bool {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let turns = ["a term begins", "the term is over", SERVES];
        let last = log
            .lines()
            .rev()
            .find(|line| turns.iter().any(|turn| line.contains(turn)));
        last.is_some_and(|line| line.contains(turns[0]))
    }

    async fn terminate(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else {
            return Ok(());
        };
        let status = process.stop(Duration::from_secs(30)).await?;
        if !status.success() {
            bail!("{} ended with {status}: {}", self.binary, self.last_lines());
        }
        Ok(())
    }

    fn last_lines(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }
}

fn lines_with(log: &Path, text: &str) -> usize {
    let log = std::fs::read_to_string(log).unwrap_or_default();
    log.lines().filter(|line| line.contains(text)).count()
}

/// Of this machine, taken by nobody at this moment.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}
