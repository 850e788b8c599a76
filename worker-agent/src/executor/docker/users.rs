//! Which container has which host user. Slots have users of their own and do not ask.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Users of containers that are there, each with the name of its container.
#[derive(Debug, Default)]
pub struct Users(Mutex<BTreeMap<u32, String>>);

impl Users {
    /// One from `first` on that no container has, for the container of that name.
    pub fn take(&self, first: u32, name: &str) -> u32 {
        let mut users = self.lock();
        let user = (first..).find(|user| !users.contains_key(user)).unwrap_or(first);
        users.insert(user, name.to_owned());
        user
    }

    /// The container of an earlier life has this one.
    pub fn mark(&self, user: u32, name: &str) {
        self.lock().insert(user, name.to_owned());
    }

    /// The container of that name is gone. Two may see that, the second after its user was given to another container.
    pub fn free(&self, user: u32, name: &str) {
        let mut users = self.lock();
        if users.get(&user).is_some_and(|owner| owner == name) {
            users.remove(&user);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_freed_by_the_end_of_the_container_that_has_it_and_of_no_other() {
        let users = Users::default();
        users.mark(71, "of an earlier life");
        assert_eq!(users.take(70, "first"), 70);
        users.free(70, "first");
        assert_eq!(users.take(70, "second"), 70);
        users.free(70, "first");
        assert_eq!(users.take(70, "third"), 72);
        users.free(70, "second");
        assert_eq!(users.take(70, "fourth"), 70);
    }
}
