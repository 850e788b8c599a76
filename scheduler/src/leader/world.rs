//! Whole rounds over a queue in memory: the dispatcher's own parts without its I/O, so that a hundred thousand jobs are
//! quick. The law that is told here of places holds for the real thing in `tests/ring/shares.rs`.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use common::ids::{AccountId, JobId, PoolName, UserId, WorkerId};
use common::job::{Job, JobSpec};
use common::lifecycle::testing::{account, spec};
use common::queue::{CLASSES_PER_ACCOUNT_MAX, ClassKey, Lane, QueueEntry};
use common::time::{Clock, SystemClock, Timestamp};
use common::worker::Capacity;
use proptest::prelude::*;

use super::board::Board;
use super::reading::{Plan, Scope};
use crate::fair_share::FairShare;
use crate::placement::{Reservations, Seat, Terms, place};

/// Claims of one round.
const BATCH: usize = 256;

#[derive(Default)]
struct World {
    queue: BTreeMap<Lane, BTreeSet<(u64, JobId)>>,
    jobs: HashMap<JobId, Job>,
    weights: BTreeMap<AccountId, u32>,
    board: Board,
    share: FairShare,
    seats: Vec<Seat>,
    running: VecDeque<(JobId, usize)>,
    /// Whose job started, in order.
    starts: Vec<AccountId>,
    /// Entries and rows read.
    entries: usize,
    rows: usize,
    now: i64,
    made: u128,
}

impl World {
    fn with_slots(slots: u32) -> Self {
        let capacity = Capacity {
            cpu_millis: 1_000 * slots,
            memory_mib: 1_000 * slots,
            disk_mib: 10_000 * slots,
            slots,
        };
        Self {
            seats: vec![Seat {
                worker: WorkerId::new("w").unwrap(),
                pool: PoolName::default(),
                labels: Default::default(),
                capacity,
                used: Capacity::NOTHING,
                suspect: false,
                kept: None,
            }],
            ..Self::default()
        }
    }

    fn submit(&mut self, of: &AccountId, spec: &JobSpec) -> JobId {
        self.submit_lost(of, spec, 0)
    }

    /// A job that was lost so often already.
    fn submit_lost(&mut self, of: &AccountId, spec: &JobSpec, losses: u32) -> JobId {
        (self.now, self.made) = (self.now + 1, self.made + 1);
        let now = Timestamp::from_millis(self.now);
        let user = UserId::new("alice").unwrap();
        let job = Job {
            infra_retries: losses,
            ..Job::submitted(JobId::from_u128(self.made), of.clone(), user, spec.clone(), now)
        };
        let mut entry = QueueEntry::of(&job).unwrap();
        let classes = self.queue.keys().filter(|lane| lane.account == *of).count();
        if !self.queue.contains_key(&entry.lane) && classes >= CLASSES_PER_ACCOUNT_MAX {
            entry.lane.class = entry.lane.class.mixed();
        }
        let lane = self.queue.entry(entry.lane).or_default();
        lane.insert((entry.score, entry.job));
        let id = job.id;
        self.jobs.insert(id, job);
        id
    }

    /// In one class, quickly.
    fn submit_many(&mut self, of: &AccountId, spec: &JobSpec, count: usize) -> Vec<JobId> {
        (0..count).map(|_| self.submit(of, spec)).collect()
    }

    fn drop_entry(&mut self, entry: &QueueEntry) {
        if let Some(lane) = self.queue.get_mut(&entry.lane) {
            lane.remove(&(entry.score, entry.job));
            if lane.is_empty() {
                self.queue.remove(&entry.lane);
            }
        }
    }

    fn cancel(&mut self, ids: &[JobId]) {
        let gone: BTreeSet<JobId> = ids.iter().copied().collect();
        for lane in self.queue.values_mut() {
            lane.retain(|(_, job)| !gone.contains(job));
        }
        self.queue.retain(|_, lane| !lane.is_empty());
        self.jobs.retain(|job, _| !gone.contains(job));
    }

    /// A new leader: nothing is known but rows.
    fn restart(&mut self) {
        (self.board, self.share) = Default::default();
    }

    /// Rounds until nothing more is placed; answers how many there were.
    fn settle(&mut self) -> usize {
        let mut rounds = 1;
        while self.round() {
            rounds += 1;
        }
        rounds
    }

    /// The oldest run ends.
    fn release(&mut self) {
        let (job, seat) = self.running.pop_front().unwrap();
        let job = self.jobs.remove(&job).unwrap();
        let resources = job.spec.resources;
        self.seats[seat].suspect &= !job.is_suspect();
        let used = &mut self.seats[seat].used;
        used.slots -= 1;
        used.cpu_millis -= resources.cpu_millis;
        used.memory_mib -= resources.memory_mib;
        used.disk_mib -= resources.disk_mib;
    }

