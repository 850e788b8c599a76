//! `logs`: what is stored of a job's output, or with `-f` all of it as it comes.

use common::api_types::{JobView, LogPageView, paths};
use common::log::Stream;

use super::Session;
use crate::args::LogsArgs;
use crate::client::{Call, Client, Followed, Follower};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::note;
use crate::output::stream::JobOutput;

pub async fn perform(session: &Session, args: LogsArgs) -> Result<Exit, Failure> {
    let client = session.client()?;
    let mut output = JobOutput::new(args.raw);
    if args.follow {
        follow(&client, &args, &mut output).await?;
    } else {
        stored(&client, &args, &mut output).await?;
    }
    output.finish()?;
    Ok(Exit::SUCCESS)
}

async fn follow(client: &Client, args: &LogsArgs, output: &mut JobOutput) -> Result<(), Failure> {
    let mut follower = Follower::new(client.clone(), args.id);
    loop {
        match follower.next().await? {
            Followed::Log(chunk) => {
                if args.stream.is_none_or(|only| only == chunk.stream) {
                    output.chunk(chunk.attempt, chunk.stream, chunk.seq, &chunk.bytes)?;
                }
            }
            Followed::Lost => {
                output.break_line();
                note("the connection was lost; trying again");
            }
            Followed::Back => note("connected again"),
            Followed::Attempt(attempt) if attempt.attempt > 1 => {
                output.break_line();
                note(&format!("attempt {} on {}", attempt.attempt, attempt.worker));
            }
            Followed::Attempt(_) | Followed::State(_) => {}
            Followed::End(_) => return Ok(()),
        }
    }
}

async fn stored(client: &Client, args: &LogsArgs, output: &mut JobOutput) -> Result<(), Failure> {
    if let Some(lines) = args.tail {
        return tail(client, args, lines, output).await;
    }
    let path = paths::job_logs(args.id);
    let mut from = 0;
    loop {
        let page: LogPageView = client.ask(&selected(&path, args).query("from", from)).await?;
        for chunk in &page.chunks {
            let bytes = chunk
                .bytes()
                .ok_or_else(|| Failure::new("the server sent output that is not base64"))?;
            output.chunk(chunk.attempt, chunk.stream, chunk.seq, &bytes)?;
        }
        if page.chunks.is_empty() || page.complete || page.next <= from {
            return Ok(());
        }
        from = page.next;
    }
}

/// The last lines of each stream.
async fn tail(client: &Client, args: &LogsArgs, lines: u32, output: &mut JobOutput) -> Result<(), Failure> {
    let path = paths::job_logs_raw(args.id);
    for stream in Stream::ALL {
        if args.stream.is_none_or(|only| only == stream) {
            let mut call = Call::get(&path)
                .query("stream", stream.as_str())
                .query("tail", lines);
            if let Some(attempt) = args.attempt {
                call = call.query("attempt", attempt);
            }
            output.bytes(stream, &client.call(&call).await?.0)?;
        }
    }
    Ok(())
}

fn selected<'a>(path: &'a str, args: &LogsArgs) -> Call<'a> {
    let mut call = Call::get(path);
    if let Some(attempt) = args.attempt {
        call = call.query("attempt", attempt);
    }
    if let Some(stream) = args.stream {
        call = call.query("stream", stream.as_str());
    }
    call
}

/// The job as it stands.
pub async fn job(client: &Client, id: common::ids::JobId) -> Result<JobView, Failure> {
    client.ask(&Call::get(&paths::job(id))).await
}
