//! Placement over parties that were read whole.

use std::collections::BTreeMap;

use common::ids::WorkerId;
use common::lifecycle::testing::{account, spec};
use common::queue::{ClassKey, Lane, QueueEntry};
use common::time::Timestamp;
use common::worker::Capacity;
use proptest::prelude::*;

use super::*;

/// When reservations are granted here.
const AT: Timestamp = Timestamp::from_millis(7);

fn seat(name: &str, pool: &str, label: Option<&str>, slots: u32, memory_mib: u32) -> Seat {
    Seat {
        worker: WorkerId::new(name).unwrap(),
        pool: PoolName::new(pool).unwrap(),
        labels: Arc::new(labels(label)),
        capacity: Capacity {
            cpu_millis: 1_000_000,
            memory_mib,
            disk_mib: 1_000_000,
            slots,
        },
        used: Capacity::NOTHING,
        suspect: false,
        kept: None,
    }
}

fn labels(label: Option<&str>) -> BTreeMap<String, String> {
    label
        .map(|value| ("zone".to_owned(), value.to_owned()))
        .into_iter()
        .collect()
}

fn candidate(number: u128, pool: &str, label: Option<&str>, memory_mib: u32) -> Candidate {
    let mut spec = spec();
    spec.pool = PoolName::new(pool).unwrap();
    spec.resources.memory_mib = memory_mib;
    spec.worker_labels = labels(label);
    Candidate {
        job: JobId::from_u128(number),
        score: number as u64,
        suspect: false,
        spec: Arc::new(spec),
    }
}

/// As [`candidate`], of the default pool, lost before.
fn suspect(number: u128) -> Candidate {
    Candidate {
        suspect: true,
        ..candidate(number, "default", None, 64)
    }
}

fn plain(numbers: std::ops::Range<u128>) -> Heads {
    heads(
        numbers
            .map(|number| candidate(number, "default", None, 64))
            .collect(),
    )
}

fn heads(jobs: Vec<Candidate>) -> Heads {
    Heads {
        jobs: jobs.into(),
        ..Heads::default()
    }
}

fn party(name: &str, lanes: Vec<Heads>) -> Party {
    Party {
        account: account(name),
        terms: Terms {
            weight: 1,
            ..Terms::default()
        },
        unread: false,
        lanes,
    }
}

fn run(mut parties: Vec<Party>, seats: &mut [Seat], limit: usize) -> Round {
    place(&mut parties, seats, &mut FairShare::default(), limit)
}

fn jobs(round: &Round) -> Vec<u128> {
    round
        .placements
        .iter()
        .map(|placement| placement.job.as_u128())
        .collect()
}

#[test]
fn a_class_that_fits_nowhere_stands_in_nobodys_way_and_is_told() {
    let lanes = vec![heads(vec![candidate(1, "default", None, 1 << 30)]), plain(2..3)];
    let round = run(
        vec![party("a", lanes)],
        &mut [seat("w", "default", None, 4, 1_024)],
        10,
    );
    assert_eq!(jobs(&round), [2]);
    assert_eq!((round.placements[0].party, round.placements[0].lane), (0, 1));
    let blocked: Vec<_> = round
        .blocked
        .iter()
        .map(|(party, lane, job)| (*party, *lane, job.job.as_u128()))
        .collect();
    assert_eq!(blocked, [(0, 0, 1)]);
}

#[test]
fn within_a_class_the_order_is_kept_even_if_a_later_job_would_fit_and_in_a_mixed_lane_it_is_not() {
    let jobs_of = || {
        vec![
            candidate(1, "default", None, 900),
            candidate(2, "default", None, 700),
        ]
    };
    let mut seats = [seat("w", "default", None, 4, 800)];
    assert_eq!(
        jobs(&run(vec![party("a", vec![heads(jobs_of())])], &mut seats, 10)),
        []
    );
    let mixed = Heads {
        mixed: true,
        ..heads(jobs_of())
    };
    assert_eq!(jobs(&run(vec![party("a", vec![mixed])], &mut seats, 10)), [2]);
}

#[test]
fn a_round_stops_where_it_would_have_to_know_more() {
    let seats = || [seat("w", "default", None, 8, 4_096)];
    // The account's best job may be one that was not read.
    let half_read = Heads {
        unread: Some((3, JobId::from_u128(3))),
        ..plain(1..3)
    };
    let round = run(vec![party("a", vec![half_read, plain(10..12)])], &mut seats(), 10);
    assert_eq!((jobs(&round), round.unfinished), (vec![1, 2], true));
    // What stands behind what is placed anyway does not matter.
    let later = Heads {
        unread: Some((20, JobId::from_u128(20))),
        ..Heads::default()
    };
    let round = run(vec![party("a", vec![plain(1..4), later])], &mut seats(), 3);
    assert_eq!((jobs(&round), round.unfinished), (vec![1, 2, 3], false));
    // It is the turn of an account of which nothing was read.
    let unread = Party {
        unread: true,
        ..party("b", vec![])
    };
    let round = run(vec![party("a", vec![plain(1..9)]), unread], &mut seats(), 10);
    assert_eq!((jobs(&round), round.unfinished), (vec![1], true));
}

