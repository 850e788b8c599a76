//! On a Redis Cluster the link leads to the node that has the keys, whichever node REDIS_URL names, and follows them.

use std::time::Duration;

use common::store::StoreError;
use common::time::{Clock, SharedClock, SystemClock};
use storage::conformance::redis_cluster::RedisCluster;
use storage::redis_coord::{Config, Coordination, Deadlines, connect};

use crate::away::{BRIEF, hears_again, use_all, works_again};
use crate::backend::{EmbeddedAndRedis, PATIENT, on_servers, patient};
use crate::loss::entry;

storage::coordination_suite!(clustered);

/// A dead node is found out within seconds, its replica elected within a few more.
const ELECTED_WITHIN: Duration = Duration::from_secs(60);

const TTL: Duration = Duration::from_secs(600);

/// Three nodes that take keys, and the address of one that has not got ours.
async fn clustered() -> EmbeddedAndRedis {
    let cluster = RedisCluster::start(3).await;
    let mut config = patient(String::new());
    let slot = cluster.slot(&format!("{{{}}}:", config.prefix)).await;
    let owner = cluster.first_owner(slot);
    config.url = common::secret::Secret::new(cluster.nodes[(owner + 1) % 3].url());
    let keys_at = cluster.nodes[owner].url();
    on_servers(config, keys_at, cluster.nodes).await
}

async fn over(url: String, deadlines: Deadlines) -> Coordination {
    let config = Config {
        deadlines,
        ..Config::new(url)
    };
    let clock: SharedClock = std::sync::Arc::new(SystemClock);
    connect(&config, &clock).await.unwrap()
}

/// Every fault of such a moment is one that goes by itself.
async fn use_meanwhile(program: &Coordination) {
    if let Err(error) = use_all(program).await {
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_slot_that_moves_in_use_is_followed_with_all_that_it_holds() {
    let cluster = RedisCluster::start(3).await;
    let slot = cluster.slot("{jw}:").await;
    let mut owner = cluster.first_owner(slot);
    let program = over(cluster.nodes[(owner + 1) % 3].url(), PATIENT).await;
    let mut heard = program.hints.subscribe();
    assert!(program.lock.acquire("leader", "t", TTL).await.unwrap());
    for _ in 0..3 {
        use_all(&program).await.unwrap();
        let build = program.queue.begin_build().await.unwrap();
        assert!(program.queue.mark_built(&build).await.unwrap());

        let next = (owner + 1) % 3;
        cluster.begin_move(slot, owner, next).await;
        // Half of it here, half of it there; and keys may be made meanwhile, on either side.
        while cluster.carry(slot, owner, next, 1).await > 0 {
            use_meanwhile(&program).await;
        }
        cluster.end_move(slot, next).await;
        owner = next;

        works_again(&program).await;
        hears_again(&program, &mut heard).await;
        assert!(program.lock.renew("leader", "t", TTL).await.unwrap());
        assert!(
            !program.queue.is_built().await.unwrap(),
            "another server's queue is made anew"
        );
        let lane = program.queue.heads(&entry(1).lane, 0, 9).await.unwrap();
        assert_eq!(lane, [entry(1)]);
        let keys: usize = cluster.nodes[owner]
            .ask(&["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()])
            .await
            .unwrap();
        assert!(keys > 0, "the keys are at the new owner");
    }
}

#[tokio::test]
async fn when_the_node_of_the_address_dies_its_replica_is_found() {
    let mut cluster = RedisCluster::start(3).await;
    let owner = cluster.first_owner(cluster.slot("{jw}:").await);
    cluster.add_replica(owner).await;
    // The replica may be named as well: it leads to the owner.
    use_all(&over(cluster.nodes[3].url(), PATIENT).await)
        .await
        .unwrap();
    let program = over(cluster.nodes[owner].url(), PATIENT).await;
    let mut heard = program.hints.subscribe();
    use_all(&program).await.unwrap();
    cluster.nodes[owner].kill();
    until("found again", async || use_all(&program).await).await;
    hears_again(&program, &mut heard).await;
}

#[tokio::test]
async fn a_node_without_a_majority_fails_calls_in_time_until_the_others_are_back() {
    let cluster = RedisCluster::start(3).await;
    let owner = cluster.first_owner(cluster.slot("{jw}:").await);
    let program = over(cluster.nodes[owner].url(), BRIEF).await;
    use_all(&program).await.unwrap();
    let others = || [1, 2].map(|step| &cluster.nodes[(owner + step) % 3]);
    for node in others() {
        node.pause();
    }
    // Redis' own word for it, seen by the program.
    let refused = async || match use_all(&program).await.err().map(|error| format!("{error:?}")) {
        Some(error) if error.contains("ClusterDown") => Ok(()),
        seen => Err(seen),
    };
    until("refused", refused).await;
    for node in others() {
        node.resume();
    }
    until("used again", async || use_all(&program).await).await;
}

/// Tries until it holds; the last fault is told.
async fn until<E: std::fmt::Debug>(what: &str, holds: impl AsyncFn() -> Result<(), E>) {
    let begun = SystemClock.mono();
    while let Err(error) = holds().await {
        let waited = SystemClock.mono().since(begun);
        assert!(
            waited < ELECTED_WITHIN,
            "not {what} within {ELECTED_WITHIN:?}: {error:?}"
        );
        // tidy: poll
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
