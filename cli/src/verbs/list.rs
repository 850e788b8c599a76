//! `list`: a page of jobs, newest first.

use common::api_types::{JobList, JobView, paths};
use common::time::Timestamp;

use super::{Session, now};
use crate::args::ListArgs;
use crate::client::Call;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::table::{show_age, show_between, table};
use crate::output::{note, print_json, print_line};

pub async fn perform(session: &Session, args: ListArgs) -> Result<Exit, Failure> {
    let client = session.client()?;
    let mut call = Call::get(paths::JOBS).query("limit", args.limit);
    for state in &args.state {
        call = call.query("state", state);
    }
    for (key, value) in &args.label {
        call = call.query("label", format!("{key}={value}"));
    }
    if let Some(cursor) = &args.cursor {
        call = call.query("cursor", cursor);
    }
    let answer = client.call(&call).await?;
    if session.json() {
        print_json(&answer.0)?;
        return Ok(Exit::SUCCESS);
    }
    let list: JobList = answer.parse()?;
    if list.jobs.is_empty() {
        note("there are no such jobs");
        return Ok(Exit::SUCCESS);
    }
    let now = now();
    print_line(&table(
        ["id", "state", "name", "command", "submitted", "ran", "outcome"],
        list.jobs.iter().map(|job| row(job, now)),
    ))?;
    if let Some(next) = list.next {
        note(&format!("there are more: --cursor {next}"));
    }
    Ok(Exit::SUCCESS)
}

fn row(job: &JobView, now: Timestamp) -> [String; 7] {
    let ended = job.attempts.last().and_then(|attempt| attempt.ended_at);
    let ran = show_between(job.started_at, Some(ended.unwrap_or(now)));
    [
        job.id.to_string(),
        job.state.to_string(),
        job.name.clone().unwrap_or_default(),
        job.command.clone(),
        show_age(job.created_at, now),
        ran.unwrap_or_default(),
        job.ending
            .as_ref()
            .map(|ending| ending.sentence.clone())
            .unwrap_or_default(),
    ]
}
