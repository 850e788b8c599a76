//! Capacity between accounts that wait, and between sizes.

use common::ids::AccountId;
use common::job::Resources;
use common::lifecycle::testing::{account, spec};

use crate::ring::{Ring, until};

#[tokio::test]
async fn two_accounts_get_equal_shares_however_late_one_comes_and_however_much_the_other_has_waiting() {
    let ring = Ring::start().await;
    let (many, few): (AccountId, AccountId) = (account("many"), account("few"));
    for _ in 0..40 {
        ring.submit_for(&many, spec()).await;
    }
    let mut agent = ring.agent("w").await;
    // The first four places are taken before the other account comes.
    let mut running = Vec::new();
    for _ in 0..4 {
        running.push(agent.hear_assignment().await);
    }
    for _ in 0..8 {
        ring.submit_for(&few, spec()).await;
    }
    until("all wait in the queue", || async {
        match ring.stores.queue.len().await.unwrap() {
            44 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let mut of_few = 0;
    for _ in 0..16 {
        let done = running.remove(0);
        agent.exit_keeping(&done, &mut running).await;
        while running.len() < 4 {
            let next = agent.hear_assignment().await;
            running.push(next);
        }
        of_few += usize::from(running.last().unwrap().account == few);
    }
    assert!((7..=8).contains(&of_few), "{of_few} of 16");
}

#[tokio::test]
async fn a_job_that_no_worker_fits_stands_in_nobodys_way() {
    let ring = Ring::start().await;
    let mut huge = spec();
    huge.resources = Resources {
        memory_mib: 1 << 20,
        ..Resources::default()
    };
    let mut labelled = spec();
    labelled.worker_labels.insert("gpu".into(), "yes".into());
    ring.submit(huge).await;
    ring.submit(labelled).await;
    let small = ring.submit(spec()).await;
    let mut agent = ring.agent("w").await;
    assert_eq!(agent.hear_assignment().await.job, small);
}

#[tokio::test]
async fn first_in_is_first_out() {
    let ring = Ring::start().await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(ring.submit(spec()).await);
    }
    let mut agent = ring.agent("w").await;
    let (mut seen, mut running) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        running.push(agent.hear_assignment().await);
    }
    while !running.is_empty() {
        let done = running.remove(0);
        seen.push(done.job);
        agent.exit_keeping(&done, &mut running).await;
        while running.len() < 4 && seen.len() + running.len() < 20 {
            running.push(agent.hear_assignment().await);
        }
    }
    // Deliveries of one batch may come in any order; whole rounds may not.
    for (place, id) in seen.iter().enumerate() {
        let submitted = ids.iter().position(|other| other == id).unwrap();
        assert!(
            submitted.abs_diff(place) < 4,
            "submitted as {submitted}, run as {place}"
        );
    }
}
