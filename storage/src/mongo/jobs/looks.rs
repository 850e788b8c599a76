//! What sessions hold, for heartbeats: one question for all sessions that are asked about while one is under way.

use std::collections::HashMap;
use std::sync::Arc;

use common::ids::SessionId;
use common::store::Holding;

use super::super::lane::{Answers, Weighed, Work};
use super::super::link::{Link, in_time};
use super::query;

pub(in super::super) struct Looker(pub(in super::super) Arc<Link>);

impl Weighed for SessionId {
    fn bytes(&self) -> usize {
        64
    }
}

impl Work for Looker {
    type Item = SessionId;
    type Answer = Vec<Holding>;

    async fn run(&mut self, group: Vec<SessionId>) -> Answers<Vec<Holding>> {
        let mut of: HashMap<SessionId, Vec<Holding>> = HashMap::new();
        for holding in in_time(query::holdings(&self.0, &group)).await? {
            of.entry(holding.session).or_default().push(holding);
        }
        let own = |session| Ok(of.get(session).cloned().unwrap_or_default());
        Ok(group.iter().map(own).collect())
    }
}
