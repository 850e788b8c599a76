//! Events: each happens at some instant, lasts, and is undone.

use std::sync::Arc;
use std::time::Duration;

use super::plan::{CLOCK_STEP, Event};
use super::programs::{Scheduler, hold};
use super::store::{Service, Write, held};
use super::wire::Mode;
use super::world::World;

impl World {
    /// Lets events happen until the load is over.
    pub async fn trouble(self: &Arc<Self>, until: Duration) {
        let around = &self.around;
        while super::machine::elapsed() < until {
            let most = around.plan.faults.event_every;
            tokio::time::sleep(around.dice.millis(100, most)).await;
            if let Some(event) = around.dice.pick(&around.plan.faults.events) {
                around.history.note(format_args!("EVENT {event:?}"));
                around.history.count("event");
                self.happen(*event).await;
            }
        }
    }

    async fn happen(self: &Arc<Self>, event: Event) {
        let around = &self.around;
        let dice = &around.dice;
        let brief = dice.millis(100, 1_500);
        let past_lease = around.plan.times.lost_after + dice.millis(1_000, 4_000);
        let past_lock = around
            .plan
            .times
            .lock_ttl
            .mul_f64(dice.number(5, 40) as f64 / 10.0);
        match event {
            Event::LockDropped => held(&around.backends.coord).drop_locks(),
            Event::QueueWiped => held(&around.backends.coord).wipe_queue(),
            Event::QueueThinned => held(&around.backends.coord).thin_queue(),
            Event::CoordLost => around.backends.without_coord(),
            Event::RowsAway => self.keep_away(Service::Rows, dice.millis(200, 5_000)),
            Event::CoordAway => self.keep_away(Service::Coord, dice.millis(200, 5_000)),
            Event::LinkCut => around.over_lines(self.some_agent(), |line| line.set(Mode::Cut)),
            Event::LinkHeld => {
                let agent = self.some_agent();
                around.over_lines(agent, |line| hold(line, true));
                self.later(brief, move |world| {
                    world.around.over_lines(agent, |line| hold(line, false))
                });
            }
            Event::LinkHalfCut => {
                // The agent knows at once; what it had said arrives while it is back already.
                let agent = self.some_agent();
                around.over_lines(agent, |line| {
                    line.up.send_replace(Mode::Held);
                    line.down.send_replace(Mode::Cut);
                });
                self.later(brief, move |world| {
                    world.around.over_lines(agent, |line| hold(line, false))
                });
            }
            Event::AgentApart => {
                let agent = self.some_agent();
                let lasts = if dice.chance(0.5) { brief } else { past_lease };
                self.set_apart(agent, lasts);
            }
            Event::AgentPaused => self.pause_agent(brief),
            Event::AgentPausedLong => self.pause_agent(past_lease),
            Event::AgentKilled => self.kill_agent(brief).await,
            Event::AgentKilledLong => self.kill_agent(past_lease).await,
            Event::NodeReboots => self.reboot(brief).await,
            Event::ContainerVanishes => self.agents[self.some_agent() as usize].engine.lose_one(),
            Event::SchedulerPaused => {
                let Some(life) = self.schedulers[self.some_scheduler()].life() else {
                    return;
                };
                life.pause();
                self.later(past_lock, move |_| life.resume());
            }
            Event::LeaderStopped => self.stop_leader(past_lock),
            Event::ClockStepped => self.step_clock(past_lease),
            Event::SchedulerKilled => {
                let place = self.some_scheduler();
                self.schedulers[place].kill(around).await;
                self.later(brief, move |world| world.schedulers[place].start(&world.around));
            }
        }
    }

    fn later(self: &Arc<Self>, after: Duration, undo: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let world = Arc::clone(self);
        self.around.carriers.spawn("an event's end", async move {
            tokio::time::sleep(after).await;
            undo(&world);
        });
    }

    fn some_agent(&self) -> u32 {
        let last = self.agents.len().saturating_sub(1) as u64;
        u32::try_from(self.around.dice.number(0, last)).unwrap_or(0)
    }

    fn some_scheduler(&self) -> usize {
        let last = self.schedulers.len().saturating_sub(1) as u64;
        usize::try_from(self.around.dice.number(0, last)).unwrap_or(0)
    }

    /// Whoever leads is stopped at its next write, which arrives when it goes on.
    fn stop_leader(self: &Arc<Self>, lasts: Duration) {
        let Some(place) = self.schedulers.iter().position(Scheduler::leads) else {
            return;
        };
        let Some(life) = self.schedulers[place].life() else {
            return;
        };
        let write = if self.around.dice.chance(0.5) {
            Write::Claim
        } else {
            Write::Expire
        };
        let world = Arc::clone(self);
        let then = move || {
            world.around.history.note(format_args!(
                "scheduler {place} is stopped at its {}",
                write.name()
            ));
            life.pause();
            world.later(lasts, move |_| life.resume());
            lasts
        };
        let node = self.schedulers[place].node;
        self.around.calls.at_write(node, write, Box::new(then));
    }

    /// Somebody sets a calendar wrong, and later right.
    fn step_clock(self: &Arc<Self>, lasts: Duration) {
        let dice = &self.around.dice;
        let hour = i64::try_from(CLOCK_STEP.as_millis()).unwrap_or(i64::MAX);
        let by = if dice.chance(0.5) { hour } else { -hour };
        let clock = if dice.chance(0.5) {
            Arc::clone(&self.schedulers[self.some_scheduler()].clock)
        } else {
            Arc::clone(&self.agents[self.some_agent() as usize].engine.clock)
        };
        clock.step(by);
        self.later(lasts, move |_| clock.step(0));
    }

    fn keep_away(self: &Arc<Self>, service: Service, lasts: Duration) {
        let node = self.schedulers[self.some_scheduler()].node;
        self.around.calls.keep_away(node, service);
        self.later(lasts, move |world| world.around.calls.let_back(node, service));
    }

    fn set_apart(self: &Arc<Self>, agent: u32, lasts: Duration) {
        *held(&self.around.apart).entry(agent).or_default() += 1;
        self.around.over_lines(agent, |line| hold(line, true));
        self.later(lasts, move |world| {
            if let Some(causes) = held(&world.around.apart).get_mut(&agent) {
                *causes = causes.saturating_sub(1);
            }
            world.around.over_lines(agent, |line| hold(line, false));
        });
    }

    fn pause_agent(self: &Arc<Self>, lasts: Duration) {
        let Some(life) = self.agents[self.some_agent() as usize].life() else {
            return;
        };
        life.pause();
        self.later(lasts, move |_| life.resume());
    }

    async fn kill_agent(self: &Arc<Self>, lasts: Duration) {
        let agent = self.some_agent();
        self.agents[agent as usize].kill(&self.around).await;
        self.later(lasts, move |world| world.start_agent(agent));
    }

    async fn reboot(self: &Arc<Self>, lasts: Duration) {
        let number = self.some_agent();
        let agent = &self.agents[number as usize];
        agent.kill(&self.around).await;
        agent.engine.lose_all();
        agent.engine.clock.reboot();
        self.later(lasts, move |world| world.start_agent(number));
    }

    pub fn start_agent(&self, agent: u32) {
        self.agents[agent as usize].start(&self.around, &self.schedulers);
    }
}
