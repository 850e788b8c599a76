//! An explanation, for people: the reason and what to do, then the facts behind it.

use common::api_types::{ActorKind, EndingView, ExplainView, FleetView, PlaceView, WaitingView};
use common::time::Timestamp;
use common::words::count;

use super::job_page::{Page, attempt_rows};
use super::sanitise::line;
use super::table::{show_between, show_time};
use crate::quantity::show_duration;

pub fn page(explained: &ExplainView, now: Timestamp) -> String {
    let mut page = Page::default();
    page.row("job", &explained.job.to_string());
    page.row("state", &explained.state.to_string());
    page.row("why", &explained.sentence);
    if let Some(next) = &explained.next {
        page.row("do next", next);
    }
    if let Some(waiting) = &explained.waiting {
        waiting_rows(&mut page, waiting, now);
    }
    if let Some(running) = &explained.running {
        page.row("worker", running.worker.as_str());
        page.row("since", &show_time(running.since));
        page.row("ends by", &show_time(running.ends_by));
    }
    if let Some(ending) = &explained.ending {
        ending_rows(&mut page, ending);
    }
    for attempt in &explained.attempts {
        attempt_rows(&mut page, attempt, now);
    }
    let fleet = explained
        .waiting
        .as_ref()
        .and_then(|waiting| waiting.fleet.as_ref());
    if let Some(fleet) = fleet.filter(|fleet| !fleet.workers.is_empty()) {
        page.blank();
        page.text(&fleet_list(fleet));
    }
    page.end()
}

fn waiting_rows(page: &mut Page, waiting: &WaitingView, now: Timestamp) {
    page.row("reason", waiting.reason.as_str());
    if let Some(waited) = show_between(Some(waiting.since), Some(now)) {
        page.row("for", &waited);
    }
    if let Some(place) = &waiting.place {
        page.row("place", &place_words(*place));
    }
    if let Some(account) = &waiting.account {
        let (running, most) = (account.running, account.running_max);
        page.row(
            "account",
            &format!("has {running} of at most {most} at the same time"),
        );
    }
    if let Some(until) = waiting.until {
        page.row("queued", &when(until, now));
    }
    if let Some(estimate) = &waiting.estimate {
        page.row(
            "may start",
            &format!("{}. {}", when(estimate.at, now), estimate.sentence),
        );
    }
    if let Some(gives_up) = waiting.gives_up_at {
        page.row("gives up", &when(gives_up, now));
    }
}

fn place_words(place: PlaceView) -> String {
    format!(
        "{} before it of {} of its account and class; {} of its account wait, {} in all",
        place.before, place.of, place.account, place.all
    )
}

fn when(at: Timestamp, now: Timestamp) -> String {
    if at > now {
        format!("{} (in {})", show_time(at), show_duration(at.since(now)))
    } else {
        show_time(at)
    }
}

/// Who ended it and on which evidence, for this page and the job's own.
pub fn ending_rows(page: &mut Page, ending: &EndingView) {
    let name = ending.actor.name.as_deref().unwrap_or_default();
    let by = match ending.actor.kind {
        ActorKind::Job => "the command itself".to_owned(),
        ActorKind::User => format!("the user {name}"),
        ActorKind::System => "the system".to_owned(),
        ActorKind::Worker => format!("the worker {name}"),
    };
    page.row("ended by", &by);
}

/// Each worker with its verdict, and how many more there are. The words are the point of it, and are not cut as the
/// cells of a table are.
pub fn fleet_list(fleet: &FleetView) -> String {
    let longest = fleet
        .workers
        .iter()
        .map(|verdict| verdict.worker.as_str().len())
        .max();
    let width = longest.unwrap_or_default();
    let mut text: Vec<String> = fleet
        .workers
        .iter()
        .map(|verdict| format!("{:<width$}  {}", verdict.worker.as_str(), line(&verdict.words)))
        .collect();
    text.extend(more(fleet));
    text.join("\n")
}

/// `and 3 workers more: 2 busy, 1 away`, of those that are not listed.
pub fn more(fleet: &FleetView) -> Option<String> {
    let mut counts: Vec<String> = Vec::new();
    let mut total = 0;
    for of_kind in &fleet.counts {
        let shown = fleet
            .workers
            .iter()
            .filter(|one| one.verdict == of_kind.verdict)
            .count();
        let left = u64::from(of_kind.workers).saturating_sub(shown as u64);
        if left > 0 {
            total += left;
            counts.push(format!("{left} {}", of_kind.verdict.as_str()));
        }
    }
    (total > 0).then(|| format!("and {} more: {}", count(total, "worker"), counts.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::api_types::{VerdictCount, VerdictView};
    use common::explain::VerdictKind;

    #[test]
    fn verdicts_are_listed_whole_and_harmless_and_the_rest_is_counted() {
        let fleet = FleetView {
            workers: vec![VerdictView {
                worker: "node-1".parse().unwrap(),
                verdict: VerdictKind::NotReady,
                words: format!("not ready: \u{1b}[2J{}", "long ".repeat(20)),
                lacks: vec![],
                silent_ms: None,
                reasons: vec![],
                held_for: None,
                held_since: None,
            }],
            counts: vec![
                VerdictCount {
                    verdict: VerdictKind::NotReady,
                    workers: 1,
                },
                VerdictCount {
                    verdict: VerdictKind::Away,
                    workers: 3,
                },
            ],
        };
        let text = fleet_list(&fleet);
        assert!(text.contains("node-1  not ready: long long"), "{text}");
        assert!(!text.contains('\u{1b}') && !text.contains('…'), "{text}");
        assert!(text.ends_with("and 3 workers more: 3 away"), "{text}");
    }
}
