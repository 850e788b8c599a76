//! What the node's owner allows. The server cannot override it.

use common::protocol::Assignment;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::Deserialize;

use super::container::PIDS_MAX;

/// When the engine is asked to fetch an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    /// Only one that is not there.
    #[default]
    Missing,
    /// Not at all: jobs use what the owner put there.
    Never,
}

/// The owner's rules. Empty lists allow everything.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Globs over image names, such as `registry.example/team/**`; a single `*` stops at a slash.
    pub images: Vec<String>,
    /// Accounts whose jobs are taken.
    pub accounts: Vec<String>,
    pub pull: PullPolicy,
    /// Largest image that is kept after a pull, in MiB.
    pub image_mib_max: u64,
    /// The engine's name of another runtime, such as `runsc`.
    pub runtime: Option<String>,
    /// Processes and threads a job; at most 256.
    pub pids_max: i64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            images: Vec::new(),
            accounts: Vec::new(),
            pull: PullPolicy::default(),
            image_mib_max: 20 * 1024,
            runtime: None,
            pids_max: PIDS_MAX,
        }
    }
}

impl Policy {
    /// # Errors
    /// A sentence that names the pattern that is none.
    pub fn check(&self) -> Result<(), String> {
        self.image_globs().map(|_| ())
    }

    /// Why this node does not take it; none where it does.
    pub fn refusal(&self, assignment: &Assignment) -> Option<String> {
        let account = assignment.account.as_str();
        if !self.accounts.is_empty() && !self.accounts.iter().any(|allowed| allowed == account) {
            return Some("the node's owner takes no jobs of this account".to_owned());
        }
        let image = &assignment.spec.image;
        match self.image_globs() {
            Ok(globs) if !self.images.is_empty() && !globs.is_match(image) => {
                Some(format!("the node's owner does not allow the image {image}"))
            }
            Ok(_) => None,
            Err(message) => Some(message),
        }
    }

    fn image_globs(&self) -> Result<GlobSet, String> {
        let mut globs = GlobSetBuilder::new();
        for pattern in &self.images {
            // `busybox*` is not to mean `busybox.example/anything`
            let glob = GlobBuilder::new(pattern).literal_separator(true).build();
            globs.add(glob.map_err(|error| format!("policy, images: {error}"))?);
        }
        globs.build().map_err(|error| format!("policy, images: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::ids::{AttemptId, JobId};
    use common::job::JobSpec;
    use common::lifecycle::testing::spec;

    fn refusal(policy: &Policy, account: &str, image: &str) -> Option<String> {
        policy.refusal(&Assignment {
            job: JobId::random(),
            attempt: AttemptId::random(),
            number: 1,
            account: account.parse().unwrap(),
            spec: JobSpec {
                image: image.to_owned(),
                ..spec()
            },
            inputs: Vec::new(),
            log_bytes_max: 1,
        })
    }

    #[test]
    fn an_image_is_taken_only_where_a_glob_means_it() {
        let policy = Policy {
            images: vec!["busybox*".to_owned(), "registry.example/team/**".to_owned()],
            ..Policy::default()
        };
        for image in ["busybox", "busybox:1", "registry.example/team/a/b:2"] {
            assert_eq!(refusal(&policy, "acme", image), None, "{image}");
        }
        for image in [
            "alpine",
            "busybox.example/x",
            "registry.example/other",
            "x/registry.example/team/a",
        ] {
            assert!(refusal(&policy, "acme", image).is_some(), "{image}");
        }
        assert_eq!(refusal(&Policy::default(), "acme", "any/thing"), None);
    }

    #[test]
    fn an_account_is_taken_only_where_it_is_named() {
        let policy = Policy {
            accounts: vec!["acme".to_owned()],
            ..Policy::default()
        };
        assert_eq!(refusal(&policy, "acme", "a"), None);
        assert!(refusal(&policy, "other", "a").is_some());
    }

    #[test]
    fn a_pattern_that_is_none_is_said_at_the_start() {
        let policy = Policy {
            images: vec!["a[".to_owned()],
            ..Policy::default()
        };
        assert!(policy.check().unwrap_err().contains("policy, images"));
    }
}
