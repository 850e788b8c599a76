//! One simulated system, from its beginning to its verdict: load and trouble, then everything is mended, then quiet.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::service::Jobs;
use common::tasks::Tasks;
use common::time::SharedClock;

use super::checker::Checker;
use super::clients::Clients;
use super::clock::HostClock;
use super::dice::Dice;
use super::engine::Engine;
use super::history::History;
use super::network::Calls;
use super::plan::{Lasting, Plan};
use super::programs::{Agent, Scheduler, Surroundings, hold};
use super::store::{Backends, held};
use super::wire::Lines;

/// Whose calls the clients' are.
const CLIENTS: u32 = 900;

/// Longest that a plain job may take in a mended system.
const CANARY_WITHIN: Duration = Duration::from_secs(15);

const LOOK_EVERY: Duration = Duration::from_millis(250);

pub struct World {
    pub around: Arc<Surroundings>,
    pub schedulers: Arc<Vec<Scheduler>>,
    pub agents: Vec<Agent>,
    pub clients: Arc<Clients>,
    pub checker: Arc<Checker>,
}

impl World {
    pub fn new(plan: Plan, history: Arc<History>, folder: &Path) -> Arc<Self> {
        // Another sequence than the plan's own.
        let dice = Arc::new(Dice::of(plan.seed ^ 0x5eed_5eed));
        let (carriers, containers) = (Tasks::new(), Tasks::new());
        let checker = Checker::new(Arc::clone(&history));
        let server_clock: SharedClock = Arc::new(HostClock::new(0));
        let backends = Backends::new(Arc::clone(&server_clock), Arc::clone(&checker) as _);
        let calls = Arc::new(Calls::new(
            Arc::clone(&dice),
            plan.faults.clone(),
            Arc::clone(&history),
        ));
        let lines = Arc::new(Lines::new(
            Arc::clone(&dice),
            plan.faults.clone(),
            Arc::clone(&checker),
            carriers.clone(),
        ));
        let skew = || {
            let most = plan.faults.skew_max;
            i64::try_from(dice.number(0, 2 * most)).unwrap_or(0) - i64::try_from(most).unwrap_or(0)
        };
        let schedulers: Vec<Scheduler> = (0..plan.schedulers)
            .map(|node| Scheduler::new(node, skew()))
            .collect();
        let agents = (0..plan.agents)
            .map(|number| {
                let engine = Engine::new(
                    format!("node-{number}"),
                    Arc::new(HostClock::new(skew())),
                    Arc::clone(&dice),
                    plan.faults.clone(),
                    plan.times.kill_grace,
                    Arc::clone(&checker),
                    containers.clone(),
                );
                Agent::new(number, engine, folder)
            })
            .collect();
        let around = Arc::new(Surroundings {
            dice: Arc::clone(&dice),
            history: Arc::clone(&history),
            backends,
            calls,
            lines,
            carriers,
            weather: Mutex::default(),
            apart: Mutex::default(),
            plan,
        });
        let stores = around.client(CLIENTS, 0).stores();
        let jobs = Jobs::new(stores, server_clock).with_rules(around.plan.rules);
        Arc::new(Self {
            clients: Clients::new(jobs, dice, history),
            schedulers: Arc::new(schedulers),
            agents,
            checker,
            around,
        })
    }

    pub async fn run(self: Arc<Self>) {
        let plan = &self.around.plan;
        for scheduler in self.schedulers.iter() {
            scheduler.start(&self.around);
        }
        for agent in 0..plan.agents {
            self.start_agent(agent);
        }
        let submitting = Tasks::new();
        for number in 0..plan.jobs {
            submitting.spawn(
                "a client",
                Arc::clone(&self.clients).one(number, plan.load_for * 4 / 5),
            );
        }
        self.trouble(plan.load_for).await;
        self.mend();
        if !submitting.join(Duration::from_secs(60)).await {
            self.around
                .history
                .violated("I5: clients have no answer long after everything was mended");
        }
        self.quiet().await;
        self.canary().await;
        self.judge();
        self.end().await;
    }

    /// Everything works again, save what is to stay broken.
    fn mend(&self) {
        let around = &self.around;
        around.history.note("MENDED");
        around.calls.mend();
        around.lines.faulty.store(false, Ordering::SeqCst);
        held(&around.apart).clear();
        for agent in &self.agents {
            agent.engine.faulty.store(false, Ordering::SeqCst);
            agent.engine.clock.step(0);
            around.over_lines(agent.number, |line| hold(line, false));
            if let Some(life) = agent.life() {
                life.resume();
            }
            self.start_agent(agent.number);
        }
        for scheduler in self.schedulers.iter() {
            scheduler.clock.step(0);
            if let Some(life) = scheduler.life() {
                life.resume();
            }
            scheduler.start(around);
        }
        match around.plan.lasting {
            Some(Lasting::AgentUnheard) => {
                // More causes than any event that is still to end could take away.
                held(&around.apart).insert(0, 1_000);
                around.over_lines(0, |line| {
                    line.up.send_replace(super::wire::Mode::Held);
                });
            }
            Some(Lasting::SchedulerPaused) => {
                if let Some(life) = self.schedulers[0].life() {
                    life.pause();
                }
            }
            None => {}
        }
    }

    /// Waits until nothing is left to do.
    async fn quiet(&self) {
        let by = super::machine::elapsed() + self.around.plan.quiet_within;
        loop {
            let left = self.left();
            if left.is_empty() {
                self.around.history.note("QUIET");
                return;
            }
            if super::machine::elapsed() > by {
                for what in left {
                    self.around.history.violated(format!("I5: {what}"));
                }
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn canary(&self) {
        let by = super::machine::elapsed() + CANARY_WITHIN;
        let Some(job) = self.clients.submit("canary", &Clients::plain()).await else {
            return self.around.history.violated("I5: a mended system takes no job");
        };
        while super::machine::elapsed() < by {
            let rows = self.around.backends.all_jobs();
            if rows.iter().any(|row| row.id == job && row.state.is_terminal()) {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.around
            .history
            .violated("I5: a plain job does not end in a mended system");
    }

    /// What of the system is cut off for good, and so cannot be asked to come to its end.
    pub fn is_lost(&self, agent: u32) -> bool {
        agent == 0 && self.around.plan.lasting == Some(Lasting::AgentUnheard)
    }

    async fn end(&self) {
        for agent in &self.agents {
            agent.kill(&self.around).await;
        }
        for scheduler in self.schedulers.iter() {
            scheduler.kill(&self.around).await;
        }
    }
}
