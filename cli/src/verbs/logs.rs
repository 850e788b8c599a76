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
            Followed::Log(chunk, bytes) => {
                if args.stream.is_none_or(|only| only == chunk.stream) {
                    output.chunk(chunk.attempt, chunk.stream, chunk.seq, &bytes)?;
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
    let path = paths::job_logs(args.id);
    let mut tail = args.tail.map(|lines| Tail::new(lines as usize));
    let mut from = 0;
    loop {
        let mut call = Call::get(&path).query("from", from);
        if let Some(attempt) = args.attempt {
            call = call.query("attempt", attempt);
        }
        if let Some(stream) = args.stream {
            call = call.query("stream", stream.as_str());
        }
        let page: LogPageView = client.ask(&call).await?;
        for chunk in &page.chunks {
            let bytes = chunk
                .bytes()
                .ok_or_else(|| Failure::new("the server sent output that is not base64"))?;
            match &mut tail {
                Some(tail) => tail.push(chunk.stream, &bytes),
                None => output.chunk(chunk.attempt, chunk.stream, chunk.seq, &bytes)?,
            }
        }
        if page.chunks.is_empty() || page.next <= from {
            break;
        }
        from = page.next;
    }
    for (stream, bytes) in tail.iter().flat_map(Tail::pieces) {
        output.bytes(stream, bytes)?;
    }
    Ok(())
}

/// The last lines of what passes, both streams together; what cannot be among them any more is forgotten at once.
struct Tail {
    lines: usize,
    kept: std::collections::VecDeque<(Stream, Vec<u8>)>,
    /// Whether the last kept line of each stream has not ended.
    open: [bool; 2],
}

/// Longest line that is kept whole, so that output without line feeds does not grow memory.
const LINE_BYTES_MAX: usize = 1024 * 1024;

impl Tail {
    fn new(lines: usize) -> Self {
        Self {
            lines,
            kept: std::collections::VecDeque::new(),
            open: [false; 2],
        }
    }

    fn push(&mut self, stream: Stream, bytes: &[u8]) {
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let goes_on = std::mem::replace(&mut self.open[stream.index()], !line.ends_with(b"\n"));
            let last = self.kept.iter_mut().rev().find(|(kept, _)| *kept == stream);
            match last {
                Some((_, kept)) if goes_on && kept.len() < LINE_BYTES_MAX => kept.extend_from_slice(line),
                Some(_) | None => self.kept.push_back((stream, line.to_vec())),
            }
            while self.kept.len() > self.lines {
                self.kept.pop_front();
            }
        }
    }

    fn pieces(&self) -> impl Iterator<Item = (Stream, &[u8])> {
        self.kept
            .iter()
            .map(|(stream, bytes)| (*stream, bytes.as_slice()))
    }
}

/// The job as it stands.
pub async fn job(client: &Client, id: common::ids::JobId) -> Result<JobView, Failure> {
    client.ask(&Call::get(&paths::job(id))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail_of(lines: usize, pieces: &[(Stream, &str)]) -> String {
        let mut tail = Tail::new(lines);
        for (stream, piece) in pieces {
            tail.push(*stream, piece.as_bytes());
        }
        tail.pieces()
            .map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned())
            .collect()
    }

    #[test]
    fn the_tail_is_the_last_lines_wherever_chunks_end() {
        use Stream::{Stderr, Stdout};
        assert_eq!(tail_of(2, &[(Stdout, "a\nb\nc\n")]), "b\nc\n");
        assert_eq!(
            tail_of(2, &[(Stdout, "a\nb"), (Stdout, "b\nc"), (Stdout, "c\n")]),
            "bb\ncc\n"
        );
        assert_eq!(
            tail_of(2, &[(Stdout, "a\nb"), (Stderr, "e\n"), (Stdout, "b\n")]),
            "bb\ne\n"
        );
        assert_eq!(tail_of(1, &[(Stdout, "a\nunended")]), "unended");
        assert_eq!(tail_of(0, &[(Stdout, "a\n")]), "");
    }

    #[test]
    fn a_line_without_end_does_not_grow_memory() {
        let mut tail = Tail::new(3);
        for _ in 0..100 {
            tail.push(Stream::Stdout, &[b'x'; 100_000]);
        }
        let kept: usize = tail.pieces().map(|(_, bytes)| bytes.len()).sum();
        assert!(kept <= 4 * (LINE_BYTES_MAX + 100_000), "{kept}");
    }
}
