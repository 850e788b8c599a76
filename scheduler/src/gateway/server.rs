//! The listener: our own accept loop, since hyper closes silent connections only when it is given a timer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::response::IntoResponse;
use common::tasks::Tasks;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::ServiceExt;

use crate::config::Limits;

/// Largest head of a request; a token has half a KiB.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Longest life of an HTTP connection that does not become a WebSocket: the largest file over a slow line.
const LIFE_MAX: Duration = Duration::from_secs(3_600);

/// After a failed accept, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A connection's place among [`Limits::connections_max`]; the WebSocket made of it keeps it.
#[derive(Clone)]
pub struct Admission {
    _permit: Arc<OwnedSemaphorePermit>,
}

/// Accepts until the program stops.
pub async fn run(listener: Arc<TcpListener>, router: Router, limits: Limits, tasks: Tasks) {
    let places = Arc::new(Semaphore::new(limits.connections_max));
    loop {
        // Without a place the next connection waits in the kernel's queue.
        let permit = tokio::select! {
            () = tasks.stopping().cancelled() => return,
            permit = Arc::clone(&places).acquire_owned() => permit,
        };
        let Ok(permit) = permit else { return };
        let accepted = tokio::select! {
            () = tasks.stopping().cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let admission = Admission {
                    _permit: Arc::new(permit),
                };
                let connection = serve(stream, router.clone(), limits.clone(), admission, tasks.clone());
                tasks.spawn("worker http connection", connection);
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, router: Router, limits: Limits, admission: Admission, tasks: Tasks) {
    // Small messages must not wait for each other.
    let _ = stream.set_nodelay(true);
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(admission.clone());
        let router = router.clone();
        async move {
            let answer = router.oneshot(request.map(Body::new)).await;
            Ok::<_, Infallible>(answer.unwrap_or_else(|never| match never {}).into_response())
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_deadline)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::select! {
        () = tasks.stopping().cancelled() => {}
        ended = tokio::time::timeout(LIFE_MAX, connection) => {
            if let Ok(Err(error)) = ended {
                tracing::debug!(%error, "a connection ended early");
            }
        }
    }
}
