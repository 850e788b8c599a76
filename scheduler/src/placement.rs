//! Which waiting job goes to which worker. Pure: a picture in, assignments out; nothing is written or sent here.
//!
//! The account is picked by [`FairShare`]; within it the best score of all its lanes goes first; within a lane the
//! order is never changed. A lane whose head fits nowhere steps aside for this round, so a class that no worker fits
//! never stands before one that some worker does.
//!
//! Among the workers that fit, the *least loaded* one is taken (least use of its scarcest resource after the
//! placement; ties by name). Packing tightly would keep larger holes for larger jobs, but starting a container costs
//! its host work that no reservation covers, and a lost worker takes along what was packed onto it.

use std::collections::{BTreeMap, VecDeque};

use common::fit::{self, Offer, Wanted};
use common::ids::{AccountId, JobId, PoolName, WorkerId};
use common::job::{JobSpec, Resources};
use common::queue::Lane;
use common::worker::Capacity;

use crate::fair_share::FairShare;

/// A waiting job as far as placement is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub job: JobId,
    pub score: u64,
    pub resources: Resources,
    pub pool: PoolName,
    /// Labels that a worker must carry.
    pub labels: BTreeMap<String, String>,
}

impl Candidate {
    pub fn new(job: JobId, score: u64, spec: &JobSpec) -> Self {
        Self {
            job,
            score,
            resources: spec.resources,
            pool: spec.pool.clone(),
            labels: spec.worker_labels.clone(),
        }
    }
}

/// The first jobs of a lane, in order.
#[derive(Debug, Clone)]
pub struct Heads {
    pub lane: Lane,
    pub jobs: VecDeque<Candidate>,
}

/// A worker that may be given work now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    pub worker: WorkerId,
    pub pool: PoolName,
    pub labels: BTreeMap<String, String>,
    pub capacity: Capacity,
    pub used: Capacity,
}

/// What an account may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    pub weight: u32,
    /// How many more attempts it may have at the same time; none: as many as fit.
    pub room: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    pub job: JobId,
    /// Index into the seats given.
    pub seat: usize,
}

/// Places up to `limit` jobs and takes their resources from the seats.
pub fn place(
    mut lanes: Vec<Heads>,
    seats: &mut [Seat],
    terms: &mut BTreeMap<AccountId, Terms>,
    share: &mut FairShare,
    limit: usize,
) -> Vec<Placement> {
    let mut placements = Vec::new();
    share.admit(lanes.iter().map(|heads| &heads.lane.account));
    while placements.len() < limit {
        lanes.retain(|heads| !heads.jobs.is_empty() && has_room(terms, &heads.lane.account));
        let Some(account) = share.next(lanes.iter().map(|heads| &heads.lane.account)).cloned() else {
            break;
        };
        let best = lanes
            .iter_mut()
            .filter(|heads| heads.lane.account == account)
            .min_by_key(|heads| heads.jobs.front().map(|head| (head.score, head.job)));
        let Some(heads) = best else { break };
        let Some(head) = heads.jobs.pop_front() else { break };
        match choose(&head, seats) {
            Some(seat) => {
                seats[seat].take(&head.resources);
                let terms = terms.entry(account.clone()).or_insert(Terms {
                    weight: 1,
                    room: None,
                });
                terms.room = terms.room.map(|room| room.saturating_sub(1));
                share.charge(&account, terms.weight);
                placements.push(Placement { job: head.job, seat });
            }
            None => heads.jobs.clear(),
        }
    }
    placements
}

fn has_room(terms: &BTreeMap<AccountId, Terms>, account: &AccountId) -> bool {
    terms.get(account).and_then(|terms| terms.room) != Some(0)
}

fn choose(job: &Candidate, seats: &[Seat]) -> Option<usize> {
    (0..seats.len())
        .filter(|&seat| seats[seat].fits(job))
        .min_by_key(|&seat| (seats[seat].load_with(&job.resources), &seats[seat].worker))
}

impl Seat {
    fn fits(&self, job: &Candidate) -> bool {
        let wanted = Wanted {
            resources: job.resources,
            pool: &job.pool,
            labels: &job.labels,
        };
        let offer = Offer {
            pool: &self.pool,
            labels: &self.labels,
            capacity: self.capacity,
            used: self.used,
        };
        fit::fits(wanted, offer)
    }