    fn held(&self, of: &AccountId) -> u32 {
        let held = self
            .running
            .iter()
            .filter(|(job, _)| self.jobs[job].account == *of);
        u32::try_from(held.count()).unwrap()
    }

    fn round(&mut self) -> bool {
        let free = self
            .seats
            .iter()
            .map(|seat| seat.free().slots as usize)
            .sum::<usize>();
        let listing = self
            .queue
            .iter()
            .map(|(lane, set)| (lane.clone(), set.len() as u64));
        self.board.refresh(listing.collect());
        let accounts = self.board.accounts.iter().map(|waiting| &waiting.account);
        let terms: Vec<Terms> = accounts
            .map(|account| Terms {
                weight: self.weights.get(account).copied().unwrap_or(1),
                held: self.held(account),
                room: None,
            })
            .collect();
        let mut open = self.board.open(&terms, &self.seats, &Reservations::default());
        for one in &mut open {
            one.lanes.retain(|lane| {
                let (name, account) = (self.board.lane(one.account, *lane), one.account);
                let head = head(&self.queue, &name);
                !self
                    .board
                    .still_blocked(account, *lane, head.as_ref(), &self.seats)
            });
        }
        open.retain(|one| !one.lanes.is_empty());
        if free == 0 || open.is_empty() {
            return false;
        }
        let scope = Scope {
            places: free.min(BATCH),
            beyond: 8,
        };
        let plan = Plan::new(&self.board, &open, &terms, &self.share, scope);
        let answers: Vec<Vec<QueueEntry>> = plan
            .ranges()
            .iter()
            .map(|(lane, skip, limit)| entries(&self.queue, lane, *skip, *limit))
            .collect();
        self.entries += answers.iter().map(Vec::len).sum::<usize>();
        let (mut reading, chosen) = plan.choose(&self.board, &open, &terms, &answers);
        self.rows += chosen.len();
        let rows = chosen
            .iter()
            .filter_map(|(_, entry)| self.jobs.get(&entry.job).cloned());
        plan.fill(&mut reading, chosen.clone(), rows.collect());
        for (one, party) in open.iter().zip(&reading.parties) {
            for (lane, heads) in one.lanes.iter().zip(&party.lanes) {
                if let Some(first) = heads.jobs.front() {
                    self.board.learn(one.account, *lane, first);
                }
            }
        }
        let round = place(
            &mut reading.parties,
            &mut self.seats,
            &mut self.share,
            free.min(BATCH),
        );
        for (party, lane, head) in &round.blocked {
            self.board
                .block(open[*party].account, open[*party].lanes[*lane], head);
        }
        for (party, lane, looked, end) in &reading.windows {
            self.board
                .walked(open[*party].account, open[*party].lanes[*lane], *looked, *end);
        }
        for placement in &round.placements {
            self.starts.push(self.jobs[&placement.job].account.clone());
            self.running.push_back((placement.job, placement.seat));
            self.drop_entry(&reading.rows[&placement.job].0);
        }
        !round.placements.is_empty() || (round.unfinished && !round.blocked.is_empty())
    }
}

fn entries(
    queue: &BTreeMap<Lane, BTreeSet<(u64, JobId)>>,
    lane: &Lane,
    skip: usize,
    limit: usize,
) -> Vec<QueueEntry> {
    let set = queue.get(lane).into_iter().flatten();
    set.skip(skip)
        .take(limit)
        .map(|&(score, job)| QueueEntry {
            lane: lane.clone(),
            score,
            job,
        })
        .collect()
}

fn head(queue: &BTreeMap<Lane, BTreeSet<(u64, JobId)>>, lane: &Lane) -> Option<QueueEntry> {
    entries(queue, lane, 0, 1).pop()
}

fn sized(cpu_millis: u32, memory_mib: u32, disk_mib: u32) -> JobSpec {
    let mut spec = spec();
    spec.resources.cpu_millis = cpu_millis;
    spec.resources.memory_mib = memory_mib;
    spec.resources.disk_mib = disk_mib;
    spec
}

/// Starts 10 jobs of `late` after `before` releases of a fleet that `early`'s 100,000 fill, and tells the releases
/// after which each of them started, counted from their submission.
fn places_of_ten(before: usize, weights: [u32; 2], change: impl FnOnce(&mut World, &[JobId])) -> Vec<usize> {
    let mut world = World::with_slots(16);
    let (early, late) = (account("early"), account("late"));
    world.weights = [early.clone(), late.clone()].into_iter().zip(weights).collect();
    let ids = world.submit_many(&early, &spec(), 100_000);
    world.settle();
    for _ in 0..before {
        world.release();
        world.settle();
    }
    change(&mut world, &ids);
    world.submit_many(&late, &spec(), 10);
    let begun = world.starts.len();
    while world.starts[begun..].iter().filter(|of| **of == late).count() < 10 {
        world.release();
        world.settle();
        assert!(world.starts.len() < begun + 200, "the late ones do not start");
    }
    let starts = world.starts[begun..].iter().enumerate();
    starts
        .filter(|(_, of)| **of == late)
        .map(|(place, _)| place + 1)
        .collect()
}

