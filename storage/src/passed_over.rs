//! Rows that nobody can read or change: told with their ids, but not at every look that meets them.
//!
//! A row is told once in [`TOLD_EVERY`], however often the sweeps pass over it, and a line names a few ids and counts
//! the rest: a thousand bad rows cost a handful of lines. What is remembered is bounded too.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use common::time::{Clock, Mono, SystemClock};

/// An operator who looks at the last quarter of an hour finds it.
const TOLD_EVERY: Duration = Duration::from_secs(600);
/// Ids in one line.
const SHOWN_MAX: usize = 5;
/// Ids remembered as told, some 40 kB; of more nothing new is told until the next time.
const REMEMBERED_MAX: usize = 1_000;

#[derive(Debug, Default)]
pub(crate) struct PassedOver(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    since: Option<Mono>,
    ids: HashSet<String>,
}

/// One of them, and why.
pub(crate) type Row = (String, String);

impl PassedOver {
    /// Tells of `rows`, as far as that was not done lately. `what` says in a few words what could not be done.
    pub(crate) fn tell(&self, what: &'static str, rows: &[Row]) {
        let new = self.new_of(rows, SystemClock.mono());
        let Some(((_, why), ids)) = new.first().zip(shown(&new)) else {
            return;
        };
        tracing::warn!(
            rows = new.len(),
            %ids,
            %why,
            "{what}: these are passed over, and everything else goes on; mend or remove them by hand"
        );
    }

    fn new_of<'a>(&self, rows: &'a [Row], now: Mono) -> Vec<&'a Row> {
        if rows.is_empty() {
            return Vec::new();
        }
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.since.is_none_or(|since| now.since(since) >= TOLD_EVERY) {
            *told = Told {
                since: Some(now),
                ids: HashSet::new(),
            };
        }
        let is_new = |row: &&Row| told.ids.len() < REMEMBERED_MAX && told.ids.insert(row.0.clone());
        rows.iter().filter(is_new).collect()
    }
}

fn shown(rows: &[&Row]) -> Option<String> {
    let ids: Vec<&str> = rows.iter().take(SHOWN_MAX).map(|(id, _)| id.as_str()).collect();
    let more = rows.len().saturating_sub(SHOWN_MAX);
    match more {
        0 if ids.is_empty() => None,
        0 => Some(ids.join(", ")),
        more => Some(format!("{} and {more} more", ids.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(ids: impl IntoIterator<Item = usize>) -> Vec<Row> {
        let row = |id| (format!("job_{id}"), "no JSON".to_owned());
        ids.into_iter().map(row).collect()
    }

    #[test]
    fn a_row_is_told_once_in_a_while_and_what_is_remembered_is_bounded() {
        let passed = PassedOver::default();
        let at = |seconds: u64| Mono::from_millis(seconds * 1_000);
        assert_eq!(passed.new_of(&rows(0..3), at(1)).len(), 3);
        assert_eq!(passed.new_of(&rows(0..4), at(2)).len(), 1);
        assert_eq!(passed.new_of(&rows(0..4), at(3)).len(), 0);
        assert_eq!(passed.new_of(&rows(0..4), at(601)).len(), 4);
        assert_eq!(passed.new_of(&rows(4..9_000), at(602)).len(), REMEMBERED_MAX - 4);
        assert_eq!(passed.new_of(&rows(9_000..9_001), at(603)).len(), 0);
    }

    #[test]
    fn a_line_names_a_few_and_counts_the_rest() {
        let (few, many) = (rows(0..2), rows(0..7));
        assert_eq!(shown(&few.iter().collect::<Vec<_>>()).unwrap(), "job_0, job_1");
        let told = shown(&many.iter().collect::<Vec<_>>()).unwrap();
        assert!(told.ends_with("job_4 and 2 more"), "{told}");
        assert_eq!(shown(&[]), None);
    }
}
