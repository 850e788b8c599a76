//! The workers' gateway: every replica has one, and any of them may hold an agent's socket.
//!
//! It writes what agents report straight into the rows and finds their assignments there; hints only wake it. Who is
//! speaking is taken from the verified token alone. Everything that an agent may send is bounded: frames by size,
//! messages by rate, chunks and results in flight by number; past a bound its socket is read no further.

mod auth;
mod chunks;
mod connection;
mod deliveries;
mod files;
mod lane;
mod registry;
mod renewals;
mod reports;
mod server;

use std::sync::Arc;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{DefaultBodyLimit, Extension, RawQuery, State, WebSocketUpgrade};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use common::ids::WorkerId;
use common::protocol::token::{EMPTY_SHA256, Request};
use common::protocol::{FILES_PATH_PREFIX, LOG_FRAME_BYTES_MAX, WEBSOCKET_PATH};
use common::store::Stores;
use common::tasks::Tasks;
use common::time::SharedClock;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;

use self::chunks::Chunks;
pub use self::connection::Line;
use self::files::FileCounts;
use self::registry::Registry;
use self::renewals::Renewals;
use self::reports::Reports;
use self::server::Admission;
use crate::accounts::Accounts;
use crate::config::Config;
use crate::leader::Context;

/// Read buffer of a socket: thousands of idle agents must not cost 128 KiB each.
const READ_BUFFER_BYTES: usize = 8 * 1024;
const WRITE_BUFFER_BYTES: usize = 16 * 1024;
/// What may wait to be sent to a slow agent.
const WRITE_BUFFER_BYTES_MAX: usize = 1024 * 1024;

/// Hellos answered at a time. A fleet of thousands that comes back at once is answered one part after the other, each
/// within its patience, instead of all of it too late. Stores take the hellos of a part together: two groups of them.
const HELLOS_MAX: usize = 1_024;

/// What all connections share.
pub struct Gateway {
    config: Arc<Config>,
    stores: Stores,
    clock: SharedClock,
    accounts: Arc<Accounts>,
    tasks: Tasks,
    registry: Arc<Registry>,
    renewals: Renewals,
    reports: Reports,
    chunks: Chunks,
    /// Bytes that connections with much output may hold beyond their own.
    lent_to_chunks: Arc<Semaphore>,
    file_counts: FileCounts,
    /// Hellos that are being answered.
    hellos: Semaphore,
}

/// Starts everything of a gateway but its listener.
pub fn start(context: &Context, tasks: &Tasks) -> Arc<Gateway> {
    let Context {
        config,
        stores,
        clock,
        ..
    } = context;
    let (renewals, renewals_inbox) = renewals::renewals();
    let (reports, reports_inbox) = reports::reports();
    let (chunks, chunks_inbox) = chunks::chunks();
    let registry = Arc::new(Registry::default());
    let gateway = Arc::new(Gateway {
        config: Arc::clone(config),
        stores: stores.clone(),
        clock: Arc::clone(clock),
        accounts: Arc::clone(&context.accounts),
        tasks: tasks.clone(),
        registry: Arc::clone(&registry),
        renewals,
        reports,
        chunks,
        lent_to_chunks: Arc::new(Semaphore::new(connection::LENT_BYTES_MAX)),
        file_counts: FileCounts::default(),
        hellos: Semaphore::new(HELLOS_MAX),
    });
    // The lanes end by themselves when the last connection has gone, so that what was asked before is still answered.
    let (times, jobs) = (config.times.clone(), context.jobs.clone());
    lane::keep(tasks, "renewals", renewals_inbox, {
        let stores = stores.clone();
        move |inbox| renewals::run(inbox, stores.clone(), times.heartbeat)
    });
    lane::keep(tasks, "reports", reports_inbox, move |inbox| {
        reports::run(inbox, jobs.clone())
    });
    lane::keep(tasks, "log chunks", chunks_inbox, {
        let (stores, clock) = (stores.clone(), Arc::clone(clock));
        move |inbox| chunks::run(inbox, stores.clone(), Arc::clone(&clock))
    });
    tasks.keep("deliveries", {
        let (stores, tasks) = (stores.clone(), tasks.clone());
        move || deliveries::run(stores.clone(), Arc::clone(&registry), tasks.clone())
    });
    gateway
}

/// Serves `listener` until the program stops.
pub fn listen(gateway: Arc<Gateway>, listener: TcpListener, tasks: &Tasks) {
    let limits = gateway.config.limits.clone();
    tasks.keep("worker listener", {
        let (listener, router, tasks) = (Arc::new(listener), router(gateway), tasks.clone());
        move || {
            server::run(
                Arc::clone(&listener),
                router.clone(),
                limits.clone(),
                tasks.clone(),
            )
        }
    });
}

impl Gateway {
    /// Serves one connection of `worker`, whoever it is, to its end.
    pub fn serve(
        self: &Arc<Self>,
        worker: WorkerId,
        line: impl Line + 'static,
    ) -> tokio::task::JoinHandle<()> {
        let connection = connection::run(Arc::clone(self), worker, line);
        self.tasks.spawn("worker connection", connection)
    }
}

fn router(gateway: Arc<Gateway>) -> axum::Router {
    let file = format!("{FILES_PATH_PREFIX}{{id}}");
    axum::Router::new()
        .route(WEBSOCKET_PATH, get(websocket))
        .route(&file, get(files::fetch).put(files::bring))
        .route("/healthz", get(async || "ok"))
        .layer(DefaultBodyLimit::disable())
        .layer(CatchPanicLayer::new())
        .with_state(gateway)
}

async fn websocket(
    State(gateway): State<Arc<Gateway>>,
    Extension(admission): Extension<Admission>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let request = Request {
        method: "GET",
        path: WEBSOCKET_PATH,
        audience: &gateway.config.audience,
        body_sha256: EMPTY_SHA256,
    };
    let verified = match gateway.authenticate(&headers, query.as_deref(), &request).await {
        Ok(verified) => verified,
        Err(refused) => return gateway.refuse(&refused, WEBSOCKET_PATH),
    };
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => return rejection.into_response(),
    };
    upgrade
        .max_message_size(LOG_FRAME_BYTES_MAX)
        .max_frame_size(LOG_FRAME_BYTES_MAX)
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .on_upgrade(async move |socket| {
            // A connection that panicked has been logged by its name.
            let _ = gateway.serve(verified.worker, socket).await;
            drop(admission);
        })
}
