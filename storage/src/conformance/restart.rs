//! What was acknowledged is there after the program has ended, however it did.

use common::attempt::Outcome;
use common::ids::AttemptId;
use common::job::{Epoch, Job};
use common::log::Stream;
use common::store::Inserted;
use common::time::Clock;

use super::kit::{done, finished, jobs, keyed, load, new_job, running, spec};
use super::{Backend, Ending, files, logs};

pub async fn everything_acknowledged_survives_closing(backend: &mut impl Backend) {
    survives(backend, Ending::Closed).await;
}

pub async fn everything_acknowledged_survives_a_kill(backend: &mut impl Backend) {
    survives(backend, Ending::Killed).await;
}

async fn survives(backend: &mut impl Backend, ending: Ending) {
    let mut kept: Vec<Job> = Vec::new();
    let first = new_job(backend, "acme", spec());
    jobs(backend)
        .submit(vec![keyed(first.clone(), "k", "f")])
        .await
        .unwrap();
    kept.push(first.clone());
    let (ran, attempt, _) = running(backend, spec()).await;
    kept.push(done(backend, ran.id, finished(attempt, Outcome::Exited { code: 0 })).await);
    kept.push(running(backend, spec()).await.0);

    let attempt = AttemptId::random();
    let chunk = |seq| logs::chunk(attempt, Stream::Stdout, seq, &format!("{seq} "));
    let now = backend.clock().now();
    backend
        .stores()
        .logs
        .append(vec![chunk(0), chunk(1)], now)
        .await
        .unwrap();
    let file = files::store(backend, &[b"whole"]).await;
    let half = common::store::NewFile {
        id: common::ids::FileId::random(),
        account: file.account.clone(),
        owner: file.owner.clone(),
        purpose: file.purpose.clone(),
        name: "half".into(),
        content_type: String::new(),
        created_at: now,
    };
    let mut dropped = backend.stores().files.create(half).await.unwrap();
    dropped.write("half".into()).await.unwrap();
    assert_eq!(backend.stores().terms.begin().await.unwrap(), Epoch(1));
    let session = backend
        .stores()
        .workers
        .open_session(
            common::ids::SessionId::random(),
            &common::ids::WorkerId::new("n").unwrap(),
            now,
        )
        .await
        .unwrap();

    for round in 0..3 {
        backend.reopen(ending).await;
        for job in &kept {
            assert_eq!(load(backend, job.id).await, *job, "round {round}");
        }
        let again = keyed(new_job(backend, "acme", spec()), "k", "f");
        let answers = jobs(backend).submit(vec![again]).await.unwrap();
        assert_eq!(answers, [Inserted::Repeated(Box::new(first.clone()))]);
        let stores = backend.stores();
        let range = stores
            .logs
            .read_range(attempt, Stream::Stdout, 0, 99)
            .await
            .unwrap();
        assert_eq!(
            range,
            (0..2 + round).map(|seq| format!("{seq} ")).collect::<String>()
        );
        let seq = 2 + round;
        stores.logs.append(vec![chunk(seq), chunk(0)], now).await.unwrap();
        assert_eq!(files::read(backend, file.id, 0, None).await, b"whole");
        assert_eq!(stores.terms.begin().await.unwrap(), Epoch(2 + round));
        assert_eq!(
            stores.workers.live_sessions().await.unwrap(),
            std::slice::from_ref(&session)
        );
    }
}
