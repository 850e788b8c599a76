//! A real Redis Cluster of a test's own: several nodes on free ports of this machine, gone with their holder.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::redis_server::RedisServer;

/// Nodes find each other within three seconds; a busy machine needs longer.
const READY: Duration = Duration::from_secs(60);

/// After so long without an answer a node is taken for dead. On a busy machine a living one is silent for a while.
const NODE_TIMEOUT_MS: &str = "5000";

const SLOTS: usize = 16_384;

pub struct RedisCluster {
    pub nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// Each node owns an equal part of the slots.
    pub async fn start(count: usize) -> Self {
        let nodes = join_all((0..count).map(|_| node())).await;
        for (number, node) in nodes.iter().enumerate() {
            let (first, end) = (number * SLOTS / count, (number + 1) * SLOTS / count);
            told(node, &["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]).await;
            let last = (end - 1).to_string();
            told(node, &["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last]).await;
        }
        let cluster = Self { nodes };
        for node in &cluster.nodes[1..] {
            cluster.meets(node).await;
        }
        let known = format!("cluster_known_nodes:{count}\r");
        let assigned = format!("cluster_slots_assigned:{SLOTS}\r");
        for node in &cluster.nodes {
            says(
                node,
                &["CLUSTER", "INFO"],
                &["cluster_state:ok", &known, &assigned],
            )
            .await;
        }
        cluster
    }

    /// A node more, which takes over when the node `of` dies.
    pub async fn add_replica(&mut self, of: usize) {
        let replica = node().await;
        self.meets(&replica).await;
        let primary = self.id(of).await;
        says(&replica, &["CLUSTER", "NODES"], &[&primary]).await;
        told(&replica, &["CLUSTER", "REPLICATE", &primary]).await;
        says(&replica, &["INFO", "replication"], &["master_link_status:up"]).await;
        for node in &self.nodes {
            says(node, &["CLUSTER", "NODES"], &["slave"]).await;
        }
        self.nodes.push(replica);
    }

    pub async fn slot(&self, key: &str) -> usize {
        let slot = self.nodes[0].ask(&["CLUSTER", "KEYSLOT", key]).await;
        slot.unwrap()
    }

    /// Which node a slot was given at the start.
    pub fn first_owner(&self, slot: usize) -> usize {
        let count = self.nodes.len();
        (0..count)
            .find(|number| slot < (number + 1) * SLOTS / count)
            .unwrap()
    }

    /// A slot begins to leave one node for another: both of them know, and its keys are still where they were.
    pub async fn begin_move(&self, slot: usize, from: usize, to: usize) {
        let (slot, source, target) = (slot.to_string(), self.id(from).await, self.id(to).await);
        told(
            &self.nodes[to],
            &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source],
        )
        .await;
        told(
            &self.nodes[from],
            &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target],
        )
        .await;
    }

    /// Carries at most so many of the keys over. How many went.
    pub async fn carry(&self, slot: usize, from: usize, to: usize, at_most: usize) -> usize {
        let (slot, at_most) = (slot.to_string(), at_most.to_string());
        let find = ["CLUSTER", "GETKEYSINSLOT", &slot, &at_most];
        let keys: Vec<String> = self.nodes[from].ask(&find).await.unwrap();
        if !keys.is_empty() {
            let port = self.nodes[to].port().to_string();
            let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "20000", "KEYS"];
            migrate.extend(keys.iter().map(String::as_str));
            told(&self.nodes[from], &migrate).await;
        }
        keys.len()
    }

    /// The slot is the other node's.
    pub async fn end_move(&self, slot: usize, to: usize) {
        let (slot, target) = (slot.to_string(), self.id(to).await);
        let own = ["CLUSTER", "SETSLOT", &slot, "NODE", &target];
        told(&self.nodes[to], &own).await;
        for (number, node) in self.nodes.iter().enumerate() {
            if number != to {
                told(node, &own).await;
            }
        }
    }

    async fn id(&self, node: usize) -> String {
        self.nodes[node].ask(&["CLUSTER", "MYID"]).await.unwrap()
    }

    async fn meets(&self, node: &RedisServer) {
        let port = node.port().to_string();
        told(&self.nodes[0], &["CLUSTER", "MEET", "127.0.0.1", &port]).await;
    }
}

async fn node() -> RedisServer {
    RedisServer::with(&[
        "--cluster-enabled",
        "yes",
        "--cluster-node-timeout",
        NODE_TIMEOUT_MS,
    ])
    .await
}

async fn told(node: &RedisServer, words: &[&str]) {
    node.ask::<()>(words).await.unwrap();
}

/// Waits until the answer holds all of these.
async fn says(node: &RedisServer, words: &[&str], parts: &[&str]) {
    let deadline = Instant::now() + READY;
    loop {
        let said: String = node.ask(words).await.unwrap();
        if parts.iter().all(|part| said.contains(part)) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{words:?} lacks one of {parts:?} after {READY:?}: {said}"
        );
        // tidy: poll
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
