//! Submission: acknowledged is stored, and one key is one job.

use std::time::Duration;

use common::ids::UserId;
use common::store::{Fingerprint, IdempotencyKey, Inserted};

use super::Backend;
use super::kit::{jobs, keyed, load, new_job, plain, spec, submit, turn};

pub async fn an_acknowledged_job_is_there(backend: &mut impl Backend) {
    let job = submit(backend, spec()).await;
    assert_eq!(load(backend, job.id).await, job);
    let queue = backend.stores().queue;
    assert_eq!(queue.len().await.unwrap(), 1);
}

pub async fn the_same_key_gives_the_first_job(backend: &mut impl Backend) {
    let first = new_job(backend, "acme", spec());
    let again = new_job(backend, "acme", spec());
    let service = jobs(backend);
    let answers = service
        .submit(vec![keyed(first.clone(), "k", "f")])
        .await
        .unwrap();
    assert_eq!(answers, [Inserted::Stored]);
    let answers = service
        .submit(vec![keyed(again.clone(), "k", "f")])
        .await
        .unwrap();
    assert_eq!(answers, [Inserted::Repeated(Box::new(first))]);
    assert_eq!(backend.stores().jobs.get(again.id).await.unwrap(), None);
}

pub async fn another_request_under_a_key_is_refused(backend: &mut impl Backend) {
    let service = jobs(backend);
    let first = new_job(backend, "acme", spec());
    let other = new_job(backend, "acme", spec());
    // Within one batch as well as between two.
    let batch = vec![keyed(first, "k", "f"), keyed(other.clone(), "k", "g")];
    let answers = service.submit(batch).await.unwrap();
    assert_eq!(answers, [Inserted::Stored, Inserted::KeyReused]);
    let answers = service
        .submit(vec![keyed(other.clone(), "k", "g")])
        .await
        .unwrap();
    assert_eq!(answers, [Inserted::KeyReused]);
    assert_eq!(backend.stores().jobs.get(other.id).await.unwrap(), None);
}

pub async fn a_key_is_forgotten_after_a_day(backend: &mut impl Backend) {
    let service = jobs(backend);
    let first = new_job(backend, "acme", spec());
    service.submit(vec![keyed(first, "k", "f")]).await.unwrap();
    turn(backend, Duration::from_secs(24 * 3_600 - 1));
    let late = new_job(backend, "acme", spec());
    let answers = service.submit(vec![keyed(late, "k", "g")]).await.unwrap();
    assert_eq!(answers, [Inserted::KeyReused]);
    turn(backend, Duration::from_secs(2));
    let next = new_job(backend, "acme", spec());
    let answers = service.submit(vec![keyed(next, "k", "g")]).await.unwrap();
    assert_eq!(answers, [Inserted::Stored]);
}

pub async fn keys_are_each_submitters_own(backend: &mut impl Backend) {
    let service = jobs(backend);
    let alices = new_job(backend, "acme", spec());
    let mut bobs = new_job(backend, "acme", spec());
    bobs.submitted_by = UserId::new("bob").unwrap();
    let others = new_job(backend, "globex", spec());
    for job in [alices, bobs, others] {
        let answers = service.submit(vec![keyed(job, "k", "f")]).await.unwrap();
        assert_eq!(answers, [Inserted::Stored]);
    }
}

pub async fn the_same_insert_twice_is_one_job(backend: &mut impl Backend) {
    let job = submit(backend, spec()).await;
    let answers = jobs(backend).submit(vec![plain(job.clone())]).await.unwrap();
    assert_eq!(answers, [Inserted::Stored]);
    assert_eq!(load(backend, job.id).await, job);
    assert_eq!(backend.stores().queue.len().await.unwrap(), 1);
}

pub async fn concurrent_inserts_with_one_key_store_one_job(backend: &mut impl Backend) {
    let service = jobs(backend);
    let inserts = (0..32).map(|_| service.submit(vec![keyed(new_job(backend, "acme", spec()), "k", "f")]));
    let answers = futures_util::future::join_all(inserts).await;
    let stored = answers
        .iter()
        .filter(|answer| answer.as_ref().unwrap()[0] == Inserted::Stored)
        .count();
    assert_eq!(stored, 1);
    assert_eq!(backend.stores().queue.len().await.unwrap(), 1);
}

pub async fn keys_tell_which_requests_they_stand_for(backend: &mut impl Backend) {
    let job = new_job(backend, "acme", spec());
    let (account, alice) = (job.account.clone(), job.submitted_by.clone());
    let two = vec![
        keyed(job, "k/0", "f"),
        keyed(new_job(backend, "acme", spec()), "k/1", "g"),
    ];
    jobs(backend).submit(two).await.unwrap();
    let keys: Vec<IdempotencyKey> = ["k/1", "new", "k/0"].map(|key| IdempotencyKey(key.into())).into();
    let store = backend.stores().jobs;
    let mut found = store.stored_under(&account, &alice, &keys).await.unwrap();
    found.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(found, [Fingerprint("f".into()), Fingerprint("g".into())]);
    let bob = UserId::new("bob").unwrap();
    assert_eq!(store.stored_under(&account, &bob, &keys).await.unwrap(), []);
    turn(backend, Duration::from_secs(24 * 3_600 + 1));
    assert_eq!(store.stored_under(&account, &alice, &keys).await.unwrap(), []);
}
