//! Why no worker of a whole fleet could ever run a job, in one sentence that stays short for any fleet.

use std::collections::BTreeSet;

use super::{Fleet, Seen};
use crate::fit::{self, Lack, Offer, Size, Wanted};
use crate::words::count;

/// Names of pools in a sentence.
const POOLS_NAMED_MAX: usize = 5;

/// What is missing everywhere; for a fleet of which no worker could ever run the job.
pub fn never(wanted: Wanted<'_>, fleet: &Fleet) -> String {
    let workers = fleet.workers();
    let in_pool: Vec<&Seen> = workers
        .iter()
        .filter(|seen| seen.worker.description.pool == *wanted.pool)
        .collect();
    if in_pool.is_empty() {
        return format!(
            "no worker is in the pool {}; the registered ones are in {}",
            wanted.pool,
            pools(workers)
        );
    }
    let labelled: Vec<&Seen> = in_pool
        .iter()
        .copied()
        .filter(|seen| labels_missing(wanted, seen).next().is_none())
        .collect();
    if labelled.is_empty() {
        return no_labels(wanted, &in_pool);
    }
    let parts: Vec<String> = [Size::CpuMillis, Size::MemoryMib, Size::DiskMib, Size::Slots]
        .into_iter()
        .filter_map(|size| too_small(wanted, &labelled, size))
        .collect();
    let labels = if wanted.labels.is_empty() {
        ""
    } else {
        " with its labels"
    };
    let (pool, parts) = (wanted.pool, parts.join("; "));
    match labelled.len() {
        1 => format!("the one worker of the pool {pool}{labels} is too small: {parts}"),
        many => format!("of the {many} workers of the pool {pool}{labels} none is large enough: {parts}"),
    }
}

fn pools(workers: &[Seen]) -> String {
    let all: BTreeSet<&str> = workers
        .iter()
        .map(|seen| seen.worker.description.pool.as_str())
        .collect();
    let named: Vec<&str> = all.iter().copied().take(POOLS_NAMED_MAX).collect();
    match all.len().saturating_sub(named.len()) {
        0 => named.join(", "),
        more => format!("{} and {}", named.join(", "), count(more as u64, "other pool")),
    }
}

fn labels_missing<'a>(wanted: Wanted<'a>, seen: &'a Seen) -> impl Iterator<Item = Lack<'a>> {
    fit::lacks(wanted, Offer::idle(&seen.worker)).filter(|lack| match lack {
        Lack::Label { .. } => true,
        Lack::Pool { .. } | Lack::Size { .. } | Lack::Apart => false,
    })
}

fn no_labels(wanted: Wanted<'_>, in_pool: &[&Seen]) -> String {
    let nowhere: Vec<String> = wanted
        .labels
        .iter()
        .filter(|(name, value)| {
            let carries = |seen: &&Seen| seen.worker.description.labels.get(*name) == Some(*value);
            !in_pool.iter().any(carries)
        })
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let what = match &nowhere[..] {
        [] => "all of its labels at once".to_owned(),
        [one] => format!("the label {one}"),
        some => format!("the labels {}", some.join(", ")),
    };
    let pool = wanted.pool;
    match in_pool.len() {
        1 => format!("the one worker of the pool {pool} does not carry {what}"),
        many => format!("of the {many} workers of the pool {pool} none carries {what}"),
    }
}

/// A size that some of the workers do not have, with the largest.
fn too_small(wanted: Wanted<'_>, workers: &[&Seen], size: Size) -> Option<String> {
    let capacity = |seen: &&Seen| {
        let capacity = seen.worker.description.capacity;
        match size {
            Size::CpuMillis => (wanted.resources.cpu_millis, capacity.cpu_millis),
            Size::MemoryMib => (wanted.resources.memory_mib, capacity.memory_mib),
            Size::DiskMib => (wanted.resources.disk_mib, capacity.disk_mib),
            Size::Slots => (1, capacity.slots),
        }
    };
    let sizes = || workers.iter().map(capacity);
    let (needs, largest) = sizes().max_by_key(|(_, has)| *has)?;
    let small = sizes().filter(|(needs, has)| has < needs).count();
    let (name, unit) = size.words();
    if small == 0 {
        None
    } else if largest < needs {
        let who = if workers.len() == 1 { "it" } else { "the largest" };
        Some(format!(
            "{name}: needs {needs} {unit}, {who} has {largest} {unit}"
        ))
    } else {
        let small = count(small as u64, "worker");
        Some(format!("{name}: needs {needs} {unit}, {small} with less"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::ids::PoolName;
    use crate::lifecycle::testing::{spec, worker};

    fn fleet(changes: &[fn(&mut crate::worker::WorkerDescription)]) -> Fleet {
        let workers = changes
            .iter()
            .enumerate()
            .map(|(number, change)| {
                let mut worker = worker(&format!("w{number}"));
                change(&mut worker.description);
                worker
            })
            .collect();
        Fleet::new(workers, &HashSet::new(), Vec::new(), false)
    }

    #[test]
    fn the_sentence_names_what_is_missing_with_the_largest_there_is() {
        let mut spec = spec();
        spec.resources.memory_mib = 32_000;
        let two = fleet(&[|_| {}, |worker| worker.capacity.memory_mib = 31_431]);
        assert_eq!(
            never(Wanted::of(&spec), &two),
            "of the 2 workers of the pool default none is large enough: memory: needs 32000 MiB, the largest has \
             31431 MiB"
        );
        spec.pool = PoolName::new("gpu").unwrap();
        assert_eq!(
            never(Wanted::of(&spec), &two),
            "no worker is in the pool gpu; the registered ones are in default"
        );
    }

    #[test]
    fn labels_come_before_sizes_and_nobody_has_everything_at_once() {
        let mut spec = spec();
        spec.resources.memory_mib = 8_000;
        spec.resources.cpu_millis = 5_000;
        let halves = fleet(&[
            |worker| worker.capacity.memory_mib = 9_000,
            |worker| worker.capacity.cpu_millis = 9_000,
        ]);
        assert_eq!(
            never(Wanted::of(&spec), &halves),
            "of the 2 workers of the pool default none is large enough: CPU: needs 5000 millicpu, 1 worker with less; \
             memory: needs 8000 MiB, 1 worker with less"
        );
        spec.worker_labels.insert("zone".into(), "eu".into());
        assert_eq!(
            never(Wanted::of(&spec), &halves),
            "of the 2 workers of the pool default none carries the label zone=eu"
        );
    }
}
