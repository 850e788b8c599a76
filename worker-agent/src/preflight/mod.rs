//! Whether this node can start jobs now, and what its engine is; each problem a sentence that says what to do.
//!
//! Nothing is remembered between two looks, so the condition recovers by itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::worker::Condition;

use crate::executor::Description;
use crate::executor::docker::{Engine, Health, install_init, words};

/// An engine that takes longer to say that it is there cannot start jobs well.
const ENGINE_ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// Below this much free disk nothing new is taken: what runs needs room for its output.
const DISK_FREE_MIN_BYTES: u64 = 256 * 1024 * 1024;
/// The oldest runc whose known escapes are mended; distributions mend older numbers too, so it is only a note.
const RUNC_WANTED: (u32, u32, u32) = (1, 2, 8);

/// Looks at the node.
pub struct Preflight {
    engine: Arc<Engine>,
    state: PathBuf,
    init: Option<PathBuf>,
    image_default: Option<String>,
}

impl Preflight {
    pub const fn new(
        engine: Arc<Engine>,
        state: PathBuf,
        init: Option<PathBuf>,
        image_default: Option<String>,
    ) -> Self {
        Self {
            engine,
            state,
            init,
            image_default,
        }
    }

    /// Ready, or every reason why not.
    pub async fn condition(&self) -> Condition {
        let mut reasons = Vec::new();
        match tokio::time::timeout(ENGINE_ANSWERS_WITHIN, self.engine_problems()).await {
            Ok(problems) => reasons.extend(problems),
            Err(_) => reasons.push(format!(
                "the Docker engine at {} takes longer than {} s to answer",
                self.engine.socket.display(),
                ENGINE_ANSWERS_WITHIN.as_secs()
            )),
        }
        reasons.extend(disk_problem(&self.state));
        let (init, state) = (self.init.clone(), self.state.clone());
        match tokio::task::spawn_blocking(move || install_init(init.as_deref(), &state)).await {
            Ok(Ok(_)) => {}
            Ok(Err(problem)) => reasons.push(problem),
            Err(error) => reasons.push(format!("jobworker-init could not be looked at: {error}")),
        }
        if reasons.is_empty() {
            Condition::Ready
        } else {
            Condition::Unready { reasons }
        }
    }

    async fn engine_problems(&self) -> Vec<String> {
        let socket = self.engine.socket.display();
        let silent = |error: &bollard::errors::Error| {
            format!(
                "the Docker engine does not answer at {socket}: start it (systemctl start docker), or name its socket in DOCKER_HOST ({})",
                words(error)
            )
        };
        let client = match self.engine.client() {
            Ok(client) => client,
            Err(error) => return vec![silent(&error)],
        };
        let health = match self.engine.health().await {
            Ok(health) => health,
            Err(error) => return vec![silent(&error)],
        };
        let mut problems = Vec::new();
        if health == Health::WithoutContainerd {
            problems.push(
                "the Docker engine has lost its containerd: it starts another within a minute, or start the engine anew \
                 (systemctl restart docker)"
                    .to_owned(),
            );
        }
        if let Some(image) = &self.image_default
            && client.inspect_image(image).await.is_err()
        {
            problems.push(format!(
                "the default image {image} is not on this node: docker pull {image}"
            ));
        }
        problems
    }

    /// Facts for the worker's description. Without an engine it says only what the machine is.
    pub async fn describe(&self) -> Description {
        let mut description = Description {
            os: std::env::consts::OS.to_owned(),
            architecture: std::env::consts::ARCH.to_owned(),
            notes: Vec::new(),
        };
        let Ok(client) = self.engine.client() else {
            return description;
        };
        let Ok(Ok(info)) = tokio::time::timeout(ENGINE_ANSWERS_WITHIN, client.info()).await else {
            return description;
        };
        if let Some(os) = info.operating_system {
            description.os = os;
        }
        if let Some(version) = info.server_version {
            description.notes.push(format!("docker {version}"));
        }
        if let Some(version) = info.cgroup_version {
            description.notes.push(format!("cgroup v{version}"));
        }
        let security = info.security_options.unwrap_or_default().join(" ");
        for module in ["apparmor", "selinux"] {
            if security.contains(module) {
                description.notes.push(module.to_owned());
            }
        }
        if !security.contains("apparmor") && !security.contains("selinux") {
            description.notes.push("no_lsm".to_owned());
        }
        if !security.contains("seccomp") {
            description.notes.push("no_seccomp".to_owned());
        }
        if let Ok(Ok(version)) = tokio::time::timeout(ENGINE_ANSWERS_WITHIN, client.version()).await {
            let runc = version
                .components
                .unwrap_or_default()
                .into_iter()
                .find(|part| part.name == "runc");
            if let Some(runc) = runc {
                description.notes.push(format!("runc {}", runc.version));
                if is_older(&runc.version, RUNC_WANTED) {
                    description.notes.push("runc_old".to_owned());
                }
            }
        }
        description
    }
}

