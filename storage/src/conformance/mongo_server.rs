//! MongoDB servers for tests: the one that `MONGODB_URI` names, or a small one that scripts/ensure-mongodb installs.
//!
//! [`Database::shared`] is a database of the test's own on a server that all tests of a run share: a start costs most of
//! a second of processor. The server has a keeper, a shell that ends it once nobody has held its lock for a while; the
//! kernel gives a killed test's share back. [`Server::start`] is a server of one test alone, which may be killed and
//! paused, and ends with it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::secret::Secret;
use mongodb::Client;
use mongodb::bson::Document;
use mongodb::options::ClientOptions;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

/// The version that scripts/ensure-mongodb installs.
const VERSION: &str = "0.5.3-beta.196";
/// A start takes a second of processor, one after a kill more; a machine that is busy with builds needs far longer.
const READY: Duration = Duration::from_secs(150);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A database of one test, dropped with it.
pub struct Database {
    uri: String,
    /// Our share of the server's lock; given back with this.
    _share: Option<File>,
}

impl Database {
    /// Of this name, on the server that all tests share.
    pub async fn shared() -> Self {
        let name = format!("jobworker-test-{:016x}", rand::random::<u64>());
        match std::env::var("MONGODB_URI") {
            Ok(uri) if !uri.is_empty() => Self {
                uri: with_database(&uri, &name),
                _share: None,
            },
            _ => {
                let (address, share) = tokio::task::spawn_blocking(share).await.unwrap();
                Self {
                    uri: format!("mongodb://{address}/{name}"),
                    _share: Some(share),
                }
            }
        }
    }

    pub fn uri(&self) -> Secret<String> {
        Secret::new(self.uri.clone())
    }

    /// Runs a command in it, written as JSON, past every rule of the stores.
    pub async fn command(&self, json: &str) {
        let command: Document = serde_json::from_str(json).unwrap();
        let client = Client::with_uri_str(&self.uri).await.unwrap();
        let database = client.default_database().expect("the address names a database");
        database.run_command(command).await.unwrap();
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let uri = self.uri.clone();
        // A thread with a runtime of its own: this may be one's last act, and in the middle of another runtime.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let mut options = ClientOptions::parse(&uri).await?;
                options.server_selection_timeout = Some(Duration::from_secs(2));
                let client = Client::with_options(options)?;
                let database = client.default_database().expect("the address names a database");
                database.drop().await
            })
        });
        let _ = dropped.join();
    }
}

/// The same server, another database.
fn with_database(uri: &str, name: &str) -> String {
    let (scheme, rest) = uri.split_once("://").expect("MONGODB_URI has a scheme");
    let (rest, options) = match rest.split_once('?') {
        Some((rest, options)) => (rest, format!("?{options}")),
        None => (rest, String::new()),
    };
    let hosts = rest.split_once('/').map_or(rest, |(hosts, _)| hosts);
    format!("{scheme}://{hosts}/{name}{options}")
}

/// The installed server.
pub fn program() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let installed = cache
        .or(home)
        .map(|cache| cache.join(format!("jobworker/secantus-{VERSION}/bin/secantusd-rs")));
    match installed {
        Some(path) if path.is_file() => path,
        _ => panic!("there is no MongoDB that tests may start and kill: run scripts/ensure-mongodb"),
    }
}

/// What keeps an empty store small.
const SMALL: [&str; 6] = [
    "--log-file-max",
    "8MB",
    "--cache-size",
    "256M",
    "--log-level",
    "ERROR",
];

/// The address of the shared server, and our share of its lock.
fn share() -> (String, File) {
    let user = rustix::process::getuid().as_raw();
    let folder = std::env::temp_dir().join(format!("jobworker-test-mongodb-{user}-{VERSION}"));
    fs::create_dir_all(&folder).unwrap();
    let lock = File::options()
        .create(true)
        .append(true)
        .open(folder.join("lock"))
        .unwrap();
    let address = folder.join("address");
    loop {
        flock(&lock, FlockOperation::LockShared).unwrap();
        // Only its keeper, holding the lock alone, takes the address away; so with a share it stays.
        if let Ok(address) = fs::read_to_string(&address) {
            return (address, lock);
        }
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        if !address.exists() {
            start_kept(&folder);
        }
    }
}

/// Ends the server once nobody holds its lock, and never while somebody does. `$1` the folder, the rest the server.
const KEEPER: &str = r#"
cd "$1" && shift
"$@" >log 2>&1 &
server=$!
trap 'kill -9 $server 2>/dev/null; rm -f address' EXIT
while kill -0 $server 2>/dev/null; do
  sleep 15
  flock -n -x lock sh -c "rm -f address; kill -9 $server" && break
