//! Images: had or fetched, and what they say of commands, resolved as `docker run` does it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::errors::Error as EngineError;
use bollard::models::ImageInspect;
use bollard::query_parameters::{CreateImageOptions, RemoveImageOptions};
use common::attempt::NotStartedReason;
use common::ids::AttemptId;
use common::job::{Command, JobSpec};
use common::time::SharedClock;
use futures_util::StreamExt;

use super::engine::{Engine, is_not_found, words};
use super::policy::{Policy, PullPolicy};
use crate::executor::StartFailure;

/// No word of progress for this long: the registry is gone.
const PULL_SILENCE_MAX: Duration = Duration::from_secs(120);
/// Image names remembered; one that fell out is looked up again.
const CACHE_MAX: usize = 256;
/// How long a name is taken to mean the same image, so that a moved tag is seen soon.
const CACHE_KEPT: Duration = Duration::from_secs(10);

/// Pulls at the same time; each may fill the disk and the line.
const PULLS_MAX: usize = 4;

fn place_of(name: &str) -> usize {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(name);
    usize::try_from(hash % PULLS_MAX as u64).expect("less than the places there are")
}

/// What of an image's configuration matters to a job.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageRules {
    pub id: String,
    pub digest: Option<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    pub working_dir: Option<String>,
    pub stop_signal: i32,
    pub volumes: Vec<String>,
}

/// A command as init gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedCommand {
    pub argv: Vec<String>,
    pub env: Vec<String>,
    pub dir: String,
    pub stop_signal: i32,
}

impl ImageRules {
    fn of(image: ImageInspect) -> Option<Self> {
        let config = image.config.unwrap_or_default();
        Some(Self {
            id: image.id?,
            digest: image
                .repo_digests
                .and_then(|digests| digests.into_iter().next())
                .and_then(|digest| digest.rsplit_once('@').map(|(_, digest)| digest.to_owned())),
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            env: config.env.unwrap_or_default(),
            working_dir: config.working_dir.filter(|dir| !dir.is_empty()),
            stop_signal: config
                .stop_signal
                .as_deref()
                .and_then(signal_number)
                .unwrap_or(SIGTERM),
            volumes: config.volumes.unwrap_or_default(),
        })
    }

    /// ENTRYPOINT, CMD, ENV, WORKDIR and STOPSIGNAL with what the job says over them.
    ///
    /// # Errors
    /// When neither names a command.
    pub fn resolve(&self, spec: &JobSpec, hostname: &str) -> Result<ResolvedCommand, StartFailure> {
        let explicit = spec.entrypoint.as_deref();
        let argv: Vec<String> = match &spec.command {
            Command::Shell(line) => explicit
                .unwrap_or_default()
                .iter()
                .cloned()
                .chain(["/bin/sh".to_owned(), "-c".to_owned(), line.clone()])
                .collect(),
            Command::Argv(argv) => {
                // as `docker run --entrypoint`: with another entry point the image's CMD means nothing
                let rest = if argv.is_empty() && explicit.is_none() {
                    &self.cmd
                } else {
                    argv
                };
                explicit
                    .unwrap_or(&self.entrypoint)
                    .iter()
                    .chain(rest)
                    .cloned()
                    .collect()
            }
        };
        if argv.is_empty() {
            return Err(StartFailure::NotStarted {
                reason: NotStartedReason::NoSuchCommand,
                message: "neither the job nor its image names a command".to_owned(),
            });
        }
        Ok(ResolvedCommand {
            argv,
            env: self.environment(spec, hostname),
            dir: spec
                .workdir
                .clone()
                .or_else(|| self.working_dir.clone())
                .unwrap_or_else(|| super::container::WORKSPACE_TARGET.to_owned()),
            stop_signal: self.stop_signal,
        })
    }

    fn environment(&self, spec: &JobSpec, hostname: &str) -> Vec<String> {
        let mut env = BTreeMap::from([
            (
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            ),
            ("HOSTNAME", hostname),
            // the one place that this user can write to
            ("HOME", super::container::WORKSPACE_TARGET),
        ]);
        env.extend(
            self.env
                .iter()
                .map(|entry| entry.split_once('=').unwrap_or((entry, ""))),
        );
        env.extend(
            spec.env
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
        );
        env.into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }
}

/// Looks images up and fetches what is missing; two jobs that miss the same one wait for one pull.
pub struct Images {
    engine: Arc<Engine>,
    clock: SharedClock,
    known: Mutex<HashMap<String, (ImageRules, common::time::Mono)>>,
    /// One of them for each name, by its hash: a slow registry holds up few other names, and nothing is kept of one.
    pulling: [tokio::sync::Mutex<()>; PULLS_MAX],
    /// Who waits for a pull.
    waiting: Mutex<BTreeSet<AttemptId>>,
}

/// In [`Images::waiting`] for as long as this lives: a wait that is given up ends it as well.
struct Wait<'a> {
    images: &'a Images,
    attempt: AttemptId,
}

