//! Submission: defaults, inputs that must be the account's own, and the client's idempotency keys.

use std::collections::HashMap;

use common::api_types::{FieldProblem, INTEGER_MAX, SubmitJob, WillWaitView};
use common::error::ServiceError;
use common::identity::Principal;
use common::ids::{FileId, JobId};
use common::job::{Job, JobState};
use common::store::{Fingerprint, IdempotencyKey, Inserted, NewJob};
use sha2::{Digest, Sha256};

use super::admission;
use crate::error::{ApiError, problems};
use crate::state::AppState;

/// Jobs of one bulk.
pub const BULK_MAX: usize = 1_000;
/// Different files of one request: each costs a look at its row.
const FILES_MAX: usize = 1_000;

/// A stored job, and whether an earlier request with the same key had stored it.
pub struct Submitted {
    pub job: Job,
    pub replayed: bool,
    /// Why it will wait, where that is known by now.
    pub waiting: Option<WillWaitView>,
}

/// Stores all of `asked`, or none where any breaks a rule. Answers in order.
///
/// # Errors
/// 422 with every broken rule, or where no registered worker could ever run it; 429 past the account's limit of waiting
/// jobs; 503 when nothing is known of the write, which the same key makes safe to repeat.
pub async fn submit(
    app: &AppState,
    caller: &Principal,
    asked: Vec<SubmitJob>,
    key: Option<String>,
    bulk: bool,
) -> Result<Vec<Submitted>, ApiError> {
    let name = |place: usize, field: String| match (bulk, field.is_empty()) {
        (false, _) => field,
        (true, true) => format!("jobs[{place}]"),
        (true, false) => format!("jobs[{place}].{field}"),
    };
    let now = app.now();
    let keys = key.map(|key| fingerprints(&key, &asked, bulk));
    let mut errors = Vec::new();
    let mut jobs = Vec::with_capacity(asked.len());
    for (place, job) in asked.into_iter().enumerate() {
        let spec = job.into_spec(&app.config.default_image);
        let mut broken = problems(common::job::validate(&spec));
        if spec
            .not_before
            .is_some_and(|at| !(0..=INTEGER_MAX as i64).contains(&at.as_millis()))
        {
            broken.push(problem(
                "not_before",
                "out_of_range",
                "expected milliseconds since 1970",
            ));
        }
        for mut error in broken {
            error.field = name(place, error.field);
            errors.push(error);
        }
        let id = JobId::generate(now);
        jobs.push(Job::submitted(
            id,
            caller.account.clone(),
            caller.user.clone(),
            spec,
            now,
        ));
    }
    if errors.is_empty() {
        errors = foreign_inputs(app, caller, &jobs)
            .await?
            .into_iter()
            .map(|(place, field, code, message)| problem(name(place, field), code, message))
            .collect();
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid(errors));
    }
    let waits = admission::judge(app, caller, &jobs, keys.as_deref(), bulk).await?;
    let new = jobs
        .iter()
        .enumerate()
        .map(|(place, job)| NewJob {
            job: job.clone(),
            key: keys.as_ref().map(|keys| keys[place].clone()),
        })
        .collect();
    let let_in = match app.waiting.admit(&caller.account, jobs.len()).await {
        // Sent again: it was let in then, and has to find its job.
        Err(ServiceError::LimitReached { .. })
            if admission::taken_before(app, caller, keys.as_deref()).await? =>
        {
            None
        }
        answer => Some(answer?),
    };
    let answers = app.jobs.submit(new).await?;
    drop(let_in);
    jobs.into_iter()
        .zip(answers)
        .zip(waits)
        .map(|((job, answer), waiting)| match answer {
            Inserted::Stored => Ok(Submitted {
                job,
                replayed: false,
                waiting,
            }),
            Inserted::Repeated(job) => Ok(Submitted {
                // it may be further by now
                waiting: waiting
                    .filter(|_| matches!(job.state, JobState::Scheduled { .. } | JobState::Queued { .. })),
                job: *job,
                replayed: true,
            }),
            Inserted::KeyReused => Err(ServiceError::KeyReused.into()),
        })
        .collect()
}

/// One key a job: a bulk of which only a part was stored is completed by the same request sent again.
fn fingerprints(key: &str, asked: &[SubmitJob], bulk: bool) -> Vec<(IdempotencyKey, Fingerprint)> {
    let text = serde_json::to_vec(asked).expect("a request is plain data");
    let kind = if bulk { "bulk" } else { "one" };
    let whole = data_encoding::HEXLOWER.encode(&Sha256::digest(text));
    (0..asked.len())
        .map(|place| {
            let key = if bulk {
                format!("{key}/{place}")
            } else {
                key.to_owned()
            };
            (IdempotencyKey(key), Fingerprint(format!("{kind}:{whole}")))
        })
        .collect()
}

type Broken = (usize, String, &'static str, String);

async fn foreign_inputs(app: &AppState, caller: &Principal, jobs: &[Job]) -> Result<Vec<Broken>, ApiError> {
    let mut known: HashMap<FileId, bool> = HashMap::new();
    let mut broken = Vec::new();
    for (place, job) in jobs.iter().enumerate() {
        for (number, input) in job.spec.inputs.iter().enumerate() {
            let own = match known.get(&input.file) {
                Some(own) => *own,
                None if known.len() == FILES_MAX => {
                    let message = format!("the request names more than {FILES_MAX} different files");
                    broken.push((place, "inputs".to_owned(), "too_many", message));
                    return Ok(broken);
                }
                None => {
                    let meta = app.stores.files.meta(input.file).await?;
                    let own = meta.is_some_and(|meta| meta.account == caller.account);
                    known.insert(input.file, own);
                    own
                }
            };
            if !own {
                let field = format!("inputs[{number}].file");
                broken.push((place, field, "no_such_file", "there is no such file".to_owned()));
            }
        }
    }
    Ok(broken)
}

fn problem(field: impl Into<String>, code: &str, message: impl Into<String>) -> FieldProblem {
    FieldProblem {
        field: field.into(),
        code: code.to_owned(),
        message: message.into(),
    }
}
