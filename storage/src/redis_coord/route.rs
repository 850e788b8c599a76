//! Where the keys are: at the address that was given or, on a Redis Cluster, at the node that has their one slot.
//!
//! A node that has not got the slot names the one that has, and that is where the link goes next. The other nodes are
//! remembered, so that a cluster is found again when the node of the address is gone. Without a cluster there is one
//! address for ever.

use std::sync::{Mutex, MutexGuard, PoisonError};

use redis::{Client, ConnectionAddr, ConnectionInfo, RedisResult, Value};

/// Nodes remembered. A cluster that has more is found by any of these.
const KNOWN_MAX: usize = 32;

pub struct Route {
    given: ConnectionInfo,
    places: Mutex<Places>,
}

struct Places {
    /// The given one first.
    known: Vec<ConnectionAddr>,
    now: usize,
}

impl Route {
    pub fn new(given: ConnectionInfo) -> Self {
        let known = vec![given.addr().clone()];
        Self {
            given,
            places: Mutex::new(Places { known, now: 0 }),
        }
    }

    /// The address to go to.
    pub fn address(&self) -> ConnectionAddr {
        let places = self.locked();
        places.known[places.now].clone()
    }

    /// Another address, the same user and settings.
    pub fn client(&self, address: ConnectionAddr) -> RedisResult<Client> {
        Client::open(self.given.clone().set_addr(address))
    }

    /// The node at `from` named another one, as `host:port`; without a host it is the same machine. False when it
    /// named none.
    pub fn moved(&self, from: &ConnectionAddr, to: &str) -> bool {
        let Some(to) = node(from, to) else {
            return false;
        };
        self.locked().go(to);
        true
    }

    /// What was gone to is of no use: on to the next.
    pub fn failed(&self) {
        let mut places = self.locked();
        places.now = (places.now + 1) % places.known.len();
    }

    /// Remembers the nodes of an answer to `CLUSTER SLOTS` from the node at `from`, which stays where to go.
    pub fn learn(&self, from: &ConnectionAddr, slots: &Value) {
        let mut places = self.locked();
        places.known.truncate(1);
        places.now = 0;
        places.go(from.clone());
        for node in nodes(from, slots) {
            places.place_of(node);
        }
    }

    fn locked(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    fn go(&mut self, to: ConnectionAddr) {
        self.now = match self.place_of(to.clone()) {
            Some(place) => place,
            None => {
                // Full: the last gives way.
                let last = self.known.len() - 1;
                self.known[last] = to;
                last
            }
        };
    }

    /// None where it is not known, and too many are.
    fn place_of(&mut self, node: ConnectionAddr) -> Option<usize> {
        if let Some(place) = self.known.iter().position(|known| *known == node) {
            return Some(place);
        }
        (self.known.len() < KNOWN_MAX).then(|| {
            self.known.push(node);
            self.known.len() - 1
        })
    }
}

fn node(from: &ConnectionAddr, named: &str) -> Option<ConnectionAddr> {
    let (host, port) = named.rsplit_once(':')?;
    at(from, host, port.parse().ok()?)
}

fn at(from: &ConnectionAddr, host: &str, port: u16) -> Option<ConnectionAddr> {
    // A node that does not know its own name says nothing, or a question mark.
    let named = |same: &str| match host {
        "" | "?" => same.to_owned(),
        host => host.to_owned(),
    };
    match from {
        ConnectionAddr::Tcp(same, _) => Some(ConnectionAddr::Tcp(named(same), port)),
        // encrypted like the one that was asked
        ConnectionAddr::TcpTls {
            host: same,
            insecure,
            tls_params,
            ..
        } => Some(ConnectionAddr::TcpTls {
            host: named(same),
            port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        }),
        _ => None,
    }
}

/// Each range of slots is its two ends and then its nodes, each a host, a port and more.
fn nodes(from: &ConnectionAddr, slots: &Value) -> Vec<ConnectionAddr> {
    let ranges = slots.as_sequence().unwrap_or_default().iter();
    let nodes = ranges.flat_map(|range| range.as_sequence().unwrap_or_default().iter().skip(2));
    let address = |node: &Value| {
        let [host, Value::Int(port), ..] = node.as_sequence()? else {
            return None;
        };
        let host = match host {
            Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?,
            _ => "",
        };
        at(from, host, u16::try_from(*port).ok()?)
    };
    nodes.filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use redis::IntoConnectionInfo;

    use super::*;

    fn tcp(host: &str, port: u16) -> ConnectionAddr {
        ConnectionAddr::Tcp(host.into(), port)
    }

    fn route() -> Route {
        Route::new("redis://seed:1".into_connection_info().unwrap())
    }

    #[test]
    fn a_named_node_is_gone_to_wherever_it_is() {
        let (route, seed) = (route(), tcp("seed", 1));
        for (named, node) in [
            ("10.0.0.1:7", tcp("10.0.0.1", 7)),
            ("::1:7", tcp("::1", 7)),
            (":7", tcp("seed", 7)),
            ("?:8", tcp("seed", 8)),
        ] {
            assert!(route.moved(&seed, named), "{named}");
            assert_eq!(route.address(), node);
        }
        for none in ["", "host", "host:", "host:99999"] {
            assert!(!route.moved(&seed, none), "{none}");
        }
    }

    #[test]
    fn the_nodes_of_an_encrypted_cluster_are_spoken_to_encrypted() {
        let route = Route::new("rediss://seed:1".into_connection_info().unwrap());
        for (named, node) in [("b:2", "rediss://b:2"), (":3", "rediss://seed:3")] {
            assert!(route.moved(&route.address(), "seed:1") && route.moved(&route.address(), named));
            assert_eq!(route.address(), *node.into_connection_info().unwrap().addr());
        }
    }

    #[test]
    fn an_address_alone_is_tried_for_ever_and_a_cluster_node_by_node() {
        let (route, seed) = (route(), tcp("seed", 1));
        route.failed();
        assert_eq!(route.address(), seed);
        assert!(route.moved(&seed, "b:2"));
        let node = |host: &str, port| {
            Value::Array(vec![Value::BulkString(host.into()), Value::Int(port), Value::Nil])
        };
        let range = Value::Array(vec![Value::Int(0), Value::Int(9), node("b", 2), node("c", 3)]);
        route.learn(&tcp("b", 2), &Value::Array(vec![range, Value::Nil]));
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(route.address());
            route.failed();
        }
        assert_eq!(seen, [tcp("b", 2), tcp("c", 3), seed, tcp("b", 2)]);
    }

    #[test]
    fn however_many_nodes_are_named_so_many_are_remembered() {
        let (route, seed) = (route(), tcp("seed", 1));
        for port in 2..1_000 {
            assert!(route.moved(&seed, &format!("n:{port}")));
            assert_eq!(route.address(), tcp("n", port));
        }
        assert_eq!(route.locked().known.len(), KNOWN_MAX);
    }
}
