//! Where work on the disk is done: never on the event loop's own time, save in a simulation, which has one thread only.

use std::io;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Disk {
    /// On a thread for work that blocks.
    #[default]
    Beside,
    /// On the thread that asks, after everybody else had a turn: for simulations, which have no other thread.
    Here,
}

impl Disk {
    /// # Errors
    /// Those of `work`, and when its thread was stopped.
    pub async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        match self {
            Self::Beside => tokio::task::spawn_blocking(work)
                .await
                .unwrap_or_else(|_| Err(io::Error::other("the disk's worker was stopped"))),
            Self::Here => {
                tokio::task::yield_now().await;
                work()
            }
        }
    }
}
