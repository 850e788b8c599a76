//! What a server or the network said, as sentences.

use common::api_types::Problem;
use reqwest::StatusCode;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::sanitise::line;
use crate::output::why_page;

/// Most broken rules that are shown; the rest is counted.
const RULES_SHOWN_MAX: usize = 20;
/// Most workers whose verdicts are shown; the rest is counted.
const WORKERS_SHOWN_MAX: usize = 10;

/// No answer, or half of one.
pub fn transport(server: &str, error: reqwest::Error) -> Failure {
    let refused = error.is_connect();
    let late = error.is_timeout();
    // the address is in the sentence already, and may hold what should not be printed
    let failure = |what: String| Failure::new(what).exit(Exit::FAILURE);
    if late {
        failure(format!("{server} did not answer in time"))
            .next("look at the server's log; the same command may be given again")
    } else if refused {
        failure(format!("nothing answers at {server}"))
            .source(error.without_url())
            .expected("a JobWorker API that listens there")
            .next("start one with `jobworker up`, or name another with `--server URL`")
    } else {
        failure(format!("the connection to {server} broke"))
            .source(error.without_url())
            .next("look at the server's log; the same command may be given again")
    }
}

/// The server's refusal, in its own words.
pub fn refused(server: &str, status: StatusCode, body: &[u8], with_token: bool) -> Failure {
    let Ok(problem) = serde_json::from_slice::<Problem>(body) else {
        return Failure::new(format!("{server} answered {status} without saying why"))
            .expected("a JobWorker API at that address")
            .next("check the address: `--server URL`");
    };
    let mut failure = Failure::new(line(&sentence(&problem)));
    for rule in problem.errors.iter().take(RULES_SHOWN_MAX) {
        failure = failure.detail(if rule.field.is_empty() {
            line(&rule.message)
        } else {
            line(&format!("{}: {}", rule.field, rule.message))
        });
    }
    if let Some(more) = problem.errors.len().checked_sub(RULES_SHOWN_MAX + 1) {
        failure = failure.detail(format!("and {} more", more + 1));
    }
    if let Some(mut fleet) = problem.fleet.clone() {
        fleet.workers.truncate(WORKERS_SHOWN_MAX);
        for verdict in &fleet.workers {
            failure = failure.detail(line(&format!("{}: {}", verdict.worker, verdict.words)));
        }
        if let Some(more) = why_page::more(&fleet) {
            failure = failure.detail(more);
        }
        failure = failure
            .expected("a job that one of the registered workers could run with nothing else on it")
            .next("ask for less, another pool or other labels, or start a worker that could run it");
    }
    match next_step(status, with_token) {
        Some(next) => failure.next(next),
        None if status.is_server_error() => failure.next(format!(
            "look for {} in the server's log",
            line(&problem.request_id)
        )),
        None => failure,
    }
}

fn sentence(problem: &Problem) -> String {
    if problem.detail.is_empty() {
        problem.title.clone()
    } else {
        problem.detail.clone()
    }
}

fn next_step(status: StatusCode, with_token: bool) -> Option<String> {
    let text = match status {
        StatusCode::UNAUTHORIZED if with_token => "sign in again: `jobworker login`",
        StatusCode::UNAUTHORIZED => "sign in first: `jobworker login`",
        StatusCode::FORBIDDEN => {
            "ask an administrator, or sign in as somebody else: `jobworker login --user NAME`"
        }
        StatusCode::NOT_FOUND => "check the id; `jobworker list` shows what there is",
        StatusCode::TOO_MANY_REQUESTS => "wait a little, then give the same command again",
        StatusCode::SERVICE_UNAVAILABLE => "give the same command again in a few seconds",
        _ => return None,
    };
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::api_types::FieldProblem;

    fn problem(status: u16) -> Problem {
        Problem {
            kind: "about:blank".into(),
            title: "Unprocessable".into(),
            status,
            detail: "the request breaks 1 rule(s)".into(),
            instance: "/api/v1/jobs".into(),
            code: "invalid".into(),
            request_id: "req_x".into(),
            fleet: None,
            errors: vec![FieldProblem {
                field: "image".into(),
                code: "bad".into(),
                message: "must not be empty\u{1b}[2J".into(),
            }],
        }
    }

    #[test]
    fn a_refusal_shows_each_broken_rule_and_no_control_sequence() {
        let body = serde_json::to_vec(&problem(422)).unwrap();
        let text = refused("http://h", StatusCode::UNPROCESSABLE_ENTITY, &body, true).to_string();
        assert_eq!(text, "the request breaks 1 rule(s)\n  image: must not be empty");
    }

    #[test]
    fn who_is_not_signed_in_is_told_how() {
        let body = serde_json::to_vec(&problem(401)).unwrap();
        let text = refused("http://h", StatusCode::UNAUTHORIZED, &body, false).to_string();
        assert!(text.contains("jobworker login"), "{text}");
    }

    #[test]
    fn an_answer_of_somebody_else_says_so() {
        let text = refused("http://h", StatusCode::BAD_GATEWAY, b"<html>", true).to_string();
        assert!(text.contains("502") && text.contains("--server"), "{text}");
    }
}
