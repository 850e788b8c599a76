//! Flags that describe a job, shared by `run` and `submit`, and what they make of it.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use common::api_types::{CommandBody, InputBody, LimitsBody, ResourcesBody, RetryBody, SubmitJob};
use common::ids::{FileId, PoolName};

use crate::quantity::{cpu_millis, duration, pair, size_mib};

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "The job")]
pub struct JobArgs {
    /// Container image [default: the server's]
    #[arg(long, short, value_name = "IMAGE")]
    pub image: Option<String>,
    /// A name, for people
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Uploads this file or folder; the job finds it in /workspace (a folder's content, not the folder itself); may be
    /// repeated
    #[arg(long, short, value_name = "PATH")]
    pub file: Vec<PathBuf>,
    /// A file that was uploaded before, where it is to be, and whether it is an archive to unpack:
    /// `fil_…`, `fil_…:data/in.csv`, `fil_…:.:unpack`; may be repeated
    #[arg(long, value_name = "FILE[:PATH[:unpack]]", value_parser = input)]
    pub input: Vec<InputArg>,
    /// Sets a variable; `KEY` alone takes this shell's value; may be repeated
    #[arg(long, short, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// The working directory, absolute [default: the image's, else /workspace]
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Replaces the image's entry point; an empty text removes it
    #[arg(long, value_name = "COMMAND")]
    pub entrypoint: Option<String>,
    /// Gives the command to /bin/sh as one line, so that pipes and variables work within the container
    #[arg(long)]
    pub shell: bool,
    /// CPUs: `2`, `1.5`, `250m` [default: 1]
    #[arg(long, value_name = "N", value_parser = cpu_millis)]
    pub cpu: Option<u32>,
    /// Memory: `512m`, `2g` [default: 256m]
    #[arg(long, short, value_name = "SIZE", value_parser = size_mib)]
    pub memory: Option<u32>,
    /// Size of /workspace: `1g` [default: 1g]
    #[arg(long, value_name = "SIZE", value_parser = size_mib)]
    pub disk: Option<u32>,
    /// Longest run of one attempt: `90s`, `10m`, `1h30m` [default: 1h]
    #[arg(long, short, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Longest wait in the queue [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub queue_timeout: Option<Duration>,
    /// Longest wait of one attempt for its image [default: 30m]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub pull_timeout: Option<Duration>,
    /// From the stop signal to the kill [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub grace: Option<Duration>,
    /// Tries again so often after a failure of the command; failures of the system are retried anyway
    #[arg(long, value_name = "N")]
    pub retries: Option<u32>,
    /// Keeps files below /workspace that match this pattern, such as `out/**`; may be repeated
    #[arg(long, short, value_name = "GLOB")]
    pub artifact: Vec<String>,
    /// A mark of your own, for lists; may be repeated
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = pair)]
    pub label: Vec<(String, String)>,
    /// The group of workers that may run it [default: default]
    #[arg(long, value_name = "POOL")]
    pub pool: Option<PoolName>,
    /// A label that the worker must carry; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub worker_label: Vec<(String, String)>,
    /// Order among your account's own waiting jobs, -10 to 10, higher first
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub priority: Option<i8>,
}

/// A file on the server, as the command line names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputArg(pub InputBody);

#[derive(Debug, Args)]
#[command(after_help = "\
The job's stdout goes to stdout, its stderr to stderr; progress and messages go to stderr alone.
On a terminal, control sequences other than colours are taken out unless `--raw` is given; into
files and pipes the bytes go unchanged.

Ctrl-C cancels the job, with its grace, and stays until it has ended. A second Ctrl-C leaves it
alone: the job goes on ending by itself, and `jobworker logs -f ID` follows it.

Exit status: the command's own, or
  123 waited longer than --queue-timeout        126 the command is not executable in this image
  124 ran longer than --timeout                 127 no such command in this image
  125 not the command's fault: no such image,   128+N ended by signal N
      worker lost, server not reached, refused  130 cancelled     137 out of memory

Examples:
  jobworker run -- echo hi
  jobworker run --image python:3.13 --file . --memory 2g --timeout 30m -- python train.py
  jobworker run --file in.csv --artifact out.csv --out results --shell -- 'sort in.csv >out.csv'
  jobworker run --detach --name nightly -- ./build.sh")]
pub struct RunArgs {
    #[command(flatten)]
    pub job: JobArgs,
    /// Downloads the job's artifacts into this folder when it has ended; without `--artifact`, everything it left
    #[arg(long, short, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Prints the id and does not wait
    #[arg(long, short)]
    pub detach: bool,
    /// Passes control sequences on to the terminal as they are
    #[arg(long)]
    pub raw: bool,
    /// Prints how long each step took, on stderr, at the end
    #[arg(long)]
    pub times: bool,
    /// Says nothing but the job's own output and errors
    #[arg(long, short)]
    pub quiet: bool,
    /// The command and its arguments; without, the image's own
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A specification is the body that the API takes (`jobworker get --json ID | jq .spec` shows one);
a list of them is submitted in one request: all are stored, or none.

Examples:
  jobworker submit --name nightly --timeout 2h -- ./build.sh
  jobworker submit --spec job.json
  jq -n '[range(100) | {command: [\"echo\", tostring]}]' | jobworker submit --spec -
  id=$(jobworker submit -- sleep 60) && jobworker logs -f $id")]
pub struct SubmitArgs {
    #[command(flatten)]
    pub job: JobArgs,
    /// Reads one specification, or a list of them, from this file; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["command", "image", "name", "file", "input", "env", "workdir",
        "entrypoint", "shell", "cpu", "memory", "disk", "timeout", "queue_timeout", "pull_timeout", "grace", "retries", "artifact",
        "label", "pool", "worker_label", "priority"])]
    pub spec: Option<PathBuf>,
    /// Submitting the same again under this key returns the job stored first
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// The command and its arguments; without, the image's own
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