fn disk_problem(folder: &Path) -> Option<String> {
    match rustix::fs::statvfs(folder) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            (free < DISK_FREE_MIN_BYTES).then(|| {
                format!(
                    "disk: {} MiB free at {}, {} MiB are wanted",
                    free / 1024 / 1024,
                    folder.display(),
                    DISK_FREE_MIN_BYTES / 1024 / 1024
                )
            })
        }
        Err(error) => Some(format!(
            "the disk at {} cannot be looked at: {error}",
            folder.display()
        )),
    }
}

/// Numbers only; what follows them is a distribution's own.
fn is_older(version: &str, wanted: (u32, u32, u32)) -> bool {
    let mut numbers = version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse::<u32>().ok());
    let found = (numbers.next(), numbers.next(), numbers.next());
    matches!(found, (Some(major), Some(minor), patch) if (major, minor, patch.unwrap_or(0)) < wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_a_distributions_tail_are_compared() {
        assert!(is_older("1.1.5+ds1", RUNC_WANTED));
        assert!(!is_older("1.2.8", RUNC_WANTED));
        assert!(!is_older("1.10.0~rc1", RUNC_WANTED));
        assert!(!is_older("unknown", RUNC_WANTED));
    }

    #[tokio::test]
    async fn an_engine_that_is_away_and_a_missing_init_are_two_sentences() {
        let folder = tempfile::tempdir().unwrap();
        let preflight = Preflight::new(
            Arc::new(Engine::at(folder.path().join("docker.sock"))),
            folder.path().to_path_buf(),
            Some(folder.path().join("no-init")),
            None,
        );
        let Condition::Unready { reasons } = preflight.condition().await else {
            panic!("ready without an engine")
        };
        assert_eq!(reasons.len(), 2, "{reasons:?}");
        assert!(
            reasons[0].contains("does not answer at") && reasons[0].contains("docker.sock"),
            "{reasons:?}"
        );
        assert!(reasons[1].contains("JOBWORKER_INIT"), "{reasons:?}");
    }

    #[tokio::test]
    async fn a_socket_nobody_listens_on_is_no_engine() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let preflight = Preflight::new(
            Arc::new(Engine::at(socket)),
            folder.path().to_path_buf(),
            None,
            None,
        );
        assert!(preflight.engine_problems().await[0].contains("does not answer"));
    }

    /// Answers everything with `body`, as an engine would.
    async fn answer_all(listener: tokio::net::UnixListener, body: &'static str) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4_096];
            if stream.read(&mut request).await.is_ok() {
                let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
            }
        }
    }

    #[tokio::test]
    async fn an_engine_that_has_lost_its_containerd_starts_nothing() {
        for (body, lost) in [
            (r#"{"ContainerdCommit":{"ID":"N/A","Expected":""}}"#, true),
            (
                r#"{"ContainerdCommit":{"ID":"1.6.20","Expected":"1.6.20"}}"#,
                false,
            ),
            ("{}", false),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let socket = folder.path().join("docker.sock");
            let listener = tokio::net::UnixListener::bind(&socket).unwrap();
            let preflight = Preflight::new(
                Arc::new(Engine::at(socket)),
                folder.path().to_path_buf(),
                None,
                None,
            );
            let problems = tokio::select! {
                problems = preflight.engine_problems() => problems,
                () = answer_all(listener, body) => unreachable!("it answers for ever"),
            };
            let told = problems.iter().any(|problem| problem.contains("containerd"));
            assert!(
                told == lost && problems.len() == usize::from(lost),
                "{body}: {problems:?}"
            );
        }
    }
}
