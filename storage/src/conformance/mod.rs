//! What every backend has to hold, as laws that are tests. A backend joins by one line:
//! `storage::conformance_suite!(factory);` where `factory` is an `async fn() -> impl Backend`.
//!
//! Laws about the life of a job go through [`common::service::Jobs`], as the programs do: it is the pair of rule and
//! store that has to hold. A broken law panics with a sentence, so nothing but tests calls this module.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "laws are tests; a broken one ends its test"
)]

pub mod cancel;
pub mod claim;
pub mod coord;
pub mod fence;
pub mod files;
pub mod identity;
pub mod kit;
pub mod list;
pub mod logs;
pub mod mongo_server;
mod own_clock;
pub mod redis_cluster;
pub mod redis_server;
pub mod restart;
pub mod retry;
pub mod sessions;
pub mod spoilt;
pub mod submit;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use common::store::Stores;
use common::time::ManualClock;

/// A backend under test: fresh stores, and a way to begin them anew.
#[async_trait]
pub trait Backend: Send + Sync {
    fn stores(&self) -> Stores;

    /// The clock that the stores were given.
    fn clock(&self) -> Arc<ManualClock>;

    /// Lets time pass. Where lives are counted by a server's clock, it has to be told.
    async fn turn(&self, by: Duration) {
        self.clock().advance(by);
    }

    /// Ends the program that holds the stores, and opens the same ones again.
    async fn reopen(&mut self, ending: Ending);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Closed in order.
    Closed,
    /// As after `kill -9`: nobody closed anything.
    Killed,
}

/// One `#[tokio::test]` for each law, against fresh stores of `$factory`.
#[macro_export]
macro_rules! conformance_suite {
    ($factory:ident) => {
        $crate::conformance_laws! { $factory;
            submit: an_acknowledged_job_is_there, the_same_key_gives_the_first_job, another_request_under_a_key_is_refused,
                a_key_is_forgotten_after_a_day, keys_are_each_submitters_own, the_same_insert_twice_is_one_job,
                concurrent_inserts_with_one_key_store_one_job, keys_tell_which_requests_they_stand_for;
            claim: two_claimers_never_both_win, a_row_that_changed_is_a_conflict, an_unknown_row_is_not_found,
                a_batch_fails_element_by_element, due_jobs_are_found_when_their_time_has_come,
                the_queue_is_made_anew_from_the_rows;
            fence: a_stale_attempt_changes_nothing, an_old_leader_cannot_claim_or_expire,
                a_take_over_voids_what_the_old_leader_read, terms_only_rise, held_jobs_are_found_by_term_and_session, holdings_are_what_held_rows_come_to;
            cancel: cancel_wins_or_loses_atomically, a_waiting_job_is_cancelled_at_once,
                a_running_job_is_asked_to_end_and_found_undelivered;
            retry: the_same_report_is_accepted_again_and_changes_nothing, a_lost_worker_is_tried_again_then_given_up;
            list: pages_neither_lose_nor_repeat_under_inserts, filters_hold, counts_are_by_state_and_account;
            sessions: a_session_renews_until_it_is_lost, a_newer_connection_supersedes, lost_is_final,
                of_hellos_at_the_same_time_each_is_another_connection,
                hellos_of_many_workers_at_the_same_time_are_each_kept_or_refused,
                a_session_heard_again_is_not_declared_lost, workers_are_kept_whole,
                an_agents_words_and_the_wish_to_drain_leave_each_other_alone, an_older_connection_cannot_put_its_session_back;
            logs: a_chunk_twice_is_read_once, chunks_are_read_in_the_order_of_storing, ranges_are_cut_to_the_byte,
                disorder_is_mended_by_number, holes_are_told, pages_hold_at_least_one_chunk, purging_forgets_one_attempt,
                concurrent_floods_stay_apart;
            files: a_file_appears_whole_or_not_at_all, a_wrong_sum_keeps_nothing, ranges_of_files, files_are_listed_newest_first;
            identity: names_are_unique, a_password_and_the_right_to_come_in_are_changed_apart, sign_ins_are_touched_and_revoked, accounts_and_keys_are_kept;
            restart: everything_acknowledged_survives_closing, everything_acknowledged_survives_a_kill;
        }
        $crate::coordination_suite!($factory);
    };
}

/// The part of the suite that is about lock, queue, hints, limits and nonces: for further ways to the same server.
#[macro_export]
macro_rules! coordination_suite {
    ($factory:ident) => {
        $crate::conformance_laws! { $factory;
            coord: the_lock_has_one_holder_at_a_time, the_queue_is_in_order,
                an_account_has_so_many_classes_and_past_them_its_jobs_wait_in_mixed_ones, a_lane_is_there_as_long_as_something_waits_in_it,
                the_queue_starts_unbuilt_and_forgets, what_is_held_back_is_told_anew_each_time_and_forgotten_with_the_queue,
                a_making_that_was_lost_or_overtaken_is_not_whole,
                a_hint_reaches_whoever_listens, the_call_past_the_limit_is_refused, no_double_burst_at_the_edge,
                a_nonce_is_used_once_by_one, a_nonce_from_before_the_store_is_refused, old_nonces_are_forgotten;
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! conformance_laws {
    ($factory:ident; $($group:ident: $($law:ident),+;)+) => {
        $(mod $group {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $law() {
                let mut backend = super::$factory().await;
                $crate::conformance::$group::$law(&mut backend).await;
            })+
        })+
    };
}