done
"#;

fn start_kept(folder: &Path) {
    let _ = fs::remove_dir_all(folder.join("data"));
    fs::write(folder.join("log"), "").unwrap();
    let mut keeper = Command::new("setsid");
    keeper
        .args(["sh", "-c", KEEPER, "keeper"])
        .arg(folder)
        .arg(program());
    keeper.args(["--port", "0", "--storage-path", "data"]).args(SMALL);
    keeper
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut keeper = keeper.spawn().expect("setsid can be started");
    let told = listening(&folder.join("log"), || keeper.try_wait().unwrap().is_none());
    // Renamed into place: whoever reads it reads all of it.
    let draft = folder.join("address.tmp");
    fs::write(&draft, told).unwrap();
    fs::rename(&draft, folder.join("address")).unwrap();
}

/// The address that the server tells once it takes connections.
fn listening(log: &Path, lives: impl FnMut() -> bool) -> String {
    let mut lives = lives;
    let until = Instant::now() + READY;
    loop {
        let told = fs::read_to_string(log).unwrap_or_default();
        let address = told
            .lines()
            .find_map(|line| line.split_once("listening on "))
            .map(|(_, address)| address.trim());
        match address {
            Some(address) => return address.to_owned(),
            None if lives() && Instant::now() < until => {}
            None => panic!("the MongoDB for tests does not start: {told}"),
        }
        pause();
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "a poll with a deadline, outside of any runtime"
)]
fn pause() {
    // tidy: poll
    std::thread::sleep(LOOK_EVERY);
}

/// A server of one test alone. What it acknowledged survives its being killed.
pub struct Server {
    folder: tempfile::TempDir,
    child: Child,
    address: String,
    arguments: Vec<String>,
}

impl Server {
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With arguments more, such as `--auth`.
    pub async fn with(arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let folder = tempfile::tempdir().unwrap();
        let (child, address) = launch(folder.path(), "0", &arguments).await;
        Self {
            folder,
            child,
            address,
            arguments,
        }
    }

    pub fn uri(&self, database: &str) -> Secret<String> {
        Secret::new(format!("mongodb://{}/{database}", self.address))
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// On the same port, with what is on disk.
    pub async fn start_again(&mut self) {
        let (_, port) = self.address.rsplit_once(':').unwrap();
        let (child, address) = launch(self.folder.path(), port, &self.arguments).await;
        assert_eq!(address, self.address);
        self.child = child;
    }

    /// SIGSTOP: connections stay, and nobody answers. Comes back once every thread of it stands still.
    pub async fn pause(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
        let until = Instant::now() + READY;
        while !stands_still(self.child.id()) {
            assert!(Instant::now() < until, "the MongoDB for tests does not stop");
            // tidy: poll
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub fn resume(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
    }
}

/// Whether all threads of a process are stopped.
fn stands_still(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The state follows the name, which is in brackets.
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('T'))
    })
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// With its end tied to ours, so that a test that is killed leaves nothing behind.
async fn launch(folder: &Path, port: &str, arguments: &[String]) -> (Child, String) {
    let log = folder.join("log");
    let output = File::create(&log).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program());
    command
        .args(["--port", port, "--sync-on-commit", "--storage-path"])
        .arg(folder.join("data"))
        .args(SMALL);
    command.args(arguments);
    command
        .stdin(Stdio::null())
        .stderr(output.try_clone().unwrap())
        .stdout(output);
    // Not on a helper thread: the server ends with the thread that started it.
    let mut child = command.spawn().expect("setpriv can be started");
    let until = Instant::now() + READY;
    loop {
        let told = fs::read_to_string(&log).unwrap_or_default();
        if let Some((_, address)) = told.lines().find_map(|line| line.split_once("listening on ")) {
            return (child, address.trim().to_owned());
        }
        if let Some(status) = child.try_wait().unwrap() {
            panic!("the MongoDB for tests ended with {status}: {told}");
        }
        assert!(
            Instant::now() < until,
            "the MongoDB for tests is not ready within {READY:?}: {told}"
        );
        // tidy: poll
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::with_database;

    #[test]
    fn a_database_is_named_whatever_the_address_says() {
        for (uri, expected) in [
            ("mongodb://h", "mongodb://h/x"),
            ("mongodb://h:1/old", "mongodb://h:1/x"),
            (
                "mongodb://u:p@a,b/?replicaSet=r",
                "mongodb://u:p@a,b/x?replicaSet=r",
            ),
            ("mongodb+srv://h/old?w=1", "mongodb+srv://h/x?w=1"),
        ] {
            assert_eq!(with_database(uri, "x"), expected);
        }
    }
}
