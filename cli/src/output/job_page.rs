//! All that is known of a job, on one page: how it ended and why, when, with what, what it left.

use common::api_types::{AttemptView, JobView};
use common::job::StateName;
use common::time::Timestamp;

use super::sanitise::line;
use super::table::{show_between, show_millis, show_time};
use super::why_page::ending_rows;
use crate::quantity::show_bytes;

/// The page of one job.
pub fn page(job: &JobView, now: Timestamp) -> String {
    let mut page = Page::default();
    page.row("job", &job.id.to_string());
    if let Some(name) = &job.name {
        page.row("name", name);
    }
    page.row("state", &state_sentence(job));
    if job.state.is_terminal()
        && let Some(ending) = &job.ending
    {
        page.row("outcome", &ending.sentence);
        if let Some(next) = &ending.next {
            page.row("do next", next);
        }
        ending_rows(&mut page, ending);
    }
    page.row("command", &job.command);
    page.row("image", &image_text(job));
    page.row("by", &format!("{} ({})", job.submitted_by, job.account));
    if !job.spec.labels.is_empty() {
        let labels: Vec<String> = job.spec.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        page.row("labels", &labels.join(" "));
    }
    page.row("asked for", &asked_for(job));
    times(&mut page, job, now);
    if let Some(cancel) = &job.cancel {
        let why = cancel
            .why
            .as_ref()
            .map(|why| format!(": {why}"))
            .unwrap_or_default();
        page.row(
            "cancel",
            &format!("asked by {} at {}{why}", cancel.by, show_time(cancel.at)),
        );
    }
    if job.user_retries + job.infra_retries > 0 {
        page.row(
            "retries",
            &format!(
                "{} for the command, {} for the system",
                job.user_retries, job.infra_retries
            ),
        );
    }
    for attempt in &job.attempts {
        attempt_rows(&mut page, attempt, now);
    }
    page.end()
}

/// The state, in words.
pub fn state_sentence(job: &JobView) -> String {
    let cancelling = job.cancel.is_some() && !job.state.is_terminal();
    let mut text = match job.state {
        StateName::Scheduled => match job.scheduled_for {
            Some(at) if job.attempts_total > 0 => format!("scheduled: next try at {}", show_time(at)),
            Some(at) => format!("scheduled for {}", show_time(at)),
            None => "scheduled".to_owned(),
        },
        other => other.to_string(),
    };
    if let (StateName::Assigned | StateName::Running, Some(worker)) = (job.state, &job.worker) {
        text.push_str(&format!(" on {worker}"));
    }
    if cancelling {
        text.push_str(", cancel asked for");
    }
    text
}

fn image_text(job: &JobView) -> String {
    let digest = job
        .attempts
        .iter()
        .rev()
        .find_map(|attempt| attempt.image_digest.as_ref());
    match digest {
        Some(digest) => format!("{} ({digest})", job.image),
        None => job.image.clone(),
    }
}

fn asked_for(job: &JobView) -> String {
    let (resources, limits) = (job.spec.resources, job.spec.limits);
    let mut parts = Vec::new();
    parts.extend(
        resources
            .cpu_millis
            .map(|cpu| format!("{} CPU", f64::from(cpu) / 1_000.0)),
    );
    parts.extend(resources.memory_mib.map(|mib| format!("{mib} MiB memory")));
    parts.extend(resources.disk_mib.map(|mib| format!("{mib} MiB disk")));
    parts.extend(limits.run_ms.map(|run| format!("{} at most", show_millis(run))));
    parts.extend(
        job.spec
            .retry
            .max_retries
            .filter(|n| *n > 0)
            .map(|n| format!("{n} retries")),
    );
    parts.join(", ")
}

fn times(page: &mut Page, job: &JobView, now: Timestamp) {
    page.row("submitted", &show_time(job.created_at));
    if let Some(first) = job.attempts.first().filter(|_| job.attempts_total == 1) {
        let waited = show_between(Some(job.created_at), Some(first.assigned_at));
        page.row("waited", &waited.unwrap_or_default());
    } else if let Some(since) = job.queued_at {
        page.row(
            "waiting",
            &show_between(Some(since), Some(now)).unwrap_or_default(),
        );
    }
    if let Some(ended) = job.ended_at {
        page.row("ended", &show_time(ended));
        page.row(
            "took",
            &show_between(Some(job.created_at), Some(ended)).unwrap_or_default(),
        );
    }
}

/// What is known of an attempt.
pub fn attempt_rows(page: &mut Page, attempt: &AttemptView, now: Timestamp) {
    page.blank();
    page.row(
        &format!("attempt {}", attempt.number),
        &format!("on {}", attempt.worker),
    );
    match attempt.started_at {
        Some(started) => page.row("  started", &show_time(started)),
        None => page.row("  assigned", &show_time(attempt.assigned_at)),
    }
    match (&attempt.ending, attempt.ended_at) {
        (Some(ending), _) => {
            page.row("  outcome", &ending.sentence);
            if let Some(ran) = ending.ran_ms {
                page.row("  ran", &format!("for {}", show_millis(ran)));
            }
        }
        (None, None) => {
            if let Some(running) = show_between(attempt.started_at, Some(now)) {
                page.row("  running", &format!("for {running}"));
            }
        }
        (None, Some(_)) => {}
    }
    if let Some(usage) = attempt.usage {
        page.row(
            "  used",
            &format!(
                "{} of CPU time, {} of memory at its peak",
                show_millis(usage.cpu_ms),
                show_bytes(usage.memory_peak_bytes)
            ),
        );
    }
    if let Some(steps) = steps(attempt) {
        page.row("  steps", &steps);
    }
    if let Some(logs) = attempt.logs {
        let mut text = format!(
            "{} of stdout, {} of stderr",
            show_bytes(logs.stdout.bytes),
            show_bytes(logs.stderr.bytes)
        );
        let dropped: u64 = [logs.stdout.dropped, logs.stderr.dropped]
            .iter()
            .flatten()
            .map(|d| d.bytes)
            .sum();
        if dropped > 0 {
            text.push_str(&format!("; {} in the middle were not kept", show_bytes(dropped)));
        }
        page.row("  output", &text);
    }
    if attempt.logs_missing.is_some() {
        page.row("  output", "incomplete: some of it was lost on the way");
    }
    for artifact in &attempt.artifacts {
        page.row(
            "  artifact",
            &format!("{} ({})", artifact.path, show_bytes(artifact.bytes)),
        );
    }
    for refused in &attempt.artifacts_refused {
        page.row("  not kept", &format!("{}: {}", refused.path, refused.reason));
    }
}

/// How long each step on the worker took, where it said so.
pub fn steps(attempt: &AttemptView) -> Option<String> {
    let timings = attempt.timings?;
    let named = [
        ("inputs", timings.inputs_ms),
        ("pull", timings.pull_ms),
        ("create", timings.create_ms),
        ("first byte", timings.first_byte_ms),
        ("run", timings.run_ms),
        ("store", timings.store_ms),
    ];
    let parts: Vec<String> = named
        .iter()
        .filter_map(|(name, millis)| millis.map(|millis| format!("{name} {}", show_millis(millis))))
        .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Rows of a name and a value; each value one harmless line.
#[derive(Default)]
pub struct Page(String);

impl Page {
    pub fn row(&mut self, name: &str, value: &str) {
        self.0.push_str(&format!("{name:<12}{}\n", line(value)));
    }

    pub fn blank(&mut self) {
        self.0.push('\n');
    }

    /// Lines that are harmless already.
    pub fn text(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push('\n');
    }

    pub fn end(&self) -> String {
        self.0.trim_end().to_owned()
    }
}
