//! Breadth first through every state, each visited once.

use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::world::{Action, World};

pub struct Found {
    pub states: usize,
    pub violation: Option<Violation>,
}

pub struct Violation {
    pub invariant: &'static str,
    pub trace: Vec<Action>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} is broken by:", self.invariant)?;
        self.trace
            .iter()
            .try_for_each(|action| writeln!(f, "  {action:?}"))
    }
}

/// Visits what can be reached from `start` in `depth` steps, or stops at the first broken invariant.
pub fn explore(start: World, depth: usize) -> Found {
    let mut seen = HashSet::from([fingerprint(&start)]);
    // (parent in the arena, action): enough to tell how a violation came about.
    let mut arena: Vec<(u32, Action)> = Vec::new();
    let mut frontier = vec![(u32::MAX, start)];
    for _ in 0..depth {
        let mut next = Vec::new();
        for (node, world) in &frontier {
            for action in world.actions() {
                let mut after = world.clone();
                let broken = after.act(action).or_else(|| after.broken());
                if let Some(invariant) = broken {
                    let mut trace = trace(&arena, *node);
                    trace.push(action);
                    return Found {
                        states: seen.len(),
                        violation: Some(Violation { invariant, trace }),
                    };
                }
                if seen.insert(fingerprint(&after)) {
                    arena.push((*node, action));
                    next.push((
                        u32::try_from(arena.len() - 1).expect("fewer than 2^32 states"),
                        after,
                    ));
                }
            }
        }
        frontier = next;
    }
    Found {
        states: seen.len(),
        violation: None,
    }
}

fn trace(arena: &[(u32, Action)], mut node: u32) -> Vec<Action> {
    let mut actions = Vec::new();
    while let Some((parent, action)) = arena.get(node as usize) {
        actions.push(*action);
        node = *parent;
    }
    actions.reverse();
    actions
}

/// 128 bits: two different states that look alike would hide one from the proof.
fn fingerprint(world: &World) -> (u64, u64) {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        world.hash(&mut hasher);
        hasher.finish()
    };
    (half(0), half(1))
}
