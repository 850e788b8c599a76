//! `submit`: one job from flags, or one or many from a specification; prints ids and does not wait.

use std::io::Read;
use std::path::Path;

use common::api_types::{BulkAnswer, InputBody, JobView, SubmitBulk, SubmitJob, paths};
use common::words::count;

use super::Session;
use crate::args::{JobArgs, SubmitArgs};
use crate::client::{Answer, Call, Client, Upload, upload};
use crate::exit::Exit;
use crate::failure::{Failure, io};
use crate::output::sanitise::line;
use crate::output::{note, print_json, print_line};

/// Largest specification that is read: 1,000 jobs of 48 KiB, the most that one request takes.
const SPEC_BYTES_MAX: u64 = 64 * 1024 * 1024;

pub async fn perform(session: &Session, args: SubmitArgs) -> Result<Exit, Failure> {
    let client = session.client()?;
    let key = args.idempotency_key.unwrap_or_else(new_key);
    let answer = match &args.spec {
        Some(path) => match read_spec(path)? {
            Spec::One(job) => submit_one(&client, &job, key).await?,
            Spec::Many(jobs) => {
                let bulk = SubmitBulk { jobs };
                let answer = client
                    .call(&Call::post(paths::JOBS_BULK).json(&bulk).key(key))
                    .await?;
                return show_many(session, &answer);
            }
        },
        None => {
            let job = prepare(&client, &args.job, &args.command, false).await?;
            submit_one(&client, &job, key).await?
        }
    };
    if session.json() {
        print_json(&answer.0)?;
    } else {
        let job: JobView = answer.parse()?;
        print_line(&job.id.to_string())?;
        if let Some(waiting) = &job.waiting {
            note(&line(&format!("it waits: {}", waiting.sentence)));
        }
    }
    Ok(Exit::SUCCESS)
}

/// A name for one submission that nobody else uses, so that sending it again is harmless.
pub fn new_key() -> String {
    format!("cli-{:032x}", rand::random::<u128>())
}

pub async fn submit_one(client: &Client, job: &SubmitJob, key: String) -> Result<Answer, Failure> {
    client.call(&Call::post(paths::JOBS).json(job).key(key)).await
}

/// The request that the flags describe, files uploaded.
pub async fn prepare(
    client: &Client,
    args: &JobArgs,
    command: &[String],
    quiet: bool,
) -> Result<SubmitJob, Failure> {
    let mut job = args
        .request(command)
        .map_err(|why| Failure::new(why).exit(Exit::USAGE))?;
    // every path is looked at before anything is sent
    let uploads = args
        .file
        .iter()
        .map(|path| Upload::of(path))
        .collect::<Result<Vec<_>, _>>()?;
    for what in uploads {
        let (name, is_folder) = (what.name(), what.is_folder());
        let file = upload(client, what, quiet).await?;
        job.inputs.push(InputBody {
            file: file.id,
            path: if is_folder { ".".to_owned() } else { name },
            unpack: is_folder,
        });
    }
    Ok(job)
}

fn show_many(session: &Session, answer: &Answer) -> Result<Exit, Failure> {
    if session.json() {
        print_json(&answer.0)?;
    } else {
        let answer: BulkAnswer = answer.parse()?;
        for id in answer.ids {
            print_line(&id.to_string())?;
        }
        for waiting in answer.waiting {
            let jobs = count(u64::from(waiting.jobs), "job");
            note(&line(&format!("{jobs} of them will wait: {}", waiting.sentence)));
        }
    }
    Ok(Exit::SUCCESS)
}

#[derive(Debug)]
enum Spec {
    One(Box<SubmitJob>),
    Many(Vec<SubmitJob>),
}

fn read_spec(path: &Path) -> Result<Spec, Failure> {
    let (name, mut text) = (shown(path), Vec::new());
    let read = if path.as_os_str() == "-" {
        std::io::stdin()
            .lock()
            .take(SPEC_BYTES_MAX + 1)
            .read_to_end(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(SPEC_BYTES_MAX + 1).read_to_end(&mut text))
    };
    read.map_err(|error| io(format!("read {name}"), error))?;
    if text.len() as u64 > SPEC_BYTES_MAX {
        return Err(
            Failure::new(format!("{name} is larger than {SPEC_BYTES_MAX} bytes"))
                .next("submit its jobs in several parts, of up to 1,000 jobs each"),
        );
    }
    parse_spec(&text).map_err(|error| {
        Failure::new(format!("{name} is no specification of jobs"))
            .source(error)
            .expected("an object such as {\"command\": [\"echo\", \"hi\"]}, or a list of them")
            .next("`jobworker get --json ID | jq .spec` shows one of a job that ran")
            .exit(Exit::USAGE)
    })
}

fn shown(path: &Path) -> String {
    if path.as_os_str() == "-" {
        "standard input".to_owned()
    } else {
        format!("`{}`", path.display())
    }
}

fn parse_spec(text: &[u8]) -> Result<Spec, serde_json::Error> {
    let begins_a_list = text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    if begins_a_list {
        serde_json::from_slice(text).map(Spec::Many)
    } else {
        serde_json::from_slice(text).map(|job| Spec::One(Box::new(job)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_specification_is_one_job_or_a_list() {
        assert!(matches!(
            parse_spec(br#"{"command": "echo hi"}"#),
            Ok(Spec::One(_))
        ));
        assert!(
            matches!(parse_spec(br#" [{"command": ["a"]}, {"command": "b"}]"#), Ok(Spec::Many(jobs)) if jobs.len() == 2)
        );
    }

    #[test]
    fn an_unknown_field_is_named_with_its_place() {
        let error = parse_spec(b"{\"command\": \"x\",\n \"timeot\": 5}")
            .unwrap_err()
            .to_string();
        assert!(error.contains("timeot") && error.contains("line 2"), "{error}");
    }
}
