//! Why a queued job waits, as far as the list of workers tells.

use common::api_types::{JobView, WorkerList, WorkerView, paths};
use common::job::StateName;

use crate::client::{Call, Client};
use crate::output::sanitise::line;

/// A sentence, or none where the job does not wait or nothing can be said. Never fails: it only explains.
pub async fn reason(client: &Client, job: &JobView) -> Option<String> {
    if job.state != StateName::Queued {
        return None;
    }
    let workers: WorkerList = client.ask(&Call::get(paths::WORKERS)).await.ok()?;
    Some(line(&explain(job, &workers.workers)))
}

fn explain(job: &JobView, workers: &[WorkerView]) -> String {
    let pool = job.spec.pool.clone().unwrap_or_default();
    let of_pool: Vec<&WorkerView> = workers.iter().filter(|worker| worker.pool == pool).collect();
    if of_pool.is_empty() {
        return format!("no worker has registered in the pool `{pool}`: start an agent, or `jobworker up`");
    }
    let fitting: Vec<&WorkerView> = of_pool
        .iter()
        .copied()
        .filter(|worker| fits(job, worker))
        .collect();
    if fitting.is_empty() {
        let largest =
            |what: fn(&WorkerView) -> Option<u32>| of_pool.iter().filter_map(|w| what(w)).max().unwrap_or(0);
        return format!(
            "no worker of the pool `{pool}` is large enough or carries the labels: the largest give {} thousandths of \
             a CPU, {} MiB of memory, {} MiB of disk",
            largest(|w| w.capacity.cpu_millis),
            largest(|w| w.capacity.memory_mib),
            largest(|w| w.capacity.disk_mib),
        );
    }
    let ready: Vec<&WorkerView> = fitting
        .iter()
        .copied()
        .filter(|w| w.ready && !w.draining)
        .collect();
    if ready.is_empty() {
        let why: Vec<String> = fitting
            .iter()
            .map(|worker| {
                let reasons = if worker.draining {
                    "it is draining".to_owned()
                } else {
                    worker.reasons.join("; ")
                };
                format!("{}: {reasons}", worker.id)
            })
            .collect();
        return format!("no worker can start jobs now: {}", why.join(", "));
    }
    "the workers that fit are busy, or about to take it".to_owned()
}

fn fits(job: &JobView, worker: &WorkerView) -> bool {
    let (asked, given) = (job.spec.resources, worker.capacity);
    let enough = |asked: Option<u32>, given: Option<u32>| asked.unwrap_or(0) <= given.unwrap_or(u32::MAX);
    enough(asked.cpu_millis, given.cpu_millis)
        && enough(asked.memory_mib, given.memory_mib)
        && enough(asked.disk_mib, given.disk_mib)
        && job
            .spec
            .worker_labels
            .iter()
            .all(|(key, value)| worker.labels.get(key) == Some(value))
}
