//! What a connection has asked for beside its loop.
//!
//! Invariant: while the loop waits for anything else, what is under way goes on ([`UnderWay::beside`]). It may hold what
//! the loop waits for, such as a connection to the store, and then nothing but its own progress gives that free.

use std::collections::VecDeque;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

pub struct UnderWay<T> {
    futures: FuturesUnordered<BoxFuture<'static, T>>,
    /// Done while the loop waited for something else.
    done: VecDeque<T>,
}

impl<T> UnderWay<T> {
    pub fn new() -> Self {
        Self {
            futures: FuturesUnordered::new(),
            done: VecDeque::new(),
        }
    }

    pub fn begin(&self, begun: impl IntoIterator<Item = BoxFuture<'static, T>>) {
        for future in begun {
            self.futures.push(future);
        }
    }

    /// The next that is done; waits for ever where nothing is under way. May be dropped while it waits.
    pub async fn next(&mut self) -> T {
        if let Some(done) = self.done.pop_front() {
            return done;
        }
        match self.futures.next().await {
            Some(done) => done,
            None => std::future::pending().await,
        }
    }

    /// Waits for `step`, what is under way going on meanwhile.
    pub async fn beside<O>(&mut self, step: impl Future<Output = O>) -> O {
        let mut step = std::pin::pin!(step);
        loop {
            tokio::select! {
                biased;
                outcome = &mut step => return outcome,
                Some(done) = self.futures.next(), if !self.futures.is_empty() => self.done.push_back(done),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn what_is_under_way_gives_free_what_a_step_waits_for() {
        let one = Arc::new(Semaphore::new(1));
        let mut under_way = UnderWay::new();
        let (let_go, held) = tokio::sync::oneshot::channel::<()>();
        let holder = {
            let one = Arc::clone(&one);
            async move {
                let permit = one.acquire().await;
                let let_go = held.await.is_ok();
                drop(permit);
                let_go
            }
        };
        under_way.begin([holder.boxed()]);
        // It holds the permit from now on.
        assert!(under_way.next().now_or_never().is_none());
        let step = async {
            assert!(let_go.send(()).is_ok());
            one.acquire().await.is_ok()
        };
        let outcome = tokio::time::timeout(Duration::from_secs(30), under_way.beside(step)).await;
        assert_eq!(outcome, Ok(true));
        assert_eq!(under_way.next().now_or_never(), Some(true));
        assert_eq!(under_way.next().now_or_never(), None);
    }
}
