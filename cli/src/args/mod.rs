//! The command line: verbs, flags and their help. What is promised here is explained in `cli/README.md`, and a test
//! holds the two together.

mod job;
mod up;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use common::ids::{FileId, JobId};
use common::job::StateName;
use common::log::Stream;

pub use self::job::{InputArg, JobArgs, RunArgs, SubmitArgs};
pub use self::up::UpArgs;

use crate::quantity::pair;

/// Runs commands in hardened containers on your own machines: submits them, follows them, fetches what they left.
#[derive(Debug, Parser)]
#[command(
    name = "jobworker",
    version,
    max_term_width = 100,
    propagate_version = true,
    after_help = "Begin with:\n  jobworker up                      in one terminal: everything on this machine\n  \
                  jobworker login                   in another, with the password that `up` printed\n  \
                  jobworker run -- echo hi          runs a job and shows its output\n\n\
                  Exit status: 0 done, 1 it could not be done, 2 the command line was not understood; `run` ends as \
                  its job did (see `jobworker run --help`)."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// Address of the API [default: that of the last login, else http://127.0.0.1:3000]
    #[arg(
        long,
        global = true,
        env = "JOBWORKER_SERVER",
        value_name = "URL",
        hide_env_values = true
    )]
    pub server: Option<String>,
    /// A bearer token or API key, instead of the one that `login` saved
    #[arg(
        long,
        global = true,
        env = "JOBWORKER_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    pub token: Option<String>,
    /// Prints the API's own JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Starts everything in this process: API, scheduler, one worker, embedded store
    Up(Box<UpArgs>),
    /// Signs in to a server and saves the token for this user alone
    Login(LoginArgs),
    /// Ends the sign-in and removes the saved token
    Logout,
    /// Runs a job and stays: shows its output as it comes, ends as the job did
    Run(Box<RunArgs>),
    /// Submits a job, or many, prints the ids and does not wait
    Submit(Box<SubmitArgs>),
    /// Shows all that is known of a job
    Get(GetArgs),
    /// Says why a job waits, where it runs, or how it ended, and what to do
    Why(WhyArgs),
    /// Prints a job's output
    Logs(LogsArgs),
    /// Cancels jobs: what waits ends at once, what runs is stopped with its grace
    Cancel(CancelArgs),
    /// Lists jobs, newest first
    List(ListArgs),
    /// Lists the workers, and why one takes no work
    Workers,
    /// Uploads, downloads, lists and deletes files
    #[command(subcommand)]
    Files(FilesVerb),
    /// Lists or downloads the files that a job left
    Artifacts(ArtifactsArgs),
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  jobworker login\n  jobworker login --server http://10.0.0.5:3000 --user ada\n  \
                        jobworker login --user admin --password-stdin < password-file"
)]
pub struct LoginArgs {
    /// Who signs in
    #[arg(long, short, default_value = "admin", value_name = "NAME")]
    pub user: String,
    /// Reads the password from the first line of standard input instead of asking for it
    #[arg(long)]
    pub password_stdin: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  jobworker get job_01h…\n  jobworker get --json job_01h… | jq .outcome")]
pub struct GetArgs {
    /// The job's id
    #[arg(value_name = "ID")]
    pub id: JobId,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Of a job that waits: the one reason, its place in the queue, when it may start where that can be \
                        told, and what each worker has to say. Of one that has ended: who or what ended it, on which \
                        evidence, and what to do next.\n\nExamples:\n  jobworker why job_01h…\n  \
                        jobworker why --json job_01h… | jq -r .waiting.reason"
)]
pub struct WhyArgs {
    /// The job's id
    #[arg(value_name = "ID")]
    pub id: JobId,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Without `-f` it prints what is stored and ends; with it, it stays until the job has ended. \
                        Output of the job's stdout goes to stdout, of its stderr to stderr.\n\n\
                        Control sequences other than colours are taken out where a terminal would obey them. Into \
                        files and pipes the bytes go unchanged.\n\n\
                        Examples:\n  jobworker logs -f job_01h…\n  jobworker logs --stream stderr --tail 20 job_01h…\n  \
                        jobworker logs job_01h… > output.bin"
)]
pub struct LogsArgs {
    /// The job's id
    #[arg(value_name = "ID")]
    pub id: JobId,
    /// Stays and prints what comes, through retries, until the job has ended
    #[arg(long, short)]
    pub follow: bool,
    /// Only this stream: stdout or stderr
    #[arg(long, value_name = "STREAM", value_parser = stream)]
    pub stream: Option<Stream>,
    /// Only the last N lines of each stream, of what is stored
    #[arg(long, short = 'n', value_name = "N", conflicts_with = "follow")]
    pub tail: Option<u32>,
    /// Of this attempt (1 is the first) instead of the last
    #[arg(long, value_name = "N", conflicts_with = "follow")]
    pub attempt: Option<u32>,
    /// Passes control sequences on to the terminal as they are
    #[arg(long)]
    pub raw: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "A running job is cancelled when its worker confirms it: `jobworker get` shows that it has \
                        been asked for.\n\nExamples:\n  jobworker cancel job_01h…\n  \
                        jobworker cancel --why 'wrong input' job_01h… job_01j…"
)]
pub struct CancelArgs {
    /// The jobs' ids
    #[arg(value_name = "ID", required = true, num_args = 1..=1_000)]
    pub ids: Vec<JobId>,
    /// Why, for those who read the job later
    #[arg(long, value_name = "TEXT")]
    pub why: Option<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  jobworker list\n  jobworker list --state running --state queued\n  \
                        jobworker list --label team=vision --limit 200\n  \
                        jobworker list --json | jq -r '.jobs[].id'"
)]
pub struct ListArgs {
    /// Only jobs in this state; may be repeated
    #[arg(long, value_name = "STATE")]
    pub state: Vec<StateName>,
    /// Only jobs that carry this label; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub label: Vec<(String, String)>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=200))]
    pub limit: u32,
    /// Goes on where an earlier list ended
    #[arg(long, value_name = "CURSOR")]
    pub cursor: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum FilesVerb {
    /// Uploads a file, or a folder as tar.gz, and prints its id
    #[command(
        after_help = "Examples:\n  jobworker files upload data.csv\n  jobworker files upload ./project"
    )]
    Upload {
        /// Files or folders
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<PathBuf>,
    },
    /// Downloads a file
    #[command(after_help = "Examples:\n  jobworker files download fil_01h…\n  \
                            jobworker files download fil_01h… --to - | tar tz")]
    Download {
        /// The file's id
        #[arg(value_name = "ID")]
        id: FileId,
        /// Where to: a file, a folder, or `-` for stdout [default: its own name, here]
        #[arg(long, value_name = "PATH")]
        to: Option<PathBuf>,
        /// Replaces a file that is there
        #[arg(long)]
        force: bool,
    },
    /// Lists uploaded files and artifacts, newest first
    List {
        /// At most so many
        #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=200))]
        limit: u32,
    },
    /// Deletes files
    Delete {
        /// The files' ids
        #[arg(value_name = "ID", required = true)]
        ids: Vec<FileId>,
    },
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  jobworker artifacts job_01h…\n  jobworker artifacts job_01h… --download results\n\n\
                        Checksums are compared while downloading; no file is written outside of the folder, and none \
                        that is there is replaced unless `--force` is given."
)]
pub struct ArtifactsArgs {
    /// The job's id
    #[arg(value_name = "ID")]
    pub id: JobId,
    /// Downloads them into this folder, under their own paths
    #[arg(long, value_name = "DIR")]
    pub download: Option<PathBuf>,
    /// Replaces files that are there
    #[arg(long, requires = "download")]
    pub force: bool,
}

fn stream(text: &str) -> Result<Stream, String> {
    Stream::ALL
        .into_iter()
        .find(|stream| stream.as_str() == text)
        .ok_or_else(|| "expected `stdout` or `stderr`".to_owned())
}