impl<'a> Wait<'a> {
    fn begin(images: &'a Images, attempt: AttemptId) -> Self {
        images.waiting().insert(attempt);
        Self { images, attempt }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.images.waiting().remove(&self.attempt);
    }
}

impl Images {
    pub fn new(engine: Arc<Engine>, clock: SharedClock) -> Self {
        Self {
            engine,
            clock,
            known: Mutex::default(),
            pulling: Default::default(),
            waiting: Mutex::default(),
        }
    }

    pub fn is_pulling(&self, attempt: AttemptId) -> bool {
        self.waiting().contains(&attempt)
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeSet<AttemptId>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rules of the job's image, and how long a pull took where one was needed. Waits as long as the job lets it,
    /// another job's pull of the same image included; a pull that nobody waits for any more is given up.
    ///
    /// # Errors
    /// [`StartFailure::ImageUnavailable`] with the engine's words; `Infra` when the engine does not answer.
    pub async fn get(
        &self,
        attempt: AttemptId,
        spec: &JobSpec,
        policy: &Policy,
    ) -> Result<(ImageRules, Option<u64>), StartFailure> {
        let (name, within) = (&spec.image, spec.limits.pull);
        tokio::time::timeout(within, self.had_or_pulled(attempt, name, policy))
            .await
            .unwrap_or_else(|_| {
                Err(unavailable(format!(
                    "{name} was not here within {} ms, the job's limit for its image",
                    within.as_millis()
                )))
            })
    }

    async fn had_or_pulled(
        &self,
        attempt: AttemptId,
        name: &str,
        policy: &Policy,
    ) -> Result<(ImageRules, Option<u64>), StartFailure> {
        if let Some(rules) = self.remembered(name) {
            return Ok((rules, None));
        }
        if let Some(rules) = self.inspect(name).await? {
            return Ok((self.remember(name, rules), None));
        }
        if policy.pull == PullPolicy::Never {
            return Err(unavailable(format!(
                "{name} is not on this node, whose owner lets nothing be pulled"
            )));
        }
        let _told = Wait::begin(self, attempt);
        let _one_at_a_time = self.pulling[place_of(name)].lock().await;
        let began = self.clock.mono();
        if self.inspect(name).await?.is_none() {
            self.pull(name).await?;
        }
        let rules = self
            .inspect(name)
            .await?
            .ok_or_else(|| unavailable(format!("{name} was pulled and is not there")))?;
        self.check_size(name, policy).await?;
        let took = u64::try_from(self.clock.mono().since(began).as_millis()).unwrap_or(u64::MAX);
        Ok((self.remember(name, rules), Some(took)))
    }

    /// Forgets what a name meant: a container could not be made of it.
    pub fn forget(&self, name: &str) {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
    }

    fn remembered(&self, name: &str) -> Option<ImageRules> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (rules, at) = known.get(name)?;
        (self.clock.mono().since(*at) < CACHE_KEPT).then(|| rules.clone())
    }

    fn remember(&self, name: &str, rules: ImageRules) -> ImageRules {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= CACHE_MAX {
            known.clear();
        }
        known.insert(name.to_owned(), (rules.clone(), self.clock.mono()));
        rules
    }

    async fn inspect(&self, name: &str) -> Result<Option<ImageRules>, StartFailure> {
        let client = self.engine.client().map_err(|error| StartFailure::Infra {
            message: words(&error),
        })?;
        match client.inspect_image(name).await {
            Ok(image) => Ok(ImageRules::of(image)),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(EngineError::DockerResponseServerError { message, .. }) => Err(unavailable(message)),
            Err(error) => Err(StartFailure::Infra {
                message: words(&error),
            }),
        }
    }

    async fn check_size(&self, name: &str, policy: &Policy) -> Result<(), StartFailure> {
        let client = self.engine.client().map_err(|error| unavailable(words(&error)))?;
        let image = client
            .inspect_image(name)
            .await
            .map_err(|error| unavailable(words(&error)))?;
        let mib = u64::try_from(image.size.unwrap_or(0)).unwrap_or(0) / (1024 * 1024);
        if mib <= policy.image_mib_max {
            return Ok(());
        }
        // nobody used it yet
        if let Err(error) = client.remove_image(name, None::<RemoveImageOptions>, None).await {
            tracing::warn!(image = name, error = %words(&error), "an image that is too large could not be removed");
        }
        Err(unavailable(format!(
            "{name} has {mib} MiB, this node takes images of at most {}",
            policy.image_mib_max
        )))
    }

