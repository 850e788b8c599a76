//! `run`: submits a job and stands in its place: its output, its exit status, and Ctrl-C.
//!
//! The first Ctrl-C cancels and keeps following, so that the job's last words and its artifacts still arrive; the
//! second leaves the job alone. A failure of ours ends with 125, so that it is never taken for the command's own.

use std::time::Duration;

use common::api_types::{CancelRequestBody, EndEvent, JobView, StateEvent, paths};
use common::ids::JobId;
use common::job::StateName;

use super::{Session, artifacts, logs, submit, why};
use crate::args::RunArgs;
use crate::client::{Call, Client, Followed, Follower};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::job_page::steps;
use crate::output::sanitise::line;
use crate::output::stream::JobOutput;
use crate::output::table::show_between;
use crate::output::{note, print_json, print_line};
use crate::signals::Signals;

/// A job that waits longer than this gets an explanation.
const WAIT_EXPLAINED_AFTER: Duration = Duration::from_secs(3);

pub async fn perform(session: &Session, args: RunArgs) -> Result<Exit, Failure> {
    let ours = |failure: Failure| match failure.exit_status() {
        Exit::FAILURE => failure.exit(Exit::SYSTEM),
        _ => failure,
    };
    run(session, args).await.map_err(ours)
}

async fn run(session: &Session, args: RunArgs) -> Result<Exit, Failure> {
    let client = session.client()?;
    let mut request = submit::prepare(&client, &args.job, &args.command, args.quiet).await?;
    if args.out.is_some() && request.artifacts.is_empty() {
        request.artifacts.push("**".to_owned());
    }
    // from here on Ctrl-C is the job's
    let mut interrupts = Signals::new()?;
    let answer = submit::submit_one(&client, &request, submit::new_key()).await?;
    let job: JobView = answer.parse()?;
    if args.detach {
        if session.json() {
            print_json(&answer.0)?;
        } else {
            print_line(&job.id.to_string())?;
        }
        return Ok(Exit::SUCCESS);
    }
    let mut following = Following {
        client: &client,
        id: job.id,
        quiet: args.quiet,
        output: JobOutput::new(args.raw),
        state: None,
        started: false,
    };
    following.say(&format!("{}: submitted", job.id));
    if let Some(waiting) = &job.waiting {
        following.say(&line(&format!("{}: waits: {}", job.id, waiting.sentence)));
    }
    let Some(end) = following.until_end(&mut interrupts).await? else {
        following.output.break_line();
        note(&format!(
            "{} is left alone; follow it with `jobworker logs -f {}`",
            job.id, job.id
        ));
        return Ok(Exit::CANCELLED);
    };
    finish(session, &client, &args, job.id, &end).await
}

/// What is told and fetched after the end. Why a command never ran or was ended is an error, and told even when quiet.
async fn finish(
    session: &Session,
    client: &Client,
    args: &RunArgs,
    id: JobId,
    end: &EndEvent,
) -> Result<Exit, Failure> {
    let exit = exit_of(end);
    let job = logs::job(client, id).await?;
    if let Some(ending) = &job.ending
        && (!args.quiet || ending.cause != "exited")
        && exit != Exit::SUCCESS
    {
        // the sentence may hold the engine's or a registry's words
        note(&line(&format!("{id}: {}: {}", end.state, ending.sentence)));
        if let Some(next) = &ending.next {
            note(&line(next));
        }
    }
    if args.times && !args.quiet {
        times(&job);
    }
    if let Some(folder) = &args.out {
        artifacts::fetch(client, id, folder, args.quiet).await?;
    }
    if session.json() {
        note(&serde_json::to_string(&job).unwrap_or_default());
    }
    Ok(exit)
}

fn exit_of(end: &EndEvent) -> Exit {
    match (end.state, &end.outcome) {
        (StateName::Succeeded, _) => Exit::SUCCESS,
        (StateName::Cancelled, _) => Exit::CANCELLED,
        (_, Some(outcome)) => Exit::of_outcome(outcome),
        (_, None) => Exit::SYSTEM,
    }
}

