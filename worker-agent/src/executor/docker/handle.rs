//! What a container is known by, also one of which nobody knows whether there is one.

use std::time::Duration;

use common::time::Mono;

use crate::executor::ContainerRef;

/// How long a container whose making was not answered is looked for, from the first time that an engine which answers has
/// none: past what a machine under load takes to make one.
const LOST_FOR: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub struct Handle {
    /// Empty before the engine was asked to make it.
    pub container: ContainerRef,
    /// Of the container, and of its workspace.
    pub name: String,
    making: Making,
}

/// What the engine said of the container's making.
#[derive(Debug, Clone, Copy)]
enum Making {
    Answered,
    Lost {
        /// When it was first looked for in vain.
        missing_since: Option<Mono>,
    },
}

impl Handle {
    /// Of a container that is there; its name may be the engine's, with a slash before it.
    pub fn of(container: ContainerRef, name: &str) -> Self {
        Self {
            container,
            name: name.trim_start_matches('/').to_owned(),
            making: Making::Answered,
        }
    }

    /// Of a workspace whose container was not asked for yet, or is gone.
    pub fn of_none(name: &str) -> Self {
        Self::of(ContainerRef(String::new()), name)
    }

    /// The engine was asked to make it, and the answer was lost.
    pub fn lost(&mut self) {
        self.making = Making::Lost { missing_since: None };
    }

    /// Whether a container that the engine does not know `now` may yet be made.
    pub fn may_still_come(&mut self, now: Mono) -> bool {
        match &mut self.making {
            Making::Answered => false,
            Making::Lost { missing_since } => now.since(*missing_since.get_or_insert(now)) < LOST_FOR,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_container_whose_making_was_not_answered_may_still_come_and_not_for_ever() {
        let at = Mono::from_millis;
        let mut handle = Handle::of(ContainerRef("id".to_owned()), "/jw-name");
        assert_eq!(handle.name, "jw-name");
        assert!(!handle.may_still_come(at(5)));
        handle.lost();
        // However long the engine did not answer at all.
        for (now, comes) in [
            (900_000, true),
            (959_999, true),
            (960_000, false),
            (960_001, false),
        ] {
            assert_eq!(handle.may_still_come(at(now)), comes, "{now}");
        }
    }
}
