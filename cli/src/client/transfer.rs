//! Files to and from the server, as streams: memory does not grow with their size.
//!
//! Both directions are checked by SHA-256. A download appears under its name whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use common::api_types::{FileView, paths};
use common::ids::FileId;
use reqwest::header::{CONTENT_DISPOSITION, CONTENT_TYPE, ETAG};
use reqwest::{Body, Response};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::{Call, Client, errors};
use crate::archive::{ArchiveError, Plan};
use crate::failure::{Failure, io as io_failure};
use crate::output::note;
use crate::output::progress::Progress;
use crate::output::sanitise::line;

/// Size of the pieces that are read and sent.
const PIECE_BYTES: usize = 128 * 1024;
/// How many pieces wait between disk and network: enough to keep both busy, 1 MiB at the most.
const PIECES_WAITING_MAX: usize = 8;
/// A server that sends nothing for so long in the middle of a file is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What is uploaded.
#[derive(Debug)]
pub enum Upload {
    File(PathBuf),
    /// Packed as tar.gz on the way.
    Folder(PathBuf),
}

impl Upload {
    /// # Errors
    /// There is no such file, or it is neither a file nor a folder.
    pub fn of(path: &Path) -> Result<Self, Failure> {
        let found = std::fs::metadata(path)
            .map_err(|error| io_failure(format!("read `{}`", path.display()), error))?;
        if found.is_dir() {
            Ok(Self::Folder(path.to_owned()))
        } else if found.is_file() {
            Ok(Self::File(path.to_owned()))
        } else {
            Err(
                Failure::new(format!("`{}` is neither a file nor a folder", path.display()))
                    .expected("something that has an end"),
            )
        }
    }

    pub const fn is_folder(&self) -> bool {
        matches!(self, Self::Folder(_))
    }

    /// What it is called on the server.
    pub fn name(&self) -> String {
        let (Self::File(path) | Self::Folder(path)) = self;
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let name = absolute
            .file_name()
            .map_or_else(|| "root".to_owned(), |name| name.to_string_lossy().into_owned());
        if self.is_folder() {
            format!("{name}.tar.gz")
        } else {
            name
        }
    }
}

/// Uploads a file, or a folder as tar.gz.
///
/// # Errors
/// Reading, sending, or the server's refusal.
pub async fn upload(client: &Client, what: Upload, quiet: bool) -> Result<FileView, Failure> {
    let name = what.name();
    let content_type = if what.is_folder() {
        "application/gzip"
    } else {
        "application/octet-stream"
    };
    let (pieces, received) = mpsc::channel(PIECES_WAITING_MAX);
    let label = format!("uploading {name}");
    let reading = tokio::task::spawn_blocking(move || produce(&what, &label, pieces, quiet));
    let body = Body::wrap_stream(futures_util::stream::unfold(
        received,
        |mut received| async move { received.recv().await.map(|piece| (piece, received)) },
    ));
    let request = client
        .request(&Call::post(paths::FILES).query("name", name))
        .header(CONTENT_TYPE, content_type)
        .body(body);
    let sent = request.send().await;
    let read = reading
        .await
        .map_err(|error| Failure::new("reading the file broke off").source(error))?;
    // an error of this side explains the broken request better than the request does
    let sha256 = match read {
        Ok(sha256) => sha256,
        Err(Stopped::Failed(failure)) => return Err(*failure),
        Err(Stopped::NobodyListens) => String::new(),
    };
    let file: FileView = client.read(sent).await?.parse()?;
    if file.sha256 == sha256 {
        Ok(file)
    } else {
        Err(Failure::new("the file was damaged on its way to the server")
            .expected(format!("the checksum {sha256}"))
            .next(format!(
                "upload it again; `jobworker files delete {}` removes the damaged one",
                file.id
            )))
    }
}

type Pieces = mpsc::Sender<Result<Bytes, io::Error>>;

enum Stopped {
    Failed(Box<Failure>),
    /// The request ended before its body; its answer says why.
    NobodyListens,
}