    async fn pull(&self, name: &str) -> Result<(), StartFailure> {
        let options = CreateImageOptions {
            from_image: Some(with_tag(name)),
            ..CreateImageOptions::default()
        };
        let client = self.engine.client().map_err(|error| unavailable(words(&error)))?;
        let mut progress = Box::pin(client.create_image(Some(options), None, None));
        loop {
            let step = tokio::time::timeout(PULL_SILENCE_MAX, progress.next())
                .await
                .map_err(|_| {
                    unavailable(format!(
                        "the pull of {name} stood still for {} s",
                        PULL_SILENCE_MAX.as_secs()
                    ))
                })?;
            match step {
                None => return Ok(()),
                Some(Err(error)) => {
                    return Err(unavailable(format!("{name} cannot be pulled: {}", words(&error))));
                }
                Some(Ok(step)) => {
                    if let Some(problem) = step.error_detail.and_then(|detail| detail.message) {
                        return Err(unavailable(format!("{name} cannot be pulled: {problem}")));
                    }
                    tracing::debug!(image = name, status = step.status, "pulling");
                }
            }
        }
    }
}

fn unavailable(message: String) -> StartFailure {
    StartFailure::ImageUnavailable { message }
}

/// A name without tag or digest would make the engine pull every tag.
fn with_tag(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') || name.contains('@') {
        name.to_owned()
    } else {
        format!("{name}:latest")
    }
}

const SIGTERM: i32 = 15;
/// The kernel's numbers of the first and the last real-time signal that programs may use.
const SIGRTMIN: i32 = 34;
const SIGRTMAX: i32 = 64;

/// `SIGINT`, `INT` or `2`; `RTMIN+n` and `RTMAX-n` too.
pub fn signal_number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=SIGRTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |sign: char, rest: &str| -> Option<i32> {
        if rest.is_empty() {
            Some(0)
        } else {
            rest.strip_prefix(sign)?.parse().ok()
        }
    };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return Some(SIGRTMIN + offset('+', rest)?).filter(|n| (SIGRTMIN..=SIGRTMAX).contains(n));
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return Some(SIGRTMAX - offset('-', rest)?).filter(|n| (SIGRTMIN..=SIGRTMAX).contains(n));
    }
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    NAMES
        .iter()
        .position(|known| *known == name)
        .and_then(|place| i32::try_from(place + 1).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::lifecycle::testing::spec;

    fn image() -> ImageRules {
        ImageRules {
            id: "sha256:aa".into(),
            entrypoint: vec!["/bin/entry".into()],
            cmd: vec!["from".into(), "CMD".into()],
            env: vec!["A=1".into(), "PATH=/bin".into()],
            working_dir: Some("/srv".into()),
            stop_signal: 2,
            ..ImageRules::default()
        }
    }

    fn argv(command: Command, entrypoint: Option<Vec<String>>) -> Vec<String> {
        let spec = JobSpec {
            command,
            entrypoint,
            workdir: None,
            ..spec()
        };
        image().resolve(&spec, "h").unwrap().argv
    }

    #[test]
    fn commands_are_put_together_as_docker_run_does() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(argv(Command::Argv(vec![]), None), words("/bin/entry from CMD"));
        assert_eq!(argv(Command::Argv(words("a b")), None), words("/bin/entry a b"));
        assert_eq!(argv(Command::Argv(words("a b")), Some(vec![])), words("a b"));
        assert_eq!(argv(Command::Argv(vec![]), Some(words("x y"))), words("x y"));
        assert_eq!(
            argv(Command::Shell("a | b".into()), None),
            ["/bin/sh", "-c", "a | b"]
        );
    }

    #[test]
    fn a_job_without_any_command_is_not_started() {
        let spec = JobSpec {
            command: Command::Argv(vec![]),
            entrypoint: Some(vec![]),
            ..spec()
        };
        assert!(matches!(
            image().resolve(&spec, "h"),
            Err(StartFailure::NotStarted {
                reason: NotStartedReason::NoSuchCommand,
                ..
            })
        ));
    }

    #[test]
    fn the_jobs_environment_stands_over_the_images() {
        let mut spec = spec();
        spec.workdir = None;
        spec.env = [("A".to_owned(), "2".to_owned())].into();
        let resolved = image().resolve(&spec, "h").unwrap();
        assert_eq!(
            resolved.env,
            ["A=2", "HOME=/workspace", "HOSTNAME=h", "PATH=/bin"]
        );
        assert_eq!((resolved.dir.as_str(), resolved.stop_signal), ("/srv", 2));
    }

    #[test]
    fn signals_are_known_by_name_and_number() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("2", 2),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("SIGWINCH", 28),
        ] {
            assert_eq!(signal_number(text), Some(number), "{text}");
        }
        for text in ["", "0", "65", "SIGNONE", "RTMIN+99", "RTMIN-1", "-1"] {
            assert_eq!(signal_number(text), None, "{text}");
        }
    }

    #[test]
    fn a_name_without_tag_never_pulls_every_tag() {
        assert_eq!(with_tag("127.0.0.1:5000/x"), "127.0.0.1:5000/x:latest");
        assert_eq!(with_tag("x:1"), "x:1");
        assert_eq!(with_tag("x@sha256:00"), "x@sha256:00");
    }
}
