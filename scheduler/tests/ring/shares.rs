//! Capacity between accounts that wait.

use common::ids::{AccountId, JobId};
use common::job::{CancelRequest, CancelledBy, StateName};
use common::lifecycle::JobEvent;
use common::lifecycle::testing::{account, spec};
use common::protocol::Assignment;

use crate::agent::{Agent, held};
use crate::ring::{Ring, until};

/// How many jobs the early account has waiting.
const MANY: usize = 100_000;

/// The agent's slots.
const SLOTS: usize = 4;

/// A ring in which `early` has [`MANY`] waiting and all slots of the agent, some releases having passed.
struct Crowded {
    ring: Ring,
    agent: Agent,
    early: AccountId,
    late: AccountId,
    ids: Vec<JobId>,
    running: Vec<Assignment>,
}

impl Crowded {
    async fn with_weights(early: u32, late: u32) -> Self {
        let ring = Ring::start().await;
        let early = ring.account("early", early, None).await;
        let late = ring.account("late", late, None).await;
        let ids = ring.submit_many(&early, MANY, |_| spec()).await;
        let mut agent = ring.agent("w").await;
        let mut running = Vec::new();
        for _ in 0..SLOTS {
            running.push(agent.hear_assignment().await);
        }
        let mut crowded = Self {
            ring,
            agent,
            early,
            late,
            ids,
            running,
        };
        for _ in 0..10 {
            crowded.release().await;
        }
        crowded
    }

    /// The oldest run ends; answers whose job starts in its place.
    async fn release(&mut self) -> AccountId {
        let done = self.running.remove(0);
        self.agent.exit_keeping(&done, &mut self.running).await;
        while self.running.len() < SLOTS {
            self.running.push(self.agent.hear_assignment().await);
        }
        self.running[SLOTS - 1].account.clone()
    }

    /// Ten jobs of the late account, and the releases after which each of them started, counted from now.
    async fn places_of_ten(&mut self) -> Vec<usize> {
        self.ring.submit_many(&self.late, 10, |_| spec()).await;
        let (mut places, mut releases) = (Vec::new(), 0);
        while places.len() < 10 {
            releases += 1;
            assert!(releases <= 100, "only {} have started", places.len());
            if self.release().await == self.late {
                places.push(releases);
            }
        }
        places
    }
}

/// Says that these run, so that no gateway hands them over once more.
pub async fn started(ring: &Ring, agent: &mut Agent, running: &[Assignment]) {
    for one in running {
        agent.start(one).await;
        ring.job_becomes(one.job, StateName::Running).await;
    }
}

fn at_latest(places: &[usize], bound: impl Fn(usize) -> usize) {
    for (number, place) in places.iter().enumerate() {
        assert!(*place <= bound(number + 1), "the {}th of {places:?}", number + 1);
    }
}

#[tokio::test]
async fn ten_jobs_after_a_hundred_thousand_start_at_every_second_release_and_after_a_restart_too() {
    let mut crowded = Crowded::with_weights(1, 1).await;
    at_latest(&crowded.places_of_ten().await, |number| 2 * number);

    // The agent comes back with what it holds; the new leader knows nothing but rows.
    started(&crowded.ring, &mut crowded.agent, &crowded.running).await;
    let session = crowded.agent.session;
    crowded.ring.restart().await;
    crowded.agent = Agent::connect(&crowded.ring, "w").await;
    let held = crowded.running.iter().map(held).collect();
    let (resumed, _) = crowded.agent.greet(session, held).await;
    assert!(resumed);
    at_latest(&crowded.places_of_ten().await, |number| 2 * number);
}

#[tokio::test]
async fn they_do_so_with_half_of_the_others_cancelled_and_in_proportion_to_weights() {
    let mut crowded = Crowded::with_weights(3, 1).await;
    for id in crowded.ids.iter().skip(50).take(1_000).step_by(2) {
        let cancel = JobEvent::CancelAsked(CancelRequest {
            by: CancelledBy::System,
            why: None,
            at: crowded.ring.clock.now(),
        });
        crowded.ring.jobs.apply(*id, cancel).await.unwrap();
    }
    let places = crowded.places_of_ten().await;
    at_latest(&places, |number| 4 * number);
    assert!(places[9] >= 36, "one in four and not more: {places:?}");
    assert_ne!(crowded.early, crowded.late);
}

#[tokio::test]
async fn an_account_runs_no_more_than_its_limit_and_leaves_the_rest_to_others() {
    let ring = Ring::start().await;
    let limited = ring.account("limited", 100, Some(2)).await;
    let other = account("other");
    ring.submit_many(&limited, 20, |_| spec()).await;
    ring.submit_many(&other, 20, |_| spec()).await;
    let mut agent = ring.agent("w").await;
    let mut running = Vec::new();
    for _ in 0..24 {
        while running.len() < SLOTS {
            running.push(agent.hear_assignment().await);
        }
        let of_limited = running.iter().filter(|one| one.account == limited).count();
        assert_eq!(of_limited, 2, "{running:?}");
        let done = running.remove(0);
        agent.exit_keeping(&done, &mut running).await;
    }
}

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
