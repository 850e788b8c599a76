//! I14: nothing of a run is left behind, and nothing of anybody else's was touched.

use std::collections::{BTreeMap, BTreeSet};

use super::{Event, History, Violation};

/// A container in which no job ever ran is one that was prepared: those may stay while their agent lives.
pub fn none_is_orphaned(history: &History) -> Vec<Violation> {
    let mut held: BTreeMap<_, &Vec<String>> = BTreeMap::new();
    let mut left: Option<&Vec<String>> = None;
    let mut foreign: BTreeMap<&String, BTreeSet<&String>> = BTreeMap::new();
    for line in history.lines() {
        match &line.event {
            Event::Holds {
                worker, containers, ..
            } => {
                held.insert(worker, containers);
            }
            Event::Containers { ids } => left = Some(ids),
            Event::Foreign { container, described } => {
                foreign.entry(container).or_default().insert(described);
            }
            _ => {}
        }
    }
    let held: BTreeSet<&String> = held.into_values().flatten().collect();
    let used: BTreeMap<String, String> = history
        .runs()
        .into_iter()
        .map(|run| (run.container, run.key))
        .collect();
    let orphan = |container: &String| {
        let key = used.get(container)?;
        (!held.contains(container))
            .then(|| format!("container {container} of `{key}` is left, and no journal holds it"))
    };
    let changed = foreign
        .into_iter()
        .filter(|(_, described)| described.len() > 1)
        .map(|(container, described)| {
            format!("container {container} is somebody else's and changed: {described:?}")
        });
    let mut what: Vec<String> = left
        .into_iter()
        .flatten()
        .filter_map(orphan)
        .chain(changed)
        .collect();
    if left.is_none() {
        what.push("nobody looked which containers are left".to_owned());
    }
    what.into_iter()
        .map(|what| Violation { job: None, what })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Story, broken};
    use crate::history::Event;
    use crate::history::Invariant::I14;

    #[test]
    fn a_container_of_a_run_is_held_or_gone() {
        let ran = Story::new().run("a", "used", 1, Some(2));
        assert!(broken(&ran, I14)[0].contains("nobody looked"));
        let good = ran.clone().left(3, &["prepared"]);
        assert_eq!(broken(&good, I14), Vec::<String>::new());
        let orphan = ran.left(3, &["prepared", "used"]);
        assert!(broken(&orphan, I14)[0].contains("container used of `a`"));
        let held = orphan.holds_containers(4, &["used"]);
        assert_eq!(broken(&held, I14), Vec::<String>::new());
        let let_go = held.holds_containers(5, &[]);
        assert_eq!(broken(&let_go, I14).len(), 1);
    }

    #[test]
    fn a_foreign_container_stays_as_it_was() {
        let seen = |described: &str| Event::Foreign {
            container: "theirs".to_owned(),
            described: described.to_owned(),
        };
        let good = Story::new()
            .tell(1, seen("running"))
            .left(2, &[])
            .tell(3, seen("running"));
        assert_eq!(broken(&good, I14), Vec::<String>::new());
        let bad = good.tell(4, seen("gone"));
        assert!(broken(&bad, I14)[0].contains("somebody else's"));
    }
}