/// Reads what is uploaded and sends it in pieces; returns its SHA-256.
fn produce(what: &Upload, label: &str, pieces: Pieces, quiet: bool) -> Result<String, Stopped> {
    let mut sink = Sink {
        pieces: pieces.clone(),
        buffer: Vec::with_capacity(PIECE_BYTES),
        hash: Sha256::new(),
        closed: false,
    };
    let produced = match what {
        Upload::File(path) => read_file(path, &mut sink, label, quiet),
        Upload::Folder(path) => pack_folder(path, &mut sink, label, quiet),
    };
    match produced.and_then(|()| sink.flush().map_err(|error| io_failure("send the file", error))) {
        Ok(()) => Ok(data_encoding::HEXLOWER.encode(&sink.hash.finalize())),
        Err(_) if sink.closed => Err(Stopped::NobodyListens),
        Err(failure) => {
            // breaks the request off, so that half a file is never taken for a whole one
            let _ = pieces.blocking_send(Err(io::Error::other("reading failed")));
            Err(Stopped::Failed(Box::new(failure)))
        }
    }
}

fn read_file(path: &Path, sink: &mut Sink, label: &str, quiet: bool) -> Result<(), Failure> {
    let failed = |error| io_failure(format!("read `{}`", path.display()), error);
    let mut file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let progress = Progress::new(label, Some(bytes), quiet);
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let read = file.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            break;
        }
        sink.write_all(&buffer[..read]).map_err(failed)?;
        progress.add(read as u64);
    }
    progress.finish();
    Ok(())
}

fn pack_folder(path: &Path, sink: &mut Sink, label: &str, quiet: bool) -> Result<(), Failure> {
    let plan = Plan::of(path).map_err(archive_failure)?;
    for left_out in &plan.left_out {
        note(&format!("not uploaded: {}", line(left_out)));
    }
    let progress = Progress::new(label, Some(plan.bytes), quiet);
    let packed = plan.pack(sink, &mut |bytes| progress.add(bytes));
    progress.finish();
    packed.map_err(archive_failure)
}

fn archive_failure(error: ArchiveError) -> Failure {
    let next = match &error {
        ArchiveError::TooMany(_) => "name a smaller folder, or upload an archive that you packed yourself",
        ArchiveError::Changed(_) => "give the same command again when nothing writes there",
        ArchiveError::Read { .. } => "check that you may read it",
        ArchiveError::Write(_) => "give the same command again",
    };
    Failure::new(error.to_string()).next(next).source(error)
}

/// Collects bytes into pieces and sends them.
struct Sink {
    pieces: Pieces,
    buffer: Vec<u8>,
    hash: Sha256,
    closed: bool,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == PIECE_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::replace(
            &mut self.buffer,
            Vec::with_capacity(PIECE_BYTES),
        ));
        self.hash.update(&piece);
        self.pieces.blocking_send(Ok(piece)).map_err(|_| {
            self.closed = true;
            io::Error::from(io::ErrorKind::BrokenPipe)
        })
    }
}

/// Where a download goes.
#[derive(Debug)]
pub enum Target {
    Stdout,
    File { path: PathBuf, replace: bool },
}

/// A file that the server has begun to send.
#[derive(Debug)]
pub struct Download {
    id: FileId,
    response: Response,
    /// As its uploader called it. No path: it comes from outside.
    pub name: Option<String>,
    pub bytes: Option<u64>,
    sha256: Option<String>,
}

impl Download {
    /// # Errors
    /// The server's refusal.
    pub async fn begin(client: &Client, id: FileId) -> Result<Self, Failure> {
        let path = paths::file(id);
        let response = client.open(&Call::get(&path)).await?;
        let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        Ok(Self {
            id,
            name: text(CONTENT_DISPOSITION).and_then(file_name),
            bytes: response.content_length(),
            sha256: text(ETAG)
                .map(|tag| tag.trim_matches('"').to_owned())
                .filter(|tag| tag.len() == 64),
            response,
        })
    }

