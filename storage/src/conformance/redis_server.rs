//! A real Redis server of a test's own: on a free port of this machine, with nothing on disk, gone with its holder.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, RedisResult};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, timeout};

use super::own_clock::OwnClock;

/// A start takes some ten milliseconds; a busy machine needs longer.
const READY: Duration = Duration::from_secs(20);

/// Another program may take the port between our look and the server's.
const TRIES: usize = 5;

/// Where nodes of a cluster talk to each other: Redis' own distance.
const CLUSTER_BUS: u16 = 10_000;

/// Between two looks at two clocks.
const CLOCK_SLACK_S: i64 = 30;

pub struct RedisServer {
    child: Child,
    port: u16,
    arguments: Vec<String>,
    clock: Option<OwnClock>,
    /// Its working folder.
    folder: tempfile::TempDir,
}

impl RedisServer {
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With arguments more, such as `--maxmemory-policy allkeys-lru`.
    pub async fn with(arguments: &[&str]) -> Self {
        Self::start_by(arguments, false).await
    }

    /// With a clock that [`RedisServer::turn_clock`] turns.
    pub async fn with_a_clock_of_its_own() -> Self {
        Self::start_by(&[], true).await
    }

    async fn start_by(arguments: &[&str], own_clock: bool) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        for _ in 0..TRIES {
            let port = free_port(&arguments);
            let folder = tempfile::tempdir().unwrap();
            let clock = own_clock.then(|| OwnClock::new(folder.path()));
            let mut server = Self {
                child: spawn(port, &folder, &arguments, clock.as_ref()),
                port,
                arguments: arguments.clone(),
                clock,
                folder,
            };
            if server.becomes_ready().await {
                return server;
            }
        }
        panic!("no free port for a Redis server in {TRIES} tries");
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    pub const fn port(&self) -> u16 {
        self.port
    }

    /// SIGKILL; the port stays ours by luck alone, see [`RedisServer::start_again`].
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// On the same port, and empty.
    pub async fn start_again(&mut self) {
        self.child = spawn(self.port, &self.folder, &self.arguments, self.clock.as_ref());
        assert!(self.becomes_ready().await, "the server does not start again");
    }

    /// SIGSTOP: connections stay, and nobody answers.
    pub fn pause(&self) {
        kill_process(self.pid(), Signal::STOP).unwrap();
    }

    pub fn resume(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }

    /// Asks the server, over a connection of its own.
    ///
    /// # Errors
    /// What the server says against it.
    pub async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        let client = Client::open(self.url()).unwrap();
        // to wipe a million entries, or to read them, takes longer than a program would wait
        let patient = AsyncConnectionConfig::new().set_response_timeout(Some(READY));
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&patient)
            .await?;
        Cmd::new().arg(words).query_async(&mut connection).await
    }

    /// So many seconds ahead of the machine's clock from now on, or behind it; what measures spans of time goes on as
    /// before. Answers once the server tells the time so.
    pub async fn turn_clock(&self, seconds: i64) {
        let clock = self.clock.as_ref().expect("a server with a clock of its own");
        clock.turn(seconds);
        let machine = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let (told, _): (i64, i64) = self.ask(&["TIME"]).await.unwrap();
        let off = told - i64::try_from(machine).unwrap();
        assert!(
            (off - seconds).abs() <= CLOCK_SLACK_S,
            "the server's clock is {off} s off"
        );
    }

    pub async fn flush_all(&self) {
        self.ask::<()>(&["FLUSHALL"]).await.unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Whether our own child answers on the port. False when it ended.
    async fn becomes_ready(&mut self) -> bool {
        let deadline = Instant::now() + READY;
        let ours = format!("process_id:{}\r", self.child.id());
        loop {
            let answer = timeout(READY, self.ask::<String>(&["INFO", "server"])).await;
            let seen = match answer {
                Ok(Ok(info)) if info.contains(&ours) => return true,
                Ok(Ok(_)) => return false,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(
                Instant::now() < deadline,
                "redis-server is not ready within {READY:?}: {seen}"
            );
            // tidy: poll
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A node of a cluster also takes the port [`CLUSTER_BUS`] further.
fn free_port(arguments: &[String]) -> u16 {
    let clustered = arguments.iter().any(|argument| argument == "--cluster-enabled");
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let bus = port.checked_add(CLUSTER_BUS);
        if !clustered || bus.is_some_and(|bus| TcpListener::bind(("127.0.0.1", bus)).is_ok()) {
            return port;
        }
    }
}

fn spawn(port: u16, folder: &tempfile::TempDir, arguments: &[String], clock: Option<&OwnClock>) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
    command.args(["--save", "", "--appendonly", "no", "--daemonize", "no"]);
    command.args(arguments).current_dir(folder.path());
    if let Some(clock) = clock {
        clock.give_to(&mut command);
    }
    let nowhere = || Stdio::null();
    command.stdin(nowhere()).stdout(nowhere()).stderr(nowhere());
    command
        .spawn()
        .expect("redis-server can be started; scripts/setup installs it")
}
