//! The laws of attempts: what a row may hold, and what one write may make of it.

use common::job::Job;
use common::retry::INFRA_RETRIES_MAX;

/// The law that this row breaks by itself, if any.
pub fn broken_by_row(job: &Job) -> Option<&'static str> {
    // One attempt at a time, which is the last, and only while somebody holds the job.
    let last = job.attempts.last();
    let open = last.filter(|attempt| attempt.end.is_none());
    let mut others = job.attempts.iter().rev().skip(1);
    let numbered = job
        .attempts
        .windows(2)
        .all(|pair| pair[0].number < pair[1].number);
    if open.map(|attempt| attempt.id) != job.state.attempt()
        || others.any(|attempt| attempt.end.is_none())
        || last.is_some_and(|attempt| attempt.number != job.attempts_total)
        || !numbered
    {
        return Some("I4");
    }
    // Each attempt but the first is paid for by one of two budgets.
    if job.attempts_total > 1 + job.user_retries + job.infra_retries
        || job.user_retries > job.spec.retry.max_retries
        || job.infra_retries > INFRA_RETRIES_MAX
    {
        return Some("I11");
    }
    None
}

/// The law that is broken by writing `after` over `before`, if any.
pub fn broken_by_write(before: &Job, after: &Job) -> Option<&'static str> {
    let (had, has) = (before.attempts.len(), after.attempts.len());
    let begins = has == had + 1;
    // What was begun stays, as does how it ended; the next one begins when all have.
    let kept = before
        .attempts
        .iter()
        .zip(&after.attempts)
        .all(|(was, is)| was.id == is.id && (was.end.is_none() || was.end == is.end));
    let all_ended = before.attempts.iter().all(|attempt| attempt.end.is_some());
    let follows = has == had || (begins && all_ended);
    if !(kept && follows) {
        return Some("I4");
    }
    // An epoch that falls at a claim turns the order of attempts back; at any other write an older term wrote after
    // a later one.
    match after.epoch < before.epoch {
        true if begins => Some("I4"),
        true => Some("I10"),
        false => None,
    }
}