fn at_latest(places: &[usize], bound: impl Fn(usize) -> usize) {
    for (number, place) in places.iter().enumerate() {
        assert!(*place <= bound(number + 1), "the {}th of {places:?}", number + 1);
    }
}

#[test]
fn ten_jobs_after_a_hundred_thousand_start_at_every_second_release() {
    for before in [0, 600] {
        at_latest(&places_of_ten(before, [1, 1], |_, _| {}), |number| 2 * number);
    }
}

#[test]
fn they_do_so_with_half_of_the_others_cancelled_and_after_a_restart() {
    let cancelled = places_of_ten(100, [1, 1], |world, ids| {
        let half: Vec<JobId> = ids.iter().copied().skip(1_000).step_by(2).collect();
        world.cancel(&half);
    });
    at_latest(&cancelled, |number| 2 * number);
    let restarted = places_of_ten(100, [1, 1], |world, _| world.restart());
    at_latest(&restarted, |number| 2 * number);
}

#[test]
fn weights_of_three_to_one_are_places_of_three_to_one() {
    // one in four for the late one, then three in four
    at_latest(&places_of_ten(100, [3, 1], |_, _| {}), |number| 4 * number);
    at_latest(&places_of_ten(100, [1, 3], |_, _| {}), |number| {
        (4 * number).div_ceil(3)
    });
    let slow = places_of_ten(100, [3, 1], |_, _| {});
    assert!(slow[9] >= 36, "and not more than that: {slow:?}");
}

