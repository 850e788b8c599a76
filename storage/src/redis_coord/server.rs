//! What has to be known of a server before it is used: which run of it this is, and that it keeps what it is given.

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind};

use super::error::ConnectError;

/// The one policy under which a full Redis refuses writes instead of forgetting keys.
const KEEPS: &str = "noeviction";

#[derive(Debug, PartialEq, Eq)]
pub struct Server {
    /// Random, another one after each start and on each replica: what was whole on one run need not be on the next.
    pub run: String,
    pub is_clustered: bool,
    policy: Option<String>,
    is_replica: bool,
}

impl Server {
    /// # Errors
    /// When the server does not answer, or forbids us INFO: without the run nobody could tell a restored server from a
    /// whole one. A managed one that forbids CONFIG, or does not know a question, is not an error.
    pub async fn look(connection: &mut MultiplexedConnection) -> RedisResult<Self> {
        let mut ask = redis::pipe();
        for section in ["server", "memory", "replication"] {
            ask.cmd("INFO").arg(section);
        }
        let answers: Vec<RedisResult<String>> = ask.ignore_errors().query_async(connection).await?;
        let mut told = String::new();
        for answer in answers {
            if let Some(lines) = unless(answer, is_unknown)? {
                told.push_str(&lines);
            }
        }
        let mut server = Self::read(&told);
        if server.policy.is_none() {
            let mut ask = redis::cmd("CONFIG");
            ask.arg("GET").arg("maxmemory-policy");
            let answer: RedisResult<Vec<String>> = ask.query_async(connection).await;
            server.policy = unless(answer, |error| is_unknown(error) || is_forbidden(error))?
                .and_then(|pair| pair.into_iter().nth(1));
        }
        Ok(server)
    }

    fn read(info: &str) -> Self {
        let field = |name: &str| {
            let mut pairs = info.lines().filter_map(|line| line.split_once(':'));
            let found = pairs.find(|(key, _)| *key == name);
            found.map(|(_, value)| value.trim().to_owned())
        };
        Self {
            run: field("run_id").unwrap_or_default(),
            is_clustered: field("redis_mode").is_some_and(|mode| mode == "cluster"),
            policy: field("maxmemory_policy"),
            is_replica: field("role").is_some_and(|role| role == "slave"),
        }
    }

    /// # Errors
    /// When it would lose what it is given, or takes nothing.
    pub fn check(&self, address: &str) -> Result<(), ConnectError> {
        if self.is_replica {
            return Err(ConnectError::Replica {
                address: address.to_owned(),
            });
        }
        match &self.policy {
            Some(policy) if policy != KEEPS => Err(ConnectError::Evicts {
                address: address.to_owned(),
                policy: policy.clone(),
            }),
            Some(_) => Ok(()),
            None => {
                tracing::warn!(
                    address,
                    "Redis does not say whether it evicts keys (neither by INFO nor by CONFIG GET): see to it that \
                     maxmemory-policy is noeviction"
                );
                Ok(())
            }
        }
    }
}

/// None where the server answers with an error that is one of these.
fn unless<T>(answer: RedisResult<T>, expected: impl Fn(&RedisError) -> bool) -> RedisResult<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if expected(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_unknown(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ResponseError)
}

fn is_forbidden(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\n\r\n# Memory\r\nmaxmemory:0\r\n\
                        maxmemory_policy:noeviction\r\n# Replication\r\nrole:master\r\n";

    #[test]
    fn what_keeps_everything_is_used() {
        let server = Server::read(INFO);
        assert_eq!(server.run, "abc");
        assert!(server.check("r:1").is_ok());
    }

    #[test]
    fn what_evicts_is_refused_with_the_setting_and_the_mend() {
        for policy in ["allkeys-lru", "volatile-lru", "volatile-ttl"] {
            let server = Server::read(&INFO.replace(KEEPS, policy));
            let said = server.check("r:1").unwrap_err().to_string();
            for part in ["r:1", "maxmemory-policy", policy, KEEPS] {
                assert!(said.contains(part), "{said}");
            }
        }
    }

    #[test]
    fn a_replica_is_refused() {
        let server = Server::read(&INFO.replace("role:master", "role:slave"));
        assert!(matches!(server.check("r:1"), Err(ConnectError::Replica { .. })));
    }

    #[test]
    fn what_says_nothing_is_used() {
        assert!(Server::read("").check("r:1").is_ok());
    }
}
