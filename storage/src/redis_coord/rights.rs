//! What Redis has to allow the user of REDIS_URL, and whether it does.
//!
//! Each command is tried before a connection is used, on keys that mean nothing: so a right that is missing is told at
//! the start, by name, and not in the middle of a night. Only what is said about rights, and about which node has the
//! keys, counts here; a server that is full goes on to be used. The keys of the tries are empty afterwards.

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisError, RedisResult, ServerErrorKind, Value};

use super::error::{first_said, is_forbidden};
use super::keys::Keys;
use super::scripts;

/// What is called, directly or by a script, and can be tried without doing anything. `$` stands for the keys of the
/// tries.
const TRIED: [&str; 22] = [
    "PING",
    "SET $text 1 PX 10000",
    "GET $text",
    "PEXPIRE $text 10000",
    "DEL $text",
    "UNLINK $text",
    "HSET $hash f 1",
    "HGET $hash f",
    "HGETALL $hash",
    "HKEYS $hash",
    "HLEN $hash",
    "HEXISTS $hash f",
    "HINCRBY $hash f 1",
    "HDEL $hash f",
    "ZADD $set 1 m",
    "ZSCORE $set m",
    "ZRANK $set m",
    "ZRANGE $set 0 0",
    "ZCARD $set",
    "ZREM $set m",
    "MULTI",
    "EXEC",
];

/// And what is tried by its use.
const USED: [&str; 8] = [
    "evalsha",
    "script|load",
    "publish",
    "subscribe",
    "select",
    "info",
    "config|get",
    "cluster|slots",
];

pub struct Rights {
    tries: Vec<(String, Cmd)>,
    /// As `ACL SETUSER` takes them.
    pub rules: String,
}

/// A try that says that this connection is not to be used.
pub struct Hindrance {
    pub tried: String,
    pub said: RedisError,
}

impl Rights {
    pub fn new(keys: &Keys) -> Self {
        let mut tries: Vec<(String, Cmd)> = TRIED
            .iter()
            .map(|line| {
                let mut command = Cmd::new();
                let words: Vec<String> = line.split(' ').map(|word| named(word, keys)).collect();
                command.arg(&words);
                (words[..words.len().min(2)].join(" "), command)
            })
            .collect();
        let key = keys.probe("text");
        let renew = scripts::call(&scripts::RENEW, &[&key], ("", 1));
        tries.push((format!("EVALSHA {key}"), renew));
        let mut publish = redis::cmd("PUBLISH");
        // no line, so no hint
        publish.arg(&keys.hints).arg("");
        tries.push((format!("PUBLISH {}", keys.hints), publish));
        Self {
            tries,
            rules: rules(keys),
        }
    }

    /// # Errors
    /// The connection broke.
    pub async fn look(&self, connection: &mut MultiplexedConnection) -> RedisResult<Option<Hindrance>> {
        let mut all = Pipeline::with_capacity(self.tries.len());
        for (_, command) in &self.tries {
            all.add_command(command.clone());
        }
        all.ignore_errors();
        let answers: Vec<RedisResult<Value>> = all.query_async(connection).await?;
        let mut hindrances = Vec::new();
        for ((tried, _), answer) in self.tries.iter().zip(answers) {
            let Err(said) = answer else { continue };
            if let Some(weight) = weight(&said) {
                let tried = tried.clone();
                hindrances.push((weight, Hindrance { tried, said }));
            }
        }
        // Of several the gravest, of these the first.
        let gravest = hindrances.into_iter().min_by_key(|(weight, _)| *weight);
        Ok(gravest.map(|(_, hindrance)| hindrance))
    }
}

/// How much an answer matters, the least first; none for what says nothing against the connection.
fn weight(said: &RedisError) -> Option<u8> {
    let said = first_said(said)?;
    match said.kind()? {
        _ if is_forbidden(&said) => Some(0),
        ServerErrorKind::Moved => Some(1),
        ServerErrorKind::ClusterDown => Some(2),
        // Full, or in the middle of a move; or a command that a script needs and this server has not.
        _ => None,
    }
}

fn named(word: &str, keys: &Keys) -> String {
    word.strip_prefix('$')
        .map_or_else(|| word.to_owned(), |key| keys.probe(key))
}

fn rules(keys: &Keys) -> String {
    let tried = TRIED.iter().filter_map(|line| line.split(' ').next());
    let commands = tried.map(str::to_lowercase).chain(USED.map(str::to_owned));
    let allowed: Vec<String> = commands.map(|command| format!("+{command}")).collect();
    format!("~{all} &{all} {}", allowed.join(" "), all = keys.all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_a_script_is_tried() {
        let rules = Rights::new(&Keys::new("jw").unwrap()).rules;
        let mut seen = 0;
        for code in scripts::CODE {
            for call in code.split("redis.call('").skip(1) {
                let command = call.split('\'').next().unwrap().to_lowercase();
                let allowed = rules
                    .split(' ')
                    .any(|rule| rule.strip_prefix('+') == Some(&command));
                assert!(allowed, "`{command}` is not in: {rules}");
                seen += 1;
            }
        }
        assert!(seen > 20, "{seen}");
    }
}
