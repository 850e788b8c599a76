//! The accept loop: bounded connections, headers within a deadline, and an orderly end.
//!
//! Our own, because `axum::serve` gives hyper no timer, and without one a client may take for ever over its headers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use common::store::Stores;
use common::tasks::Tasks;
use common::time::SharedClock;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::config::{Config, ConfigError};
use crate::routes;
use crate::state::AppState;

/// How long a request under way may take to end once we are asked to stop.
const DRAIN: Duration = Duration::from_secs(10);
/// After a failed accept (no descriptors left, as a rule) the loop rests.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Read buffer of one connection: holds the largest head that we take, and bounds memory at many connections.
const CONNECTION_BUFFER: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the listener has no address")]
    Listener(#[from] std::io::Error),
}

/// Who is at the other end of the connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Serves on `listener` until `tasks` stop; returns as soon as connections are taken.
///
/// # Errors
/// A configuration that must not be served with.
pub fn serve(
    config: Config,
    stores: Stores,
    clock: SharedClock,
    listener: TcpListener,
    tasks: &Tasks,
) -> Result<SocketAddr, ServeError> {
    config.check()?;
    let address = listener.local_addr()?;
    let settings = Settings {
        connections: Arc::new(Semaphore::new(config.connections_max)),
        header_timeout: config.header_timeout,
    };
    let app = AppState::new(config, stores, clock, tasks.clone());
    let router = routes::router(app);
    tasks.keep("api listener", {
        let (listener, settings, tasks) = (Arc::new(listener), Arc::new(settings), tasks.clone());
        move || {
            accept(
                Arc::clone(&listener),
                router.clone(),
                Arc::clone(&settings),
                tasks.clone(),
            )
        }
    });
    Ok(address)
}

struct Settings {
    connections: Arc<Semaphore>,
    header_timeout: Duration,
}

async fn accept(listener: Arc<TcpListener>, router: Router, settings: Arc<Settings>, tasks: Tasks) {
    let stopping = tasks.stopping().clone();
    loop {
        let Ok(permit) = settings.connections.clone().acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            () = stopping.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (router, stopping) = (router.clone(), stopping.clone());
                let header_timeout = settings.header_timeout;
                tasks.spawn("api connection", async move {
                    connection(stream, peer, router, header_timeout, stopping).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    header_timeout: Duration,
    stopping: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended before it began");
        return;
    }
    let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        router.clone().call(request.map(Body::new))
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(CONNECTION_BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stopping.cancelled() => {
            serving.as_mut().graceful_shutdown();
            tokio::time::timeout(DRAIN, serving).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended badly");
    }
}