    pub fn free(&self) -> Capacity {
        Capacity {
            cpu_millis: self.capacity.cpu_millis.saturating_sub(self.used.cpu_millis),
            memory_mib: self.capacity.memory_mib.saturating_sub(self.used.memory_mib),
            disk_mib: self.capacity.disk_mib.saturating_sub(self.used.disk_mib),
            slots: self.capacity.slots.saturating_sub(self.used.slots),
        }
    }

    pub fn take(&mut self, wanted: &Resources) {
        self.used = self.used.with(wanted);
    }

    /// Use of the scarcest resource with `wanted` added, in millionths.
    fn load_with(&self, wanted: &Resources) -> u64 {
        let part = |used: u32, more: u32, of: u32| {
            (u64::from(used) + u64::from(more)) * 1_000_000 / u64::from(of.max(1))
        };
        let (used, of) = (&self.used, &self.capacity);
        part(used.cpu_millis, wanted.cpu_millis, of.cpu_millis)
            .max(part(used.memory_mib, wanted.memory_mib, of.memory_mib))
            .max(part(used.disk_mib, wanted.disk_mib, of.disk_mib))
            .max(part(used.slots, 1, of.slots))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::lifecycle::testing::{account, spec};
    use common::queue::ClassKey;
    use proptest::prelude::*;

    fn seat(name: &str, pool: &str, label: Option<&str>, slots: u32, memory_mib: u32) -> Seat {
        Seat {
            worker: WorkerId::new(name).unwrap(),
            pool: PoolName::new(pool).unwrap(),
            labels: label
                .map(|value| ("zone".to_owned(), value.to_owned()))
                .into_iter()
                .collect(),
            capacity: Capacity {
                cpu_millis: 1_000_000,
                memory_mib,
                disk_mib: 1_000_000,
                slots,
            },
            used: Capacity {
                cpu_millis: 0,
                memory_mib: 0,
                disk_mib: 0,
                slots: 0,
            },
        }
    }

    fn candidate(number: u128, pool: &str, label: Option<&str>, memory_mib: u32) -> Candidate {
        let mut spec = spec();
        spec.pool = PoolName::new(pool).unwrap();
        spec.resources.memory_mib = memory_mib;
        spec.worker_labels = label
            .map(|value| ("zone".to_owned(), value.to_owned()))
            .into_iter()
            .collect();
        Candidate::new(JobId::from_u128(number), number as u64, &spec)
    }

    fn heads(of: &str, class: &str, jobs: Vec<Candidate>) -> Heads {
        Heads {
            lane: Lane {
                class: ClassKey::from_text(class),
                account: account(of),
            },
            jobs: jobs.into(),
        }
    }

    fn run(lanes: Vec<Heads>, seats: &mut [Seat], limit: usize) -> Vec<Placement> {
        place(
            lanes,
            seats,
            &mut BTreeMap::new(),
            &mut FairShare::default(),
            limit,
        )
    }

    #[test]
    fn a_class_that_fits_nowhere_stands_in_nobodys_way() {
        let lanes = vec![
            heads("a", "huge", vec![candidate(1, "default", None, 1 << 30)]),
            heads("a", "small", vec![candidate(2, "default", None, 64)]),
        ];
        let placed = run(lanes, &mut [seat("w", "default", None, 4, 1_024)], 10);
        assert_eq!(
            placed,
            vec![Placement {
                job: JobId::from_u128(2),
                seat: 0
            }]
        );
    }

    #[test]
    fn within_a_lane_the_order_is_kept_even_if_a_later_job_would_fit() {
        let lanes = vec![heads(
            "a",
            "c",
            vec![
                candidate(1, "default", None, 900),
                candidate(2, "default", None, 700),
            ],
        )];
        assert_eq!(run(lanes, &mut [seat("w", "default", None, 4, 800)], 10), vec![]);
    }

    #[test]
    fn the_least_loaded_worker_is_taken() {
        let mut seats = [
            seat("a", "default", None, 4, 4_096),
            seat("b", "default", None, 4, 4_096),
        ];
        seats[0].take(&Resources::default());
        let lanes = vec![heads("a", "c", vec![candidate(1, "default", None, 64)])];
        assert_eq!(run(lanes, &mut seats, 10)[0].seat, 1);
    }

    #[test]
    fn an_account_gets_no_more_than_its_room() {
        let jobs = (0..5).map(|n| candidate(n, "default", None, 64)).collect();
        let mut terms = BTreeMap::from([(
            account("a"),
            Terms {
                weight: 1,
                room: Some(2),
            },
        )]);
        let placed = place(
            vec![heads("a", "c", jobs)],
            &mut [seat("w", "default", None, 10, 4_096)],
            &mut terms,
            &mut FairShare::default(),
            10,
        );
        assert_eq!(placed.len(), 2);
    }

    #[test]
    fn two_accounts_take_turns_however_much_one_has_waiting() {
        let many = (0..100).map(|n| candidate(n, "default", None, 64)).collect();
        let few = (1_000..1_004)
            .map(|n| candidate(n, "default", None, 64))
            .collect();
        let lanes = vec![heads("many", "c", many), heads("few", "c", few)];
        let placed = run(lanes, &mut [seat("w", "default", None, 8, 4_096)], 100);
        let of_few = placed
            .iter()
            .filter(|placement| placement.job.as_u128() >= 1_000)
            .count();
        assert_eq!((placed.len(), of_few), (8, 4));
    }

    fn any_seat() -> impl Strategy<Value = (bool, Option<bool>, u32, u32)> {
        (any::<bool>(), any::<Option<bool>>(), 0u32..4, 0u32..2_000)
    }

    fn any_job() -> impl Strategy<Value = (usize, bool, Option<bool>, u32)> {
        (0usize..4, any::<bool>(), any::<Option<bool>>(), 1u32..2_500)
    }

    fn pool(other: bool) -> &'static str {
        if other { "other" } else { "default" }
    }

