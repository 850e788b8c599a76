//! Jobs whose life can be witnessed: their processes carry a mark that the kernel's reports show, they write random
//! bytes to both streams, and say at their end what they wrote. And somebody else's container beside them.

use std::process::Command;

use anyhow::{Result, bail};
use common::api_types::{LimitsBody, RetryBody, SubmitJob};
use common::ids::{AttemptId, JobId};
use common::log::Stream;
use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use crate::client::{Client, argv};
use crate::history::{Digest, Event, Recorder};
use crate::images;
use crate::scripts::run;

/// Random bytes to both streams, `$1` times, a fifth of a second apart; then what was written, as two lines.
const JOB: &str = ": > out; : > err; n=0; while [ $n -lt $1 ]; do \
    head -c 3000 /dev/urandom | tee -a out; head -c 700 /dev/urandom | tee -a err >&2; \
    sleep 0.2; n=$((n + 1)); done; sha256sum < out; sha256sum < err";
/// Each of those lines: a hash, two blanks, a dash and the line's end.
const HASH_LINE_LEN: usize = 68;
/// Between a lost attempt and the next: as short as can be asked for.
const BACKOFF_MS: u64 = 100;
/// What a job gets to end in.
const GRACE_MS: u64 = 1_000;
/// What the gateway logs of a result that it refuses.
const REFUSED: &str = "a result came too late";

/// A job in a container that takes `fifths` fifths of a second, or longer where the machine is busy.
pub fn job(mark: &str, key: &str, fifths: u32) -> SubmitJob {
    let name = format!("{mark}:{key}");
    patient(argv(&["sh", "-c", JOB, &name, &fifths.to_string()]))
}

/// The jobs that a history tells of, where others wait beside them.
pub const WATCHED: &str = "&label=watched%3Dyes";

/// As few seconds as can be between a lost attempt and the next, and for the job's end.
pub fn patient(job: SubmitJob) -> SubmitJob {
    SubmitJob {
        labels: [("watched".to_owned(), "yes".to_owned())].into(),
        retry: RetryBody {
            backoff_ms: Some(BACKOFF_MS),
            ..RetryBody::default()
        },
        limits: LimitsBody {
            grace_ms: Some(GRACE_MS),
            ..LimitsBody::default()
        },
        ..job
    }
}

/// Compares what is stored of a [`job`] that succeeded with what it says that it wrote.
///
/// # Errors
/// When its output cannot be read, or lacks even the last two lines.
pub async fn note_output(recorder: &Recorder, client: &Client, key: &str, id: JobId) -> Result<()> {
    let stdout = client.log(id, Stream::Stdout).await?;
    let stderr = client.log(id, Stream::Stderr).await?;
    let Some(at) = stdout.len().checked_sub(2 * HASH_LINE_LEN) else {
        bail!(
            "`{key}` succeeded, and {} bytes of its output are stored",
            stdout.len()
        );
    };
    let (body, said) = stdout.split_at(at);
    let said: Vec<String> = said
        .chunks(HASH_LINE_LEN)
        .map(|line| String::from_utf8_lossy(&line[..64]).into_owned())
        .collect();
    for (stream, stored, written) in [
        (Stream::Stdout, body, &said[0]),
        (Stream::Stderr, &stderr[..], &said[1]),
    ] {
        recorder.note(Event::Output {
            key: key.to_owned(),
            stream,
            stored: Digest {
                bytes: stored.len() as u64,
                sha256: HEXLOWER.encode(&Sha256::digest(stored)),
            },
            written: Digest {
                // the hash alone was said; it fixes the bytes
                bytes: stored.len() as u64,
                sha256: written.clone(),
            },
        });
    }
    Ok(())
}

/// The attempts that a control plane's log says it refused a result of, one for each time.
pub fn refused(log: &str) -> Vec<AttemptId> {
    log.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|line| line["message"] == REFUSED)
        .filter_map(|line| line["attempt"].as_str()?.parse().ok())
        .collect()
}

/// A container that is none of ours and has to stay as it is.
#[derive(Debug)]
pub struct Foreign(String);

impl Foreign {
    /// # Errors
    /// When the engine does not start it.
    pub fn start(mark: &str) -> Result<Self> {
        let image = images::base()?;
        let owner = format!("jobworker.owner=somebody-else-{mark}/node");
        let words = ["run", "--detach", "--network", "none", "--label", &owner, &image];
        let id = run(Command::new("docker").args(words).args(["sleep", "3600"]))?;
        Ok(Self(id.trim().to_owned()))
    }

    /// How it is now.
    pub fn seen(&self) -> Event {
        let format = "{{.State.Status}} since {{.State.StartedAt}}, restarted {{.RestartCount}} times";
        let described = run(Command::new("docker").args(["inspect", "--format", format, &self.0]));
        Event::Foreign {
            container: self.0.clone(),
            described: described.unwrap_or_else(|error| format!("{error:#}")),
        }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = run(Command::new("docker").args(["rm", "--force", "--volumes", &self.0]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_read_from_the_log() {
        let attempt = AttemptId::random();
        let log = format!(
            "not json\n{{\"message\":\"a result came too late\",\"attempt\":\"{attempt}\"}}\n{{\"message\":\"other\"}}\n"
        );
        assert_eq!(refused(&log), vec![attempt]);
    }
}