#[test]
fn an_account_of_which_nothing_fits_that_was_read_holds_up_nobody() {
    let large = Heads {
        unread: Some((2, JobId::from_u128(2))),
        ..heads(vec![candidate(1, "default", None, 1 << 30)])
    };
    let more = Heads {
        unread: Some((3, JobId::from_u128(3))),
        ..Heads::default()
    };
    let parties = vec![party("a", vec![large, more]), party("b", vec![plain(10..12)])];
    let round = run(parties, &mut [seat("w", "default", None, 8, 4_096)], 10);
    assert_eq!((jobs(&round), round.unfinished), (vec![10, 11], true));
}

#[test]
fn the_least_loaded_worker_is_taken() {
    let mut seats = [
        seat("a", "default", None, 4, 4_096),
        seat("b", "default", None, 4, 4_096),
    ];
    seats[0].take(&candidate(9, "default", None, 64));
    let round = run(vec![party("a", vec![plain(1..2)])], &mut seats, 10);
    assert_eq!(round.placements[0].seat, 1);
}

#[test]
fn a_worker_has_one_suspect_at_the_most_and_others_beside_it() {
    let suspects = || party("lost", vec![heads((0..4).map(suspect).collect())]);
    let mut seats = [
        seat("a", "default", None, 4, 4_096),
        seat("b", "default", None, 4, 4_096),
    ];
    let round = run(
        vec![suspects(), party("well", vec![plain(10..14)])],
        &mut seats,
        10,
    );
    let mut placed = jobs(&round);
    placed.sort_unstable();
    assert_eq!(placed, [0, 1, 10, 11, 12, 13]);
    assert_eq!(seats.each_ref().map(|seat| seat.suspect), [true, true]);
    // also where none of this round was placed
    let round = run(vec![suspects()], &mut seats, 10);
    assert_eq!(jobs(&round), []);
}

#[test]
fn what_is_kept_for_a_suspect_is_no_place_for_another() {
    let mut seats = [seat("w", "default", None, 4, 4_096)];
    let mut reservations = Reservations::default();
    let (first, other) = (suspect(1), suspect(2));
    assert!(reservations.grant(&entry(&first), &first, &mut seats, 4, AT));
    assert!(seats[0].fits(&first) && !seats[0].fits(&other));
    assert!(seats[0].fits(&candidate(3, "default", None, 64)), "room is left");
    seats[0].kept = None;
    seats[0].take(&other);
    let mut reservations = Reservations::default();
    assert!(
        !reservations.grant(&entry(&first), &first, &mut seats, 4, AT),
        "nothing is kept where it could not start"
    );
}

#[test]
fn an_account_gets_no_more_than_its_room() {
    let mut limited = party("a", vec![plain(0..5)]);
    limited.terms.room = Some(2);
    let round = run(vec![limited], &mut [seat("w", "default", None, 10, 4_096)], 10);
    assert_eq!(round.placements.len(), 2);
}

#[test]
fn two_accounts_take_turns_however_much_one_has_waiting() {
    let parties = vec![
        party("few", vec![plain(1_000..1_004)]),
        party("many", vec![plain(0..100)]),
    ];
    let placed = jobs(&run(parties, &mut [seat("w", "default", None, 8, 4_096)], 100));
    let of_few = placed.iter().filter(|job| **job >= 1_000).count();
    assert_eq!((placed.len(), of_few), (8, 4));
}

#[test]
fn what_is_expected_is_what_comes_when_everything_fits() {
    let accounts = [account("a"), account("b"), account("c")];
    let terms = |weight, room| Terms {
        weight,
        held: 0,
        room,
    };
    let parties = [
        (&accounts[0], terms(3, None), 1_000),
        (&accounts[1], terms(1, None), 1_000),
        (&accounts[2], terms(9, Some(2)), 1_000),
    ];
    assert_eq!(expect(&FairShare::default(), &parties, 10), [6, 2, 2]);
    let few = [
        (&accounts[0], terms(1, None), 1),
        (&accounts[1], terms(1, None), 2),
        (&accounts[2], terms(1, Some(0)), 9),
    ];
    assert_eq!(expect(&FairShare::default(), &few, 10), [1, 2, 0]);
}

fn entry(job: &Candidate) -> QueueEntry {
    QueueEntry {
        lane: Lane {
            class: ClassKey::from_text("large"),
            account: account("large"),
        },
        score: job.score,
        job: job.job,
    }
}

