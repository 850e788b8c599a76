//! Embedded rows with coordination over Redis: on the server that `REDIS_URL` names, or on one of the test's own.

use std::sync::Arc;
use std::time::Duration;

use common::ids::RequestId;
use common::store::Stores;
use common::time::{Clock, ManualClock, SharedClock, SystemClock};
use storage::conformance::redis_server::RedisServer;
use storage::conformance::{Backend, Ending};
use storage::redis_coord::{Config, Coordination, Deadlines, connect};

use crate::embedded::{self, Embedded};

/// For tests that are not about deadlines: nothing is late on a busy machine.
pub const PATIENT: Deadlines = Deadlines {
    connect: Duration::from_secs(20),
    answer: Duration::from_secs(20),
};

pub struct EmbeddedAndRedis {
    rows: Embedded,
    config: Config,
    coordination: Coordination,
    /// The server that has the keys, for whoever may do everything.
    keys_at: String,
    _servers: Vec<RedisServer>,
}

pub async fn fresh() -> EmbeddedAndRedis {
    match std::env::var("REDIS_URL") {
        Ok(url) => on(url, None).await,
        Err(_) => {
            let server = RedisServer::start().await;
            on(server.url(), Some(server)).await
        }
    }
}

pub async fn on(url: String, server: Option<RedisServer>) -> EmbeddedAndRedis {
    on_servers(patient(url.clone()), url, server.into_iter().collect()).await
}

pub async fn on_servers(config: Config, keys_at: String, servers: Vec<RedisServer>) -> EmbeddedAndRedis {
    let rows = embedded::fresh().await;
    let clock: SharedClock = rows.clock();
    EmbeddedAndRedis {
        coordination: connect(&config, &clock).await.unwrap(),
        rows,
        config,
        keys_at,
        _servers: servers,
    }
}

/// With keys that no other test uses.
pub fn patient(url: String) -> Config {
    Config {
        prefix: RequestId::random().to_string(),
        deadlines: PATIENT,
        ..Config::new(url)
    }
}

/// Another program's coordination over this server, with the host's clock.
pub async fn coordination(server: &RedisServer, deadlines: Deadlines) -> Coordination {
    let config = Config {
        deadlines,
        ..Config::new(server.url())
    };
    let clock: SharedClock = Arc::new(SystemClock);
    connect(&config, &clock).await.unwrap()
}

const AGE: &str = "
    for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
        local left = redis.call('PTTL', key)
        if left > tonumber(ARGV[2]) then
            redis.call('PEXPIRE', key, left - tonumber(ARGV[2]))
        elseif left >= 0 then
            redis.call('DEL', key)
        end
    end";

#[async_trait::async_trait]
impl Backend for EmbeddedAndRedis {
    fn stores(&self) -> Stores {
        self.coordination.clone().with_rows_of(self.rows.stores())
    }

    fn clock(&self) -> Arc<ManualClock> {
        self.rows.clock()
    }

    /// The server's keys get older as well.
    async fn turn(&self, by: Duration) {
        self.rows.turn(by).await;
        let client = redis::Client::open(self.keys_at.as_str()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut age = redis::cmd("EVAL");
        let keys = format!("{{{}}}*", self.config.prefix);
        age.arg(AGE)
            .arg(0)
            .arg(keys)
            .arg(u64::try_from(by.as_millis()).unwrap());
        age.query_async::<()>(&mut connection).await.unwrap();
    }

    async fn reopen(&mut self, ending: Ending) {
        self.rows.reopen(ending).await;
        let clock: SharedClock = self.rows.clock();
        self.coordination = connect(&self.config, &clock).await.unwrap();
    }
}

pub fn now() -> common::time::Timestamp {
    SystemClock.now()
}

/// Waits until the program has found its way back to the server.
pub async fn answers(program: &Coordination) {
    let begun = SystemClock.mono();
    while let Err(error) = program.queue.len().await {
        let waited = SystemClock.mono().since(begun);
        assert!(waited < Duration::from_secs(30), "not found again: {error:?}");
        // tidy: poll
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