    /// Writes it to its place, and compares its checksum.
    ///
    /// # Errors
    /// A broken connection, a damaged file, or this machine's disk.
    pub async fn save(
        mut self,
        client: &Client,
        target: &Target,
        progress: &Progress,
    ) -> Result<(), Failure> {
        let mut place = Place::open(target)?;
        let mut hash = Sha256::new();
        while let Some(piece) = next_piece(client, &mut self.response).await? {
            hash.update(&piece);
            place.write(&piece)?;
            progress.add(piece.len() as u64);
        }
        let found = data_encoding::HEXLOWER.encode(&hash.finalize());
        if self.sha256.is_some_and(|expected| expected != found) {
            return Err(Failure::new(format!("{} was damaged on its way", self.id))
                .expected("the checksum that the server told")
                .next("give the same command again"));
        }
        place.finish()
    }
}

/// The name in `attachment; filename*=UTF-8''…`.
fn file_name(disposition: &str) -> Option<String> {
    let (_, encoded) = disposition.split_once("filename*=UTF-8''")?;
    let encoded = encoded.split(';').next().unwrap_or_default().trim();
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

async fn next_piece(client: &Client, response: &mut Response) -> Result<Option<Bytes>, Failure> {
    match tokio::time::timeout(SILENCE_MAX, response.chunk()).await {
        Ok(piece) => piece.map_err(|error| errors::transport(client.server(), error)),
        Err(_) => Err(Failure::new(format!(
            "{} stopped sending in the middle of a file",
            client.server()
        ))
        .next("give the same command again")),
    }
}

/// A file that is written under another name until it is whole; removed when it is given up.
enum Place {
    Stdout,
    File {
        file: File,
        temporary: PathBuf,
        path: PathBuf,
        replace: bool,
        kept: bool,
    },
}

impl Place {
    fn open(target: &Target) -> Result<Self, Failure> {
        let Target::File { path, replace } = target else {
            return Ok(Self::Stdout);
        };
        if !replace && path.symlink_metadata().is_ok() {
            return Err(in_the_way(path));
        }
        let failed = |error| io_failure(format!("write `{}`", path.display()), error);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        std::fs::create_dir_all(folder.unwrap_or(Path::new("."))).map_err(failed)?;
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{:08x}.part", rand::random::<u32>()));
        let temporary = path.with_file_name(name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)
            .map_err(failed)?;
        Ok(Self::File {
            file,
            temporary,
            path: path.clone(),
            replace: *replace,
            kept: false,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Stdout => crate::output::print(bytes),
            Self::File { file, path, .. } => file
                .write_all(bytes)
                .map_err(|error| io_failure(format!("write `{}`", path.display()), error)),
        }
    }

    fn finish(mut self) -> Result<(), Failure> {
        let Self::File {
            temporary,
            path,
            replace,
            kept,
            ..
        } = &mut self
        else {
            return Ok(());
        };
        // a link refuses a name that is taken, where renaming would replace it
        let named = if *replace {
            std::fs::rename(&temporary, &path).inspect(|()| *kept = true)
        } else {
            std::fs::hard_link(&temporary, &path)
        };
        named.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => in_the_way(path),
            _ => io_failure(format!("write `{}`", path.display()), error),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Self::File {
            temporary,
            kept: false,
            ..
        } = self
        {
            let _ = std::fs::remove_file(temporary);
        }
    }
}

fn in_the_way(path: &Path) -> Failure {
    Failure::new(format!("`{}` is there already", path.display()))
        .next("name another place, or replace it with `--force`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_was_given() {
        let of = |text: &str| file_name(&format!("attachment; filename*=UTF-8''{text}"));
        assert_eq!(of("data.csv").as_deref(), Some("data.csv"));
        assert_eq!(of("%C3%A4%20b%2Fc").as_deref(), Some("ä b/c"));
        assert_eq!(of("%zz"), None);
        assert_eq!(of("%C3"), None);
        assert_eq!(file_name("inline"), None);
    }
}