struct Following<'a> {
    client: &'a Client,
    id: JobId,
    quiet: bool,
    output: JobOutput,
    state: Option<StateEvent>,
    started: bool,
}

impl Following<'_> {
    /// Follows until the job has ended; none when the user left it alone.
    async fn until_end(&mut self, interrupts: &mut Signals) -> Result<Option<EndEvent>, Failure> {
        let mut follower = Follower::new(self.client.clone(), self.id);
        let explain = tokio::time::sleep(WAIT_EXPLAINED_AFTER);
        tokio::pin!(explain);
        let (mut explained, mut cancelled) = (false, false);
        loop {
            tokio::select! {
                biased;
                () = interrupts.next() => {
                    if std::mem::replace(&mut cancelled, true) {
                        return Ok(None);
                    }
                    // a second one is heard also while a server does not answer to the first
                    tokio::select! {
                        biased;
                        () = interrupts.next() => return Ok(None),
                        () = self.cancel() => {}
                    }
                }
                followed = follower.next() => {
                    if let Some(end) = self.shown(followed?)? {
                        return Ok(Some(end));
                    }
                }
                () = &mut explain, if !explained => {
                    explained = true;
                    self.explain().await;
                }
            }
        }
    }

    fn shown(&mut self, followed: Followed) -> Result<Option<EndEvent>, Failure> {
        match followed {
            Followed::Log(chunk) => {
                self.started = true;
                self.output
                    .chunk(chunk.attempt, chunk.stream, chunk.seq, &chunk.bytes)?;
            }
            Followed::State(state) => {
                if self.state.as_ref() != Some(&state) {
                    let cancelling = if state.cancelling {
                        ", cancel asked for"
                    } else {
                        ""
                    };
                    if !state.state.is_terminal() {
                        self.say(&format!("{}: {}{cancelling}", self.id, state.state));
                    }
                    self.state = Some(state);
                }
            }
            Followed::Attempt(attempt) => {
                self.started = true;
                let text = format!("{}: attempt {} on {}", self.id, attempt.attempt, attempt.worker);
                self.say(&text);
            }
            Followed::Lost => self.say("the connection was lost; trying again"),
            Followed::Back => self.say("connected again"),
            Followed::End(end) => {
                self.output.finish()?;
                self.output.break_line();
                return Ok(Some(end));
            }
        }
        Ok(None)
    }

    async fn cancel(&mut self) {
        self.say("cancelling; Ctrl-C again leaves the job alone");
        let body = CancelRequestBody {
            why: Some("Ctrl-C".to_owned()),
        };
        let path = paths::job_cancel(self.id);
        let asked = self.client.call(&Call::post(&path).json(&body)).await;
        if let Err(failure) = asked {
            // it may have ended meanwhile; the follower knows better
            self.say(&format!("the cancel was not accepted: {failure}"));
        }
    }

    async fn explain(&mut self) {
        if self.started || self.quiet {
            return;
        }
        if let Some(why) = why::waiting_now(self.client, self.id).await {
            self.say(&format!("{}: waits: {why}", self.id));
        }
    }

    fn say(&mut self, text: &str) {
        if !self.quiet {
            self.output.break_line();
            note(text);
        }
    }
}

fn times(job: &JobView) {
    let last = job.attempts.last();
    let assigned = last.map(|attempt| attempt.assigned_at);
    let started = last.and_then(|attempt| attempt.started_at);
    let ended = last.and_then(|attempt| attempt.ended_at);
    let rows = [
        ("queued", show_between(Some(job.created_at), assigned)),
        ("to start", show_between(assigned, started)),
        ("run", show_between(started, ended)),
        ("in all", show_between(Some(job.created_at), job.ended_at)),
        ("on worker", last.and_then(steps)),
    ];
    for (name, value) in rows {
        if let Some(value) = value {
            note(&format!("{name:<10}{value}"));
        }
    }
}
