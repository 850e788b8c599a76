//! Where `up` keeps things and where it listens, each refusal a sentence.

use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use common::config::StoreConfig;
use common::store::StoreError;
use tokio::net::TcpListener;

use crate::failure::Failure;

/// The state folder: as asked, else by the XDG rules.
///
/// # Errors
/// When the environment names no home.
pub fn state_folder(asked: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let named = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let folder = asked
        .or_else(|| named("XDG_STATE_HOME").map(|folder| folder.join("jobworker")))
        .or_else(|| named("HOME").map(|home| home.join(".local/state/jobworker")))
        .ok_or_else(|| {
            Failure::new("there is no state folder")
                .expected("HOME or XDG_STATE_HOME in the environment, or `--state DIR`")
                .next("say where things are to be kept: `jobworker up --state DIR`")
        })?;
    std::path::absolute(&folder)
        .map_err(|error| crate::failure::io(format!("find `{}`", folder.display()), error))
}

/// Listens, or says who else may be listening there.
///
/// # Errors
/// The address is taken, not this machine's, or not for this user.
pub async fn listen(address: SocketAddr, flag: &str) -> Result<(TcpListener, SocketAddr), Failure> {
    let failed = |error: std::io::Error| {
        let port = address.port();
        let next = match error.kind() {
            std::io::ErrorKind::AddrInUse => format!(
                "end what listens there (`ss -ltnp sport = :{port}` names it), or take another: `{flag} {}:0` finds a free one",
                address.ip()
            ),
            std::io::ErrorKind::PermissionDenied => {
                format!("take a port of 1024 or more: `{flag} {}:3000`", address.ip())
            }
            _ => format!("take an address of this machine: `{flag} 127.0.0.1:0`"),
        };
        Failure::new(format!("could not listen on {address}"))
            .source(error)
            .next(next)
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// What keeps things: the servers that the environment names, else a part of the state folder.
///
/// # Errors
/// Only one of the two is named.
pub fn store_config(folder: &Path) -> Result<StoreConfig, Failure> {
    let named = |name: &str| std::env::var(name).ok();
    let servers = StoreConfig::servers(named("MONGODB_URI"), named("REDIS_URL"))
        .map_err(|half| Failure::new(half.to_string()))?;
    Ok(servers.unwrap_or_else(|| StoreConfig::Embedded {
        folder: folder.join("store"),
    }))
}

/// Holds the folder until the file is dropped, however the process ends: the secrets and the worker in it are one
/// process's own, also where the rows are elsewhere.
///
/// # Errors
/// Another process holds it, or it cannot be used.
pub fn hold(folder: &Path) -> Result<File, Failure> {
    let shown = folder.display();
    let failed = |error| crate::failure::io(format!("use `{shown}`"), error);
    crate::private_file::make_folder(folder).map_err(failed)?;
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join("up.lock"))
        .map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Failure::new(format!(
            "the state folder {shown} is in use: another process holds its lock"
        ))
        .next("end the other `jobworker up`, or use a folder of its own: `--state DIR`")),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// The store could not be opened.
pub fn store_failure(error: StoreError, config: &StoreConfig) -> Failure {
    let at_servers = matches!(config, StoreConfig::MongoRedis { .. });
    let next = match &error {
        _ if at_servers => {
            "mend what it names; without MONGODB_URI and REDIS_URL everything is kept in the state folder"
        }
        StoreError::Full(_) => "free some space on that disk, then start again",
        StoreError::Corrupt { .. } => {
            "restore the folder from a backup, or begin with an empty one: `--state DIR`"
        }
        StoreError::Unavailable(_) | StoreError::Exists | StoreError::NotFound => {
            "end the other `jobworker up`, or use a folder of its own: `--state DIR`"
        }
    };
    let failure = match error {
        // the source is the sentence; what lies behind it, if anything, is the cause
        StoreError::Unavailable(source) | StoreError::Full(source) => {
            let failure = Failure::new(source.to_string());
            match source.source() {
                Some(cause) => failure.detail(cause.to_string()),
                None => failure,
            }
        }
        StoreError::Corrupt { .. } | StoreError::Exists | StoreError::NotFound => {
            Failure::new(error.to_string()).source(error)
        }
    };
    failure.next(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_is_told_with_a_way_out() {
        let (_held, address) = listen("127.0.0.1:0".parse().unwrap(), "--listen").await.unwrap();
        let refused = listen(address, "--listen").await.err().unwrap().to_string();
        assert!(refused.contains(&address.to_string()), "{refused}");
        assert!(refused.contains("--listen 127.0.0.1:0"), "{refused}");
    }

    #[test]
    fn the_folder_that_is_asked_for_is_taken() {
        assert_eq!(state_folder(Some("/x/y".into())).unwrap(), PathBuf::from("/x/y"));
        assert!(state_folder(Some("relative".into())).unwrap().is_absolute());
    }
}
