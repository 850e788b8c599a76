//! Whether it can work: for as long as the store does not answer it says no, and it lives all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::job::Epoch;
use common::store::{LeaderTerms, StoreError, Stores};
use futures_util::future::BoxFuture;

use crate::support::{World, problem};

/// Terms that do not answer while they are down.
struct Terms {
    inner: Arc<dyn LeaderTerms>,
    down: Arc<AtomicBool>,
}

// What `async_trait` makes of its trait, written out: nothing else here needs that crate.
impl LeaderTerms for Terms {
    fn begin<'life0, 'async_trait>(&'life0 self) -> BoxFuture<'async_trait, Result<Epoch, StoreError>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        self.inner.begin()
    }

    fn current<'life0, 'async_trait>(&'life0 self) -> BoxFuture<'async_trait, Result<Epoch, StoreError>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        if self.down.load(Ordering::SeqCst) {
            let silent = StoreError::Unavailable("as the test asked".into());
            return Box::pin(std::future::ready(Err(silent)));
        }
        self.inner.current()
    }
}

#[tokio::test]
async fn it_is_ready_only_while_the_store_answers_and_lives_meanwhile() {
    let down = Arc::new(AtomicBool::new(false));
    let with_terms = |stores: Stores| Stores {
        terms: Arc::new(Terms {
            inner: Arc::clone(&stores.terms),
            down: Arc::clone(&down),
        }),
        ..stores
    };
    let world = World::over(with_terms, |_| {}).await;
    world.get("", "/readyz").await.expect(200);

    down.store(true, Ordering::SeqCst);
    let refused = world.get("", "/readyz").await.expect(503);
    assert_eq!(problem(&refused)["code"], "unavailable");
    assert_eq!(refused.header("retry-after"), "2");
    assert!(
        !refused.text().contains("as the test asked"),
        "{}",
        refused.text()
    );
    world.get("", "/healthz").await.expect(200);

    down.store(false, Ordering::SeqCst);
    world.get("", "/readyz").await.expect(200);
}
