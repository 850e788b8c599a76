//! What `up` tells once it is ready: addresses, the first password, the worker's condition; for people and for scripts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use common::ids::WorkerId;
use common::secret::Secret;
use common::store::Stores;
use common::worker::Condition;

use crate::args::UpArgs;
use crate::failure::{Failure, io};
use crate::output::sanitise::line;
use crate::output::{note, print_line};
use crate::private_file;

/// Longest wait for the worker's first word. It says it within milliseconds where an engine answers, and after its own
/// limit of 5 s where none does.
const WORKER_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    pub api: SocketAddr,
    pub workers: SocketAddr,
}

impl Addresses {
    /// Where this process itself reaches the workers' listener, also when it listens everywhere.
    pub fn local_workers(self) -> SocketAddr {
        reachable(self.workers)
    }
}

fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    };
    SocketAddr::new(ip, address.port())
}

/// Removes what an earlier life left, so that nobody takes it for this one's word.
///
/// # Errors
/// It is there and stays.
pub fn forget_earlier(file: Option<&Path>) -> Result<(), Failure> {
    let Some(path) = file else { return Ok(()) };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(io(format!("remove the old `{}`", path.display()), error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Looks whether the password could be written, before there is one: afterwards it would be lost.
///
/// # Errors
/// It could not.
pub fn check_password_file(file: Option<&Path>) -> Result<(), Failure> {
    let Some(path) = file else { return Ok(()) };
    let mut beside = path.as_os_str().to_owned();
    beside.push(".try");
    let beside = Path::new(&beside);
    private_file::write(beside, b"")
        .and_then(|()| std::fs::remove_file(beside))
        .map_err(|error| io(format!("write beside `{}`", path.display()), error))
}

/// Shows the first password, once, or writes it where it was asked.
///
/// # Errors
/// The file cannot be written: nobody would ever know the password, so nothing may start.
pub fn tell_password(password: Option<&Secret<String>>, file: Option<&Path>) -> Result<(), Failure> {
    let Some(password) = password else { return Ok(()) };
    match file {
        Some(path) => {
            private_file::write(path, format!("{}\n", password.expose()).as_bytes())
                .map_err(|error| io(format!("write the password to `{}`", path.display()), error))?;
            note(&format!("the password of admin is in {}", path.display()));
        }
        None => note(&format!(
            "first start: sign in as admin, password: {}   (shown this once)",
            password.expose()
        )),
    }
    Ok(())
}

/// Waits for the worker's first word, then tells that everything is ready.
///
/// # Errors
/// The ready file cannot be written.
pub async fn tell(
    args: &UpArgs,
    stores: &Stores,
    worker: Option<&WorkerId>,
    addresses: Addresses,
) -> Result<(), Failure> {
    let condition = match worker {
        Some(worker) => tokio::time::timeout(WORKER_WITHIN, first_word(stores, worker))
            .await
            .ok(),
        None => None,
    };
    print_line(&format!("JobWorker is at http://{}", reachable(addresses.api)))?;
    note(&format!("workers connect to ws://{}", addresses.workers));
    match (worker, &condition) {
        (None, _) => note("no worker runs here; jobs wait for one that connects"),
        (Some(worker), Some(Condition::Ready)) => note(&format!("worker {worker}: ready")),
        (Some(worker), Some(Condition::Unready { reasons })) => {
            note(&format!("worker {worker} takes no jobs yet:"));
            for reason in reasons {
                note(&format!("  {}", line(reason)));
            }
            note("  it looks again every few seconds; jobs wait meanwhile");
        }
        (Some(worker), None) => note(&format!("worker {worker} has not reported yet; jobs wait for it")),
    }
    note("next: `jobworker login`, then `jobworker run -- echo hi`. Ctrl-C ends it.");
    match &args.ready_file {
        Some(path) => write_ready_file(path, addresses),
        None => Ok(()),
    }
}

async fn first_word(stores: &Stores, worker: &WorkerId) -> Condition {
    loop {
        if let Ok(Some(found)) = stores.workers.get(worker).await
            && found.session.is_some()
        {
            return found.condition;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn write_ready_file(path: &Path, addresses: Addresses) -> Result<(), Failure> {
    let text = serde_json::json!({
        "api": format!("http://{}", reachable(addresses.api)),
        "workers": format!("ws://{}", reachable(addresses.workers)),
        "pid": std::process::id(),
    });
    private_file::write(path, format!("{text}\n").as_bytes())
        .map_err(|error| io(format!("write `{}`", path.display()), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_everywhere_is_reached_on_loopback() {
        for (listens, reached) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("10.1.2.3:80", "10.1.2.3:80"),
        ] {
            assert_eq!(reachable(listens.parse().unwrap()).to_string(), reached);
        }
    }
}
