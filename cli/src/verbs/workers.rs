//! `workers`: who may run jobs, and why one takes none.

use common::api_types::{WorkerList, WorkerView, paths};
use common::time::Timestamp;

use super::{Session, now};
use crate::client::Call;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::sanitise::line;
use crate::output::table::{show_age, table};
use crate::output::{note, print_json, print_line};

pub async fn perform(session: &Session) -> Result<Exit, Failure> {
    let client = session.client()?;
    let answer = client.call(&Call::get(paths::WORKERS)).await?;
    if session.json() {
        print_json(&answer.0)?;
        return Ok(Exit::SUCCESS);
    }
    let list: WorkerList = answer.parse()?;
    if list.workers.is_empty() {
        note("no worker has registered; `jobworker up` starts one");
        return Ok(Exit::SUCCESS);
    }
    let now = now();
    print_line(&table(
        [
            "id",
            "condition",
            "pool",
            "running",
            "cpu",
            "memory",
            "disk",
            "load",
            "heard",
            "version",
        ],
        list.workers.iter().map(|worker| row(worker, now)),
    ))?;
    for worker in &list.workers {
        for reason in &worker.reasons {
            print_line(&format!("{}: {}", worker.id, line(reason)))?;
        }
    }
    Ok(Exit::SUCCESS)
}

fn row(worker: &WorkerView, now: Timestamp) -> [String; 10] {
    let mib = |size: Option<u32>| size.map_or_else(String::new, |mib| format!("{mib} MiB"));
    let condition = match (worker.ready, worker.draining) {
        (true, false) => "ready",
        (true, true) => "draining",
        (false, _) => "unready",
    };
    let cpu = worker
        .capacity
        .cpu_millis
        .map(|cpu| (f64::from(cpu) / 1_000.0).to_string());
    [
        worker.id.to_string(),
        condition.to_owned(),
        worker.pool.to_string(),
        format!("{}/{}", worker.load.running, worker.slots),
        cpu.unwrap_or_default(),
        mib(worker.capacity.memory_mib),
        mib(worker.capacity.disk_mib),
        format!("{}%", worker.load.cpu_percent),
        show_age(worker.heard_at, now),
        worker.version.clone(),
    ]
}
