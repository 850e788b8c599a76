//! `jobworker-api`: the REST interface as a program of its own; any number of them may run beside each other. All that
//! it does is in the library; here its settings are read and its stores are opened.

use std::fs::{File, Permissions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use common::program;
use common::secret::Secret;
use common::settings::Settings;
use common::store::Quota;
use common::tasks::Tasks;
use common::time::{SharedClock, SystemClock};
use tokio::net::TcpListener;

/// How long requests under way get at the end.
const JOIN_WITHIN: Duration = Duration::from_secs(15);
/// Reads cost less than writes, and pages poll: this many times as many are allowed.
const READS_A_WRITE: u32 = 12;

/// Serves the REST interface of a JobWorker installation, over MongoDB and Redis.
///
/// Settings come from the environment: MONGODB_URI (mongodb://127.0.0.1:27017/cmd-executor), REDIS_URL
/// (redis://127.0.0.1:6379), JWT_SECRET (at least 32 bytes, the same for every replica), ALLOWED_ORIGINS (separated by
/// commas), RATE_LIMIT_WINDOW_MS (60000) and RATE_LIMIT_MAX (100 writes; reads twelve times as many), PORT (that port
/// of every interface instead of --listen), RUST_LOG.
#[derive(Debug, Parser)]
#[command(name = "jobworker-api", version)]
struct Args {
    /// Where clients reach it, by HTTP; a proxy in front adds TLS
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:3000")]
    listen: SocketAddr,

    /// Image of jobs that name none
    #[arg(long, env = "DEFAULT_IMAGE", default_value = "debian:bookworm-slim")]
    image: String,

    /// Clients reach it by TLS: cookies are `Secure`, and browsers are told to stay with TLS
    #[arg(long, env = "ENFORCE_TLS")]
    tls: bool,

    /// At the first start, writes the administrator's password to this file (0600) instead of printing it
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,

    /// For development: a missing JWT_SECRET is made for this run
    #[arg(long)]
    dev: bool,
}

fn main() -> ExitCode {
    program::run(|| start(Args::parse()))
}

fn start(args: Args) -> anyhow::Result<()> {
    let settings = Settings::of_process(args.dev);
    let config = configure(&args, &settings)?;
    let address = settings.address(args.listen)?;
    program::block_on(Box::pin(serve(config, &settings, address, args.password_file)))
}

fn configure(args: &Args, settings: &Settings) -> anyhow::Result<api::Config> {
    let mut config = api::Config::new(settings.secret("JWT_SECRET")?, args.image.clone());
    config.tls = args.tls;
    config.allowed_origins = settings.list("ALLOWED_ORIGINS");
    let window = Duration::from_millis(settings.number("RATE_LIMIT_WINDOW_MS", 60_000, 1_000..=3_600_000)?);
    let writes = u32::try_from(settings.number("RATE_LIMIT_MAX", 100, 1..=1_000_000)?)?;
    let quota = |limit| Some(Quota { limit, window });
    config.limits.writes = quota(writes);
    config.limits.reads = quota(writes.saturating_mul(READS_A_WRITE));
    Ok(config)
}

async fn serve(
    config: api::Config,
    settings: &Settings,
    address: SocketAddr,
    password_file: Option<PathBuf>,
) -> anyhow::Result<()> {
    let clock: SharedClock = Arc::new(SystemClock);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("could not listen on {address}: take another with --listen"))?;
    let opened = Box::pin(storage::open_closable(&settings.store(), Arc::clone(&clock))).await?;
    if opened.stores.identity.count_users().await? == 0 {
        // Opened first: a password that was made and cannot be told is lost.
        let mut place = password_file.map(Place::open).transpose()?;
        if let Some(password) = api::bootstrap_admin(&opened.stores, &clock).await? {
            tell(&password, place.as_mut())?;
        }
    }
    let tasks = Tasks::new();
    program::stop_on_signals(&tasks).context("no handlers for signals")?;
    let address = api::serve(config, opened.stores, clock, listener, &tasks)?;
    tracing::info!(%address, "the API serves");
    tasks.stopping().cancelled().await;
    if !tasks.join(JOIN_WITHIN).await {
        tracing::warn!("some requests did not end in time");
    }
    opened.closing.close().await;
    Ok(())
}

/// Shown once and kept nowhere, so it is never written to a log.
fn tell(password: &Secret<String>, place: Option<&mut Place>) -> anyhow::Result<()> {
    let Some(Place { file, path }) = place else {
        eprintln!("the password of admin: {}", password.expose());
        return Ok(());
    };
    writeln!(file, "{}", password.expose())
        .and_then(|()| file.sync_all())
        .with_context(|| not_written(path))
}

/// Where the first password goes.
struct Place {
    file: File,
    path: PathBuf,
}

impl Place {
    /// Empty, and its owner's alone also where it was there before.
    fn open(path: PathBuf) -> anyhow::Result<Self> {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|file| {
                file.set_permissions(Permissions::from_mode(0o600))?;
                Ok(file)
            })
            .with_context(|| not_written(&path))?;
        Ok(Self { file, path })
    }
}

fn not_written(path: &Path) -> String {
    format!(
        "could not write the password of admin to `{}`: name another file with --password-file",
        path.display()
    )
}
