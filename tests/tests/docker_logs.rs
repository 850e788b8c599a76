//! Every byte that a job writes is kept, of both streams, also of a child that outlives its parent.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use common::api_types::{InputBody, JobView, SubmitJob};
use common::job::StateName;
use common::log::Stream;
use jobworker_e2e::chaos::Chaos;
use jobworker_e2e::client::{brief, shell};
use jobworker_e2e::cluster::{Cluster, Settings};
use jobworker_e2e::text::sha256;
use jobworker_e2e::wait::wait_for;

const JOBS: usize = 200;
const EACH_MOST: u64 = 4_096;
/// Most of the 200 take a fraction of a second each; a loaded machine several times that.
const ALL_WITHIN: Duration = Duration::from_secs(170);

/// What one job writes into one stream: its number, and a piece of the bytes that all jobs share.
struct Piece {
    from: usize,
    count: usize,
}

impl Piece {
    fn any(chaos: &mut Chaos, pattern: &[u8]) -> Result<Self> {
        let count = usize::try_from(chaos.number(EACH_MOST))?;
        let from = usize::try_from(chaos.number(u64::try_from(pattern.len() - count)?))?;
        Ok(Self { from, count })
    }

    fn command(&self, number: usize) -> String {
        format!(
            "echo job {number}; tail -c +{} p | head -c {}",
            self.from + 1,
            self.count
        )
    }

    fn expected(&self, number: usize, pattern: &[u8]) -> String {
        let mut bytes = format!("job {number}\n").into_bytes();
        bytes.extend_from_slice(&pattern[self.from..self.from + self.count]);
        sha256(&bytes)
    }
}

#[tokio::test]
async fn of_200_jobs_every_byte_of_both_streams_is_kept() -> Result<()> {
    let cluster = Cluster::with(Settings {
        slots: 4,
        ..Settings::default()
    })
    .await?;
    let client = cluster.client()?;
    let mut chaos = Chaos::begin("logs");
    let pattern = chaos.bytes(64 * 1024);
    let file = client.upload("p", pattern.clone()).await?;

    let (mut jobs, mut expected) = (Vec::new(), BTreeMap::new());
    for number in 0..JOBS {
        let (out, err) = (
            Piece::any(&mut chaos, &pattern)?,
            Piece::any(&mut chaos, &pattern)?,
        );
        let both = format!(
            "{{ {}; }}; {{ {}; }} >&2",
            out.command(number),
            err.command(number)
        );
        // the child's parent is gone when it writes
        let line = if number % 5 == 0 {
            format!("( sleep 0.2; {both} ) & exit 0")
        } else {
            both
        };
        expected.insert(
            number.to_string(),
            [out.expected(number, &pattern), err.expected(number, &pattern)],
        );
        jobs.push(SubmitJob {
            labels: [("number".to_owned(), number.to_string())].into(),
            inputs: vec![InputBody {
                file: file.id,
                path: "p".into(),
                unpack: false,
            }],
            ..shell(&line)
        });
    }
    let ids = client.submit_all(jobs).await?;
    assert_eq!(ids.len(), JOBS);

    let ended = wait_for(ALL_WITHIN, "200 jobs to end", async || {
        let jobs = client.jobs().await.map_err(|error| format!("{error:#}"))?;
        let waiting = jobs.iter().filter(|job| !job.state.is_terminal()).count();
        if waiting == 0 {
            Ok(jobs)
        } else {
            Err(format!("{waiting} have not"))
        }
    })
    .await?;
    assert_eq!(ended.len(), JOBS);
    let mut wrong = Vec::new();
    for job in &ended {
        assert_eq!(job.state, StateName::Succeeded, "{}", brief(job));
        for (stream, wanted) in Stream::ALL.into_iter().zip(wanted(&expected, job)?) {
            let bytes = client.log(job.id, stream).await?;
            if sha256(&bytes) != *wanted {
                wrong.push(format!(
                    "{} {}: {} bytes",
                    job.command,
                    stream.as_str(),
                    bytes.len()
                ));
            }
        }
        assert!(
            job.attempts.iter().all(|attempt| attempt.logs_missing.is_none()),
            "{}",
            brief(job)
        );
    }
    assert!(wrong.is_empty(), "{} streams differ: {wrong:#?}", wrong.len());
    cluster.stop().await
}

fn wanted<'a>(expected: &'a BTreeMap<String, [String; 2]>, job: &JobView) -> Result<&'a [String; 2]> {
    let number = job.spec.labels.get("number").context("each has its number")?;
    expected.get(number).context("nobody submitted this")
}
