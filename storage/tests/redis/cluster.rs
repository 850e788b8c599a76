//! On a Redis Cluster every script finds its keys on one node.

use std::time::Duration;

use common::time::{Clock, SystemClock};
use storage::conformance::redis_server::RedisServer;

use crate::backend::{EmbeddedAndRedis, on};

storage::conformance_laws! { clustered;
    coord: the_lock_has_one_holder_at_a_time, the_queue_is_in_order, a_lane_is_there_as_long_as_something_waits_in_it,
        the_queue_starts_unbuilt_and_forgets, a_making_that_was_lost_or_overtaken_is_not_whole,
        a_hint_reaches_whoever_listens, the_call_past_the_limit_is_refused, a_nonce_is_used_once_by_one;
}

/// A cluster of one node, which owns every slot and still refuses commands over keys of several.
async fn clustered() -> EmbeddedAndRedis {
    let server = RedisServer::with(&["--cluster-enabled", "yes"]).await;
    let own = ["CLUSTER", "ADDSLOTSRANGE", "0", "16383"];
    server.ask::<()>(&own).await.unwrap();
    let begun = SystemClock.mono();
    loop {
        let state = server.ask::<String>(&["CLUSTER", "INFO"]).await.unwrap();
        if state.contains("cluster_state:ok") {
            break;
        }
        let waited = SystemClock.mono().since(begun);
        assert!(
            waited < Duration::from_secs(30),
            "the cluster is not ready: {state}"
        );
        // tidy: poll
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    on(server.url(), Some(server)).await
}