    fn zone(label: Option<bool>) -> Option<&'static str> {
        label.map(|one| if one { "one" } else { "two" })
    }

    proptest! {
        #[test]
        fn never_over_capacity_never_elsewhere_deterministic_and_nothing_idle(
            seats in proptest::collection::vec(any_seat(), 0..5),
            jobs in proptest::collection::vec(any_job(), 0..30),
            limit in 0usize..20,
        ) {
            let seats: Vec<Seat> = seats.iter().enumerate()
                .map(|(n, &(other, label, slots, memory))| seat(&format!("w{n}"), pool(other), zone(label), slots, memory))
                .collect();
            let jobs: Vec<(usize, Candidate)> = jobs.iter().enumerate()
                .map(|(n, &(lane, other, label, memory))| (lane, candidate(n as u128, pool(other), zone(label), memory)))
                .collect();
            let lanes: Vec<Heads> = (0..4).map(|lane| {
                let own = jobs.iter().filter(|(of, _)| *of == lane).map(|(_, job)| job.clone()).collect();
                heads(["a", "b"][lane % 2], &format!("c{lane}"), own)
            }).collect();
            let mut after = seats.clone();
            let placed = run(lanes.clone(), &mut after, limit);
            prop_assert!(placed.len() <= limit);
            prop_assert_eq!(&placed, &run(lanes.clone(), &mut seats.clone(), limit));

            let find = |id: JobId| jobs.iter().find(|(_, job)| job.job == id).map(|(_, job)| job).unwrap();
            let mut used = vec![(0u32, 0u64); seats.len()];
            for placement in &placed {
                let (job, seat) = (find(placement.job), &seats[placement.seat]);
                prop_assert_eq!(&job.pool, &seat.pool);
                prop_assert!(job.labels.iter().all(|(name, value)| seat.labels.get(name) == Some(value)));
                used[placement.seat].0 += 1;
                used[placement.seat].1 += u64::from(job.resources.memory_mib);
            }
            for (seat, (slots, memory)) in seats.iter().zip(used) {
                prop_assert!(slots <= seat.capacity.slots && memory <= u64::from(seat.capacity.memory_mib));
            }
            // Nobody is placed twice, lanes keep their order, and no head that would fit was left while there was room.
            for heads in &lanes {
                let order: Vec<bool> = heads.jobs.iter().map(|job| placed.iter().any(|p| p.job == job.job)).collect();
                prop_assert!(order.is_sorted_by(|earlier, later| *earlier || !*later), "{order:?}");
                if placed.len() < limit
                    && let Some(first_left) = heads.jobs.iter().zip(&order).find(|(_, placed)| !**placed)
                {
                    prop_assert!(choose(first_left.0, &after).is_none(), "left over: {first_left:?}");
                }
            }
            let mut ids: Vec<JobId> = placed.iter().map(|placement| placement.job).collect();
            ids.sort();
            ids.dedup();
            prop_assert_eq!(ids.len(), placed.len());
        }
    }
}
