//! Which container has which host user.
//!
//! Invariant: no two containers that are there have the same, so what a job leaves running is never another job's
//! neighbour. A user is free again when its container is gone, not when its job has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// More than a node has containers; with the default for the first one, all are below those that distributions leave to
/// containers' own ranges.
const USERS_MAX: u32 = 20_000;

/// Users of containers that are there, by the containers' names.
#[derive(Debug)]
pub struct Users {
    first: u32,
    taken: Mutex<BTreeMap<String, u32>>,
}

impl Users {
    pub fn new(first: u32) -> Self {
        Self {
            first,
            taken: Mutex::default(),
        }
    }

    /// The lowest that no container has, for the container of that name; none where each has one.
    pub fn take(&self, name: &str) -> Option<u32> {
        let mut taken = self.lock();
        let not_free: BTreeSet<u32> = taken.values().copied().collect();
        let all = self.first..self.first.saturating_add(USERS_MAX);
        let user = all.into_iter().find(|user| !not_free.contains(user))?;
        taken.insert(name.to_owned(), user);
        Some(user)
    }

    /// A container of an earlier life has this one.
    pub fn mark(&self, name: &str, user: u32) {
        self.lock().insert(name.to_owned(), user);
    }

    /// The container of that name is gone.
    pub fn free(&self, name: &str) {
        self.lock().remove(name);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, u32>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_free_again_when_each_container_that_had_it_is_gone() {
        let users = Users::new(70);
        // Of earlier lives two may have the same.
        users.mark("of an earlier life", 71);
        users.mark("of another", 71);
        assert_eq!(users.take("first"), Some(70));
        users.free("first");
        assert_eq!(users.take("second"), Some(70));
        users.free("first");
        users.free("of another");
        assert_eq!(users.take("third"), Some(72));
        users.free("of an earlier life");
        assert_eq!(users.take("fourth"), Some(71));
    }

    #[test]
    fn there_are_so_many_and_no_more() {
        let users = Users::new(70);
        users.mark("of the last user", 70 + USERS_MAX - 1);
        for number in 1..USERS_MAX {
            users.mark(&number.to_string(), 69 + number);
        }
        assert_eq!(users.take("one too many"), None);
        users.free("of the last user");
        assert_eq!(users.take("the last"), Some(70 + USERS_MAX - 1));
    }
}
