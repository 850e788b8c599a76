//! One attachment to a container's init: frames in, control lines out.
//!
//! Invariants: [`Attachment::frame`] may be dropped and loses nothing; a line that was only half written spoils
//! nothing, since the next begins with a newline. An attachment that failed is thrown away, never mended.

use std::pin::Pin;
use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error as EngineError;
use bollard::query_parameters::AttachContainerOptions;
use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};
use jobworker_init::protocol::{Command, Frame, FrameDecoder, encode_line};
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Longest wait for the engine to take one line. Init reads at all times, so only a stuck engine needs longer.
const SEND_MAX: Duration = Duration::from_secs(5);
/// What is kept of init's own words on standard error: why it could not begin.
const COMPLAINT_BYTES_MAX: usize = 500;

type Output = Pin<Box<dyn Stream<Item = Result<LogOutput, EngineError>> + Send>>;
type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// The line could not be handed over; attach anew.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("the engine did not take a line in time")]
    TimedOut,
    #[error("the attachment is broken")]
    Broken(#[from] std::io::Error),
    #[error("the command is too long for one line: {0}")]
    TooLong(#[from] jobworker_init::protocol::LineTooLong),
}

pub struct Attachment {
    output: Output,
    input: Input,
    decoder: FrameDecoder,
    /// Read and not decoded yet.
    pending: Bytes,
    complaint: String,
    generation: u64,
}

impl Attachment {
    /// # Errors
    /// The engine's.
    pub async fn open(docker: &Docker, container: &str, generation: u64) -> Result<Self, EngineError> {
        let options = AttachContainerOptions {
            stream: true,
            stdin: true,
            stdout: true,
            stderr: true,
            ..AttachContainerOptions::default()
        };
        let attached = docker.attach_container(container, Some(options)).await?;
        Ok(Self {
            output: attached.output,
            input: attached.input,
            decoder: FrameDecoder::new(),
            pending: Bytes::new(),
            complaint: String::new(),
            generation,
        })
    }

    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// What init said on standard error, if anything.
    pub fn complaint(&self) -> &str {
        &self.complaint
    }

    /// The next frame; none when the stream has ended.
    pub async fn frame(&mut self) -> Option<Frame> {
        loop {
            let mut input: &[u8] = &self.pending;
            let frame = self.decoder.next_frame(&mut input);
            let taken = self.pending.len() - input.len();
            self.pending.advance(taken);
            if frame.is_some() {
                return frame;
            }
            match self.output.next().await {
                None => return None,
                Some(Err(error)) => {
                    tracing::debug!(%error, "an attachment broke");
                    return None;
                }
                Some(Ok(LogOutput::StdOut { message })) => self.pending = message,
                Some(Ok(LogOutput::StdErr { message })) => self.complain(&message),
                Some(Ok(LogOutput::StdIn { .. } | LogOutput::Console { .. })) => {}
            }
        }
    }

    /// # Errors
    /// [`SendError`]; the attachment is of no more use then, unless the line was too long.
    pub async fn send(&mut self, command: &Command) -> Result<(), SendError> {
        let line = encode_line(self.generation, command)?;
        let write = async {
            self.input.write_all(&line).await?;
            self.input.flush().await
        };
        match tokio::time::timeout(SEND_MAX, write).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(SendError::TimedOut),
        }
    }

    fn complain(&mut self, message: &[u8]) {
        let text = String::from_utf8_lossy(message);
        let room = COMPLAINT_BYTES_MAX.saturating_sub(self.complaint.len());
        self.complaint
            .extend(text.chars().filter(|c| !c.is_control()).take(room / 4));
    }
}