#[derive(Debug, Clone)]
enum Event {
    Submit(bool, usize),
    Cancel(bool),
    Release(usize),
    Restart,
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (any::<bool>(), 1usize..30).prop_map(|(of, count)| Event::Submit(of, count)),
        1 => any::<bool>().prop_map(Event::Cancel),
        6 => (1usize..12).prop_map(Event::Release),
        1 => Just(Event::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whoever_waits_gets_its_share_of_every_stretch_of_places(
        weights in [1u32..6, 1u32..6],
        slots in 1u32..6,
        events in prop::collection::vec(any_event(), 1..60),
    ) {
        let accounts = [account("a"), account("b")];
        let mut world = World::with_slots(slots);
        world.weights = accounts.clone().into_iter().zip(weights).collect();
        // For each place: whether each account waited before and after it, and restarts until then.
        let mut log: Vec<([bool; 2], usize, usize)> = Vec::new();
        let mut restarts = 0;
        for event in events {
            match event {
                Event::Submit(of, count) => {
                    world.submit_many(&accounts[usize::from(of)], &spec(), count);
                }
                Event::Cancel(of) => {
                    let waiting = world.queue.iter().filter(|(lane, _)| lane.account == accounts[usize::from(of)]);
                    let half: Vec<JobId> = waiting.flat_map(|(_, set)| set.iter().map(|(_, job)| *job)).step_by(2).collect();
                    world.cancel(&half);
                }
                Event::Release(count) => for _ in 0..count.min(world.running.len()) {
                    world.release();
                    settle_noting(&mut world, &accounts, restarts, &mut log);
                },
                Event::Restart => {
                    world.restart();
                    restarts += 1;
                }
            }
            settle_noting(&mut world, &accounts, restarts, &mut log);
        }
        let total = f64::from(weights[0] + weights[1]);
        for who in 0..2 {
            for from in 0..log.len() {
                let stretch = log[from..].iter().take_while(|(waited, _, _)| waited[who]);
                let (mut places, mut got) = (0.0, 0.0);
                for (_, started, restarts) in stretch {
                    places += 1.0;
                    got += f64::from(u8::from(*started == who));
                    let lost = 2.0 + (restarts - log[from].2) as f64;
                    let fair = places * f64::from(weights[who]) / total;
                    prop_assert!(got + lost >= fair, "{who}: {got} of {places}, fair {fair}, lost {lost}");
                }
            }
        }
    }
}

/// Settles, noting for each place who waited and whose it was.
fn settle_noting(
    world: &mut World,
    accounts: &[AccountId; 2],
    restarts: usize,
    log: &mut Vec<([bool; 2], usize, usize)>,
) {
    let begun = world.starts.len();
    let waits = |world: &World| {
        accounts.clone().map(|account| {
            let own = world.queue.iter().filter(|(lane, _)| lane.account == account);
            own.map(|(_, set)| set.len()).sum::<usize>()
        })
    };
    let mut left = waits(world);
    world.settle();
    for of in world.starts[begun..].iter().cloned() {
        let who = usize::from(of == accounts[1]);
        left[who] -= 1;
        // waiting still, or served by this very place
        let mut waited = left.map(|waiting| waiting > 0);
        waited[who] = true;
        log.push((waited, who, restarts));
    }
}

#[test]
fn a_hundred_thousand_jobs_that_no_worker_fits_cost_a_round_nothing() {
    type Of = fn(u32) -> JobSpec;
    let crowds: [(&str, Of); 4] = [
        ("of one size", |_| sized(64_000, 64, 64)),
        ("of as many sizes", |number| {
            sized(17_000 + number, 64 + number % 50_000, 64 + number * 7 % 90_000)
        }),
        ("of as many labels", labelled),
        ("of another pool", |_| JobSpec {
            pool: PoolName::new("elsewhere").unwrap(),
            ..spec()
        }),
    ];
    for (what, spec_of) in crowds {
        let mut world = World::with_slots(16);
        for number in 0..100_000 {
            world.submit(&account("crowd"), &spec_of(number));
        }
        for number in 0..3 {
            let one = account("one");
            world.submit(&one, &spec());
            let (entries, rows, clock) = (world.entries, world.rows, SystemClock);
            let begun = clock.mono();
            world.round();
            let took = clock.mono().since(begun).as_millis();
            let (entries, rows) = (world.entries - entries, world.rows - rows);
            assert_eq!(
                world.starts.len(),
                number + 1,
                "it starts in the first round, {what}"
            );
            assert_eq!(world.starts[number], one);
            println!("beside 100,000 {what}: {entries} entries, {rows} rows, {took} ms");
            // Of each class an entry, of some the row that tells its labels; windows of mixed lanes.
            assert!(
                entries <= CLASSES_PER_ACCOUNT_MAX + 4 * 32 + 1,
                "{what}: {entries} entries"
            );
            assert!(rows <= 16 + 4 * 32 + 1, "{what}: {rows} rows");
        }
    }
}

#[test]
fn suspects_run_one_by_one_on_a_worker_and_hold_up_nobody() {
    let mut world = World::with_slots(16);
    let of = account("one");
    for _ in 0..3 {
        world.submit_lost(&of, &spec(), 2);
    }
    let well = world.submit_many(&of, &spec(), 100);
    world.settle();
    let suspects = |world: &World| {
        let running = world.running.iter();
        running.filter(|(job, _)| world.jobs[job].is_suspect()).count()
    };
    assert_eq!((world.running.len(), suspects(&world)), (16, 1));
    let mut started = 1;
    while !world.running.is_empty() {
        let was = suspects(&world);
        world.release();
        let left = suspects(&world);
        world.settle();
        assert!(suspects(&world) <= 1);
        started += suspects(&world) - left;
        assert!(
            was == left || started == 3 || suspects(&world) == 1,
            "the next goes at once"
        );
    }
    assert_eq!((started, world.starts.len()), (3, 3 + well.len()));
}

fn labelled(number: u32) -> JobSpec {
    let mut spec = spec();
    spec.worker_labels.insert("host".into(), number.to_string());
    spec
}

#[test]
fn past_the_cap_of_classes_nothing_is_starved_for_good() {
    let mut world = World::with_slots(16);
    let of = account("many");
    // Each asks for a label of its own, which no worker carries: all classes, and then the mixed ones.
    for number in 0..5_000 {
        world.submit(&of, &labelled(number));
    }
    assert!(
        world.queue.len() <= CLASSES_PER_ACCOUNT_MAX + 4,
        "{} lanes",
        world.queue.len()
    );
    // One that fits, last of all in a mixed lane.
    world.seats[0].labels = Arc::new([("last".to_owned(), "yes".to_owned())].into());
    let mut other = spec();
    other.worker_labels.insert("last".into(), "yes".into());
    let last = world.submit(&of, &other);
    let own = Lane {
        class: ClassKey::of(&other),
        account: of.clone(),
    };
    assert!(!world.queue.contains_key(&own), "its class is past the cap");
    let mut rounds = 0;
    while world.starts.is_empty() {
        let before = world.rows;
        world.round();
        assert!(world.rows - before <= 16 + 4 * 32, "a round stays small");
        rounds += 1;
        assert!(rounds <= 5_000 / 32 + CLASSES_PER_ACCOUNT_MAX, "it is not found");
    }
    assert_eq!(world.running[0].0, last);
    println!("found after {rounds} rounds");
}
