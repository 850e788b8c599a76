//! What an installation is known by, made once and kept in its state folder (0600): the secrets of sign-ins and
//! workers, and the name of its own worker.
//!
//! The worker's name is unique for each state folder: two installations on one machine share an engine, and must not
//! take each other's containers for their own.

use std::path::Path;

use common::ids::WorkerId;
use common::protocol::token::FleetSecrets;
use common::secret::Secret;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, io};
use crate::private_file;

const FILE: &str = "secrets.json";

/// Each secret has as many random bytes as the hash that uses it.
const SECRET_BYTES: usize = 32;

/// Key id of the one fleet secret that is made here.
const FLEET_KEY_ID: &str = "k1";

pub struct Secrets {
    pub jwt: Secret<Vec<u8>>,
    pub fleet: FleetSecrets,
    pub worker: WorkerId,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    jwt_secret: String,
    fleet_secret: String,
    worker: WorkerId,
}

impl Secrets {
    /// Reads them, or makes them at the first start. The caller holds the folder's lock.
    ///
    /// # Errors
    /// The file cannot be read or written, is open to others, or is not ours.
    pub fn load_or_make(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join(FILE);
        let shown = path.display();
        match std::fs::read(&path) {
            Ok(text) => {
                if private_file::is_open_to_others(&path).map_err(|e| io(format!("look at `{shown}`"), e))? {
                    return Err(Failure::new(format!("`{shown}` holds secrets, and others may read it"))
                        .expected("a file with mode 0600")
                        .next(format!("if nobody has read it, run `chmod 600 {shown}`; else remove it: everybody then signs in anew")));
                }
                let stored: Stored =
                    serde_json::from_slice(&text).map_err(|error| damaged(&path).source(error))?;
                stored.understood(&path)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let stored = Stored::new();
                let text = serde_json::to_vec_pretty(&stored).map_err(|e| damaged(&path).source(e))?;
                private_file::write(&path, &text).map_err(|e| io(format!("write `{shown}`"), e))?;
                stored.understood(&path)
            }
            Err(error) => Err(io(format!("read `{shown}`"), error)),
        }
    }
}

impl Stored {
    fn new() -> Self {
        let secret = || HEXLOWER.encode(&rand::random::<[u8; SECRET_BYTES]>());
        Self {
            jwt_secret: secret(),
            fleet_secret: secret(),
            worker: worker_name(&rustix::system::uname().nodename().to_string_lossy()),
        }
    }

    fn understood(self, path: &Path) -> Result<Secrets, Failure> {
        let decoded = |text: &str| {
            HEXLOWER
                .decode(text.as_bytes())
                .map_err(|error| damaged(path).source(error))
        };
        let jwt = decoded(&self.jwt_secret)?;
        if jwt.len() < SECRET_BYTES {
            return Err(damaged(path));
        }
        let fleet = vec![(FLEET_KEY_ID.to_owned(), Secret::new(decoded(&self.fleet_secret)?))];
        Ok(Secrets {
            jwt: Secret::new(jwt),
            fleet: FleetSecrets::new(fleet).map_err(|error| damaged(path).source(error))?,
            worker: self.worker,
        })
    }
}

fn damaged(path: &Path) -> Failure {
    Failure::new(format!("`{}` is damaged", path.display()))
        .expected("the file as `jobworker up` wrote it")
        .next("restore it from a backup, or remove it: everybody then signs in anew")
}

/// The host's name as far as it fits, and something of its own.
fn worker_name(host: &str) -> WorkerId {
    let host: String = host
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
        .take(40)
        .collect();
    let host = host.trim_start_matches('-');
    let own = rand::random::<u32>();
    let name = if host.is_empty() {
        format!("worker-{own:08x}")
    } else {
        format!("{host}-{own:08x}")
    };
    WorkerId::new(&name).expect("letters, digits and `-` after a letter or digit, up to 49 of them")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn secrets_are_made_once_and_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let first = Secrets::load_or_make(folder.path()).unwrap();
        let second = Secrets::load_or_make(folder.path()).unwrap();
        assert_eq!(first.jwt.expose(), second.jwt.expose());
        assert_eq!(first.worker, second.worker);
        let other = tempfile::tempdir().unwrap();
        let other = Secrets::load_or_make(other.path()).unwrap();
        assert_ne!(first.jwt.expose(), other.jwt.expose());
        assert_ne!(first.worker, other.worker);

        let path = folder.path().join(FILE);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let refused = Secrets::load_or_make(folder.path()).err().unwrap().to_string();
        assert!(refused.contains("chmod 600"), "{refused}");
    }

    #[test]
    fn a_damaged_file_stops_the_start_instead_of_being_replaced() {
        let folder = tempfile::tempdir().unwrap();
        private_file::write(&folder.path().join(FILE), b"{}").unwrap();
        let refused = Secrets::load_or_make(folder.path()).err().unwrap().to_string();
        assert!(refused.contains("damaged"), "{refused}");
    }

    #[test]
    fn any_host_gives_a_good_name() {
        for host in ["node-1", "", "---", "ä ö", &"x".repeat(300), "a.b.c"] {
            let _ = worker_name(host);
        }
    }
}
