//! An agent whose gateway does not lead: what the leader decides reaches it there, and what it reports is written there.

use std::sync::Arc;

use common::attempt::{AttemptReport, Outcome};
use common::ids::UserId;
use common::job::{CancelRequest, CancelledBy, Epoch, StateName};
use common::lifecycle::JobEvent;
use common::lifecycle::testing::spec;
use common::protocol::ResultVerdict;
use common::service::Applied;
use common::store::Stores;
use common::tasks::Tasks;
use scheduler::Scheduler;

use crate::agent::{Agent, held};
use crate::ring::{DEADLINE, Deaf, PATIENT, Ring, replica, until};

/// Two replicas over the same rows. The ring's own scheduler is the one that follows; the other leads.
struct Pair {
    ring: Ring,
    leader: Scheduler,
    term: Epoch,
    leader_tasks: Tasks,
}

impl Pair {
    async fn start(change: impl FnOnce(Stores) -> Stores) -> Self {
        let mut ring = Ring::with(PATIENT, change).await;
        let term = leads(&ring.scheduler).await;
        let leader_tasks = std::mem::take(&mut ring.tasks);
        let follower = replica(&ring.config, &ring.stores, &ring.clock, &ring.tasks).await;
        let leader = std::mem::replace(&mut ring.scheduler, follower);
        Self {
            ring,
            leader,
            term,
            leader_tasks,
        }
    }

    /// What was seen was the work of two replicas only if they have kept their parts.
    fn kept_their_parts(&self) {
        assert_eq!(self.leader.leads(), Some(self.term), "the leader leads");
        assert_eq!(self.ring.scheduler.leads(), None, "the follower follows");
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.leader_tasks.stop();
    }
}

async fn leads(scheduler: &Scheduler) -> Epoch {
    until("somebody leads", || async { scheduler.leads().ok_or("nobody") }).await
}

/// One job to its end, and one that is cancelled as it runs.
async fn an_agent_of_the_follower_is_served(pair: &Pair) {
    let ring = &pair.ring;
    let mut agent = ring.agent("w").await;
    let id = ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    assert_eq!(assignment.job, id);
    agent.start(&assignment).await;
    ring.job_becomes(id, StateName::Running).await;
    assert_eq!(agent.exit(&assignment, 0).await, ResultVerdict::Accepted);
    let job = ring.job(id).await;
    assert_eq!((job.state.name(), job.epoch), (StateName::Succeeded, pair.term));

    let id = ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    agent.start(&assignment).await;
    ring.job_becomes(id, StateName::Running).await;
    let asked = CancelRequest {
        by: CancelledBy::User(UserId::new("alice").unwrap()),
        why: None,
        at: ring.clock.now(),
    };
    let applied = ring.jobs.apply(id, JobEvent::CancelAsked(asked)).await.unwrap();
    assert!(matches!(applied, Applied::Done(_)), "{applied:?}");
    assert_eq!(agent.hear_cancel().await, (id, assignment.attempt));
    let killed = AttemptReport::bare(Outcome::Signaled { signal: 15 });
    agent.finish(&assignment, &killed).await;
    assert_eq!(
        agent.hear_verdict(assignment.attempt).await,
        ResultVerdict::Accepted
    );
    assert_eq!(ring.job(id).await.state.name(), StateName::Cancelled);
    pair.kept_their_parts();
}

#[tokio::test]
async fn an_agent_at_a_follower_gets_work_and_cancels_and_its_results_are_accepted() {
    let pair = Pair::start(|stores| stores).await;
    an_agent_of_the_follower_is_served(&pair).await;
}

#[tokio::test]
async fn an_agent_at_a_follower_is_served_without_any_hint() {
    let deaf = |stores| Stores {
        hints: Arc::new(Deaf),
        ..stores
    };
    let pair = Pair::start(deaf).await;
    an_agent_of_the_follower_is_served(&pair).await;
}

#[tokio::test]
async fn an_agents_session_and_its_job_go_on_at_the_follower_when_its_own_gateway_ends() {
    let mut pair = Pair::start(|stores| stores).await;
    // To the leader's gateway first.
    std::mem::swap(&mut pair.ring.scheduler, &mut pair.leader);
    let mut agent = pair.ring.agent("w").await;
    let id = pair.ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    agent.start(&assignment).await;
    pair.ring.job_becomes(id, StateName::Running).await;
    let session = agent.session;
    std::mem::swap(&mut pair.ring.scheduler, &mut pair.leader);
    pair.leader_tasks.stop();
    assert!(pair.leader_tasks.join(DEADLINE).await, "the leader does not end");

    let mut again = Agent::connect(&pair.ring, "w").await;
    let (resumed, verdicts) = again.greet(session, vec![held(&assignment)]).await;
    assert!(resumed, "the session goes on: {verdicts:?}");
    assert_eq!(again.session, session);
    assert_eq!(again.exit(&assignment, 0).await, ResultVerdict::Accepted);
    let job = pair.ring.job(id).await;
    assert_eq!((job.state.name(), job.attempts_total), (StateName::Succeeded, 1));
    assert!(leads(&pair.ring.scheduler).await > pair.term, "and it leads now");
}