impl JobArgs {
    /// The request, files on this machine not yet among its inputs.
    ///
    /// # Errors
    /// A sentence about a flag that cannot be meant so.
    pub fn request(&self, command: &[String]) -> Result<SubmitJob, String> {
        let millis = |time: Option<Duration>| time.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
        let mut job = SubmitJob::of(self.command_body(command)?);
        job.name.clone_from(&self.name);
        job.image.clone_from(&self.image);
        job.workdir.clone_from(&self.workdir);
        job.entrypoint = self.entrypoint.as_ref().map(|text| match text.as_str() {
            "" => Vec::new(),
            program => vec![program.to_owned()],
        });
        for variable in &self.env {
            let (key, value) = environment(variable)?;
            job.env.insert(key, value);
        }
        job.inputs = self.input.iter().map(|input| input.0.clone()).collect();
        job.artifacts.clone_from(&self.artifact);
        job.resources = ResourcesBody {
            cpu_millis: self.cpu,
            memory_mib: self.memory,
            disk_mib: self.disk,
        };
        job.limits = LimitsBody {
            queue_ms: millis(self.queue_timeout),
            pull_ms: millis(self.pull_timeout),
            run_ms: millis(self.timeout),
            grace_ms: millis(self.grace),
        };
        job.retry = RetryBody {
            max_retries: self.retries,
            ..RetryBody::default()
        };
        job.pool.clone_from(&self.pool);
        job.worker_labels = self.worker_label.iter().cloned().collect();
        job.labels = self.label.iter().cloned().collect();
        job.priority = self.priority.unwrap_or(0);
        Ok(job)
    }

    fn command_body(&self, command: &[String]) -> Result<CommandBody, String> {
        match (self.shell, command) {
            (true, []) => Err("`--shell` needs a command line; expected `-- 'COMMAND LINE'`".to_owned()),
            (true, words) => Ok(CommandBody::Shell(words.join(" "))),
            (false, []) if self.image.is_none() => Err(
                "there is nothing to run; expected `-- COMMAND [ARGUMENT…]`, or an image that has a command"
                    .to_owned(),
            ),
            (false, words) => Ok(CommandBody::Argv(words.to_vec())),
        }
    }
}

fn environment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some(_) => pair(text),
        None => std::env::var(text)
            .map(|value| (text.to_owned(), value))
            .map_err(|_| format!("`--env {text}` takes this shell's value, but {text} is not set (or not text); expected `--env {text}=VALUE`")),
    }
}

fn input(text: &str) -> Result<InputArg, String> {
    let expected = |why: String| format!("{why}; expected `FILE`, `FILE:PATH` or `FILE:PATH:unpack`");
    let (file, place) = text.split_once(':').unwrap_or((text, ""));
    let file: FileId = file
        .parse()
        .map_err(|error| expected(format!("`{file}` is no file's id: {error}")))?;
    let (path, unpack) = match place.strip_suffix(":unpack") {
        Some(path) => (path, true),
        None => (place, false),
    };
    common::job::validate_path(path).map_err(|why| expected(format!("`{path}`: {why}")))?;
    Ok(InputArg(InputBody {
        file,
        path: path.to_owned(),
        unpack,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_names_file_place_and_unpacking() {
        let id = FileId::from_u128(7);
        let of = |text: String| input(&text).map(|input| (input.0.path, input.0.unpack));
        assert_eq!(of(format!("{id}")), Ok((String::new(), false)));
        assert_eq!(of(format!("{id}:data/in.csv")), Ok(("data/in.csv".into(), false)));
        assert_eq!(of(format!("{id}:.:unpack")), Ok((".".into(), true)));
        assert!(of("job_x:.".into()).unwrap_err().contains("fil_"));
        assert!(of(format!("{id}:../up")).is_err());
    }

    #[test]
    fn nothing_to_run_is_said_before_anything_is_sent() {
        assert!(
            JobArgs::default()
                .request(&[])
                .unwrap_err()
                .contains("-- COMMAND")
        );
        let image = JobArgs {
            image: Some("x".into()),
            ..JobArgs::default()
        };
        assert_eq!(image.request(&[]).unwrap().command, CommandBody::Argv(Vec::new()));
        let shell = JobArgs {
            shell: true,
            ..JobArgs::default()
        };
        assert_eq!(
            shell.request(&["a".into(), "| b".into()]).unwrap().command,
            CommandBody::Shell("a | b".into())
        );
    }
}