#[test]
fn what_is_kept_for_a_job_goes_to_nobody_else_and_what_is_beyond_goes_to_all() {
    let mut seats = [seat("w", "default", None, 10, 1_000)];
    // 600 of 1,000 are in use, 800 are wanted: nothing goes to others until 800 are free.
    for number in 0..6 {
        seats[0].take(&candidate(number, "default", None, 100));
    }
    let large = candidate(100, "default", None, 800);
    let mut reservations = Reservations::default();
    assert!(reservations.grant(&entry(&large), &large, &mut seats, 4, AT));
    assert!(
        !reservations.grant(&entry(&large), &large, &mut seats, 4, AT),
        "once"
    );
    let parties = || {
        vec![
            party("large", vec![heads(vec![large.clone()])]),
            party("small", vec![plain(10..20)]),
        ]
    };
    for used in [600, 500, 400, 300] {
        let used = Capacity {
            memory_mib: used,
            ..seats[0].used
        };
        let mut now = [Seat {
            used,
            ..seats[0].clone()
        }];
        assert_eq!(jobs(&run(parties(), &mut now, 10)), [], "with {used:?}");
    }
    // 200 in use: the large job starts, and nothing else fits.
    let mut now = [Seat {
        used: Capacity {
            memory_mib: 200,
            ..seats[0].used
        },
        ..seats[0].clone()
    }];
    assert_eq!(jobs(&run(parties(), &mut now, 10)), [100]);
    // 100 in use: 100 are beyond what is kept, whoever's turn it is.
    let mut now = [Seat {
        used: Capacity {
            memory_mib: 100,
            slots: 1,
            ..seats[0].used
        },
        ..seats[0].clone()
    }];
    let only_small = vec![party("small", vec![plain(10..20)])];
    assert_eq!(jobs(&run(only_small, &mut now, 10)), [10]);
    assert!(
        now[0].holds(large.job, &large.resources(), false),
        "it was not delayed"
    );
}

#[test]
fn reservations_take_the_worker_with_least_to_wait_for_and_only_a_share_of_a_pool() {
    let mut seats: Vec<Seat> = (0..8)
        .map(|number| seat(&format!("w{number}"), "default", None, 10, 1_000))
        .collect();
    for (number, seat) in seats.iter_mut().enumerate() {
        seat.take(&candidate(0, "default", None, 900 - 100 * (number as u32 % 4)));
    }
    seats.push(seat("other", "other", None, 10, 1_000));
    seats.push(seat("small", "default", None, 10, 500));
    let mut reservations = Reservations::default();
    let mut kept = Vec::new();
    for number in 1..=4 {
        let large = candidate(number, "default", None, 800);
        if reservations.grant(&entry(&large), &large, &mut seats, 4, AT) {
            let of = seats
                .iter()
                .find(|seat| seat.kept.is_some_and(|kept| kept.job == large.job));
            kept.push(of.unwrap().worker.to_string());
        }
    }
    assert_eq!(kept, ["w3", "w7"], "two of nine");
    let elsewhere = candidate(9, "other", None, 800);
    assert!(
        reservations.grant(&entry(&elsewhere), &elsewhere, &mut seats, 4, AT),
        "a pool of one worker has one"
    );
    let nowhere = candidate(10, "other", Some("one"), 800);
    assert!(!reservations.grant(&entry(&nowhere), &nowhere, &mut seats, 1, AT));
    reservations.release(JobId::from_u128(1));
    reservations.mark(&mut seats);
    assert_eq!(seats.iter().filter(|seat| seat.kept.is_some()).count(), 2);
}

#[test]
fn a_reservation_ends_with_its_worker_or_when_that_has_become_too_small() {
    let large = candidate(1, "default", None, 800);
    let fleet = |memory| vec![seat("w", "default", None, 4, memory)];
    for after in [vec![], fleet(700), vec![seat("v", "default", None, 4, 1_000)]] {
        let mut reservations = Reservations::default();
        assert!(reservations.grant(&entry(&large), &large, &mut fleet(1_000), 4, AT));
        let (mut same, mut after) = (fleet(1_000), after);
        reservations.mark(&mut same);
        assert!(same[0].kept.is_some());
        reservations.mark(&mut after);
        assert!(reservations.is_empty() && after.iter().all(|seat| seat.kept.is_none()));
    }
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
        let of = |lane: usize| heads(jobs.iter().filter(|(of, _)| *of == lane).map(|(_, job)| job.clone()).collect());
        let parties = vec![party("a", vec![of(0), of(1)]), party("b", vec![of(2), of(3)])];
        let mut after = seats.clone();
        let round = run(parties.clone(), &mut after, limit);
        let placed = &round.placements;
        prop_assert!(placed.len() <= limit);
        prop_assert_eq!(&round, &run(parties.clone(), &mut seats.clone(), limit));

        let find = |id: JobId| jobs.iter().find(|(_, job)| job.job == id).map(|(_, job)| job).unwrap();
        let mut used = vec![(0u32, 0u64); seats.len()];
        for placement in placed {
            let (job, seat) = (find(placement.job), &seats[placement.seat]);
            prop_assert_eq!(job.pool(), &seat.pool);
            prop_assert!(job.wanted().labels.iter().all(|(name, value)| seat.labels.get(name) == Some(value)));
            used[placement.seat].0 += 1;
            used[placement.seat].1 += u64::from(job.resources().memory_mib);
        }
        for (seat, (slots, memory)) in seats.iter().zip(used) {
            prop_assert!(slots <= seat.capacity.slots && memory <= u64::from(seat.capacity.memory_mib));
        }
        // Nobody is placed twice, lanes keep their order, and no head that would fit was left while there was room.
        for heads in parties.iter().flat_map(|party| &party.lanes) {
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
