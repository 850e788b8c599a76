//! Whatever is pushed and removed, the queue says the same as the embedded one.

use common::ids::JobId;
use common::lifecycle::testing::account;
use common::queue::{ClassKey, Lane, QueueEntry};
use common::store::{JobQueue, StoreError};
use proptest::prelude::*;
use storage::conformance::Backend;
use storage::conformance::redis_server::RedisServer;

use crate::backend::on;
use crate::embedded;

#[derive(Debug, Clone)]
enum Change {
    Push(Vec<QueueEntry>),
    Remove(Vec<QueueEntry>),
}

fn entry() -> impl Strategy<Value = QueueEntry> {
    // Few of each, so that they meet; scores up to what bands and times make.
    (0..2usize, 0..2usize, 0..4u64, 0..10u128).prop_map(|(class, name, score, job)| QueueEntry {
        lane: Lane {
            class: ClassKey::from_text(["default/c20m16d20", "default/c20m16d20#0123"][class]),
            account: account(["acme", "acme-2"][name]),
        },
        score: (score << 42) * 5 + score,
        // The numbers' order is to be seen in the texts as well.
        job: JobId::from_u128(job << 120 | job),
    })
}

fn change() -> impl Strategy<Value = Change> {
    let entries = || prop::collection::vec(entry(), 1..8);
    prop_oneof![
        3 => entries().prop_map(Change::Push),
        2 => entries().prop_map(Change::Remove),
    ]
}

/// All that a queue tells.
async fn told(queue: &dyn JobQueue) -> Result<impl PartialEq + std::fmt::Debug + use<>, StoreError> {
    let mut lanes = queue.lanes().await?;
    // they come in any order
    lanes.sort();
    let wanted: Vec<_> = lanes.iter().map(|(lane, _)| (lane.clone(), 0, 100)).collect();
    let heads = queue.heads_of(&wanted).await?;
    let (mut places, mut rest) = (Vec::new(), Vec::new());
    for (lane, _) in &lanes {
        rest.push(queue.heads(lane, 1, 2).await?);
    }
    for entry in heads.iter().flatten() {
        places.push(queue.place(entry).await?);
    }
    Ok((lanes, heads, rest, places, queue.len().await?))
}

#[test]
fn the_order_is_that_of_the_embedded_queue() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let server = runtime.block_on(RedisServer::start());
    let redis = runtime.block_on(on(server.url(), None)).stores().queue;
    let model = runtime.block_on(embedded::fresh()).stores().queue;
    let cases = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(60)
    };
    proptest!(cases, |(changes in prop::collection::vec(change(), 1..25))| {
        runtime.block_on(async {
            for queue in [&redis, &model] {
                queue.clear().await.unwrap();
            }
            for change in &changes {
                for queue in [&redis, &model] {
                    match change {
                        Change::Push(entries) => queue.push(entries).await.unwrap(),
                        Change::Remove(entries) => queue.remove(entries).await.unwrap(),
                    }
                }
                assert_eq!(told(&*redis).await.unwrap(), told(&*model).await.unwrap(), "after {change:?}");
            }
        });
    });
}
