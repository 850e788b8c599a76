//! Who this user is signed in as, by server: one private file.
//!
//! The file is `credentials.json` in `$JOBWORKER_CONFIG`, else in `$XDG_CONFIG_HOME/jobworker`, else in
//! `~/.config/jobworker`. A file that others may read is not used.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, io};
use crate::private_file;

/// Where a server is looked for when nobody says otherwise: what `jobworker up` listens on.
pub const SERVER_DEFAULT: &str = "http://127.0.0.1:3000";

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The server of the last login: the one that is meant when none is named.
    #[serde(default)]
    pub current: Option<String>,
    #[serde(default)]
    pub servers: BTreeMap<String, SignIn>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignIn {
    pub user: String,
    pub token: String,
}

impl std::fmt::Debug for SignIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignIn")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// Reads the file; nothing where there is none.
    ///
    /// # Errors
    /// A file that cannot be read, is not ours, or is open to others.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(io(format!("read `{}`", path.display()), error)),
        };
        let shown = path.display();
        if private_file::is_open_to_others(path).map_err(|error| io(format!("look at `{shown}`"), error))? {
            return Err(
                Failure::new(format!("`{shown}` holds tokens, and others may read it"))
                    .expected("a file with mode 0600")
                    .next(format!(
                        "run `chmod 600 {shown}`, or sign in again: `jobworker login`"
                    )),
            );
        }
        serde_json::from_str(&text).map_err(|error| {
            Failure::new(format!("`{shown}` is not a credentials file"))
                .source(error)
                .next("remove it and sign in again: `jobworker login`")
        })
    }

    /// # Errors
    /// What the file system says.
    pub fn save(&self, path: &Path) -> Result<(), Failure> {
        let mut text =
            serde_json::to_vec_pretty(self).map_err(|error| Failure::new("could not write").source(error))?;
        text.push(b'\n');
        private_file::write(path, &text).map_err(|error| io(format!("write `{}`", path.display()), error))
    }
}

/// Where the file is. `JOBWORKER_CONFIG` names the folder.
///
/// # Errors
/// When the environment names no home.
pub fn path() -> Result<PathBuf, Failure> {
    let named = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    named("JOBWORKER_CONFIG")
        .or_else(|| named("XDG_CONFIG_HOME").map(|folder| folder.join("jobworker")))
        .or_else(|| named("HOME").map(|home| home.join(".config/jobworker")))
        .map(|folder| folder.join("credentials.json"))
        .ok_or_else(|| {
            Failure::new("there is no folder for the credentials")
                .expected("HOME, XDG_CONFIG_HOME or JOBWORKER_CONFIG in the environment")
                .next("set one of them, or pass `--token` and `--server`")
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_saved_is_read_again_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c/credentials.json");
        assert_eq!(Credentials::load(&path).unwrap(), Credentials::default());
        let mut credentials = Credentials {
            current: Some("http://a".into()),
            ..Credentials::default()
        };
        credentials.servers.insert(
            "http://a".into(),
            SignIn {
                user: "admin".into(),
                token: "secret-token".into(),
            },
        );
        credentials.save(&path).unwrap();
        assert_eq!(Credentials::load(&path).unwrap(), credentials);
        assert!(!format!("{credentials:?}").contains("secret-token"));

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let refused = Credentials::load(&path).unwrap_err().to_string();
        assert!(refused.contains("chmod 600"), "{refused}");
    }
}
