//! Ctrl-C during `run`: once cancels and stays, twice leaves the job alone.

use common::attempt::Outcome;
use common::ids::{AttemptId, JobId};
use common::job::StateName;
use common::log::Stream;

use crate::support::{Server, Shell, stdout};

/// A `run` that follows a job, which runs and has printed `at work`.
async fn at_work(server: &Server) -> (Shell, JobId, AttemptId) {
    let mut run = server.start_shell(&["run", "--", "sleep", "1000"]);
    let job = server.first_queued().await;
    let attempt = server.start_job(job).await;
    server.log(attempt, Stream::Stdout, 0, "at work\n").await;
    run.stdout.until("at work").await;
    (run, job, attempt)
}

#[tokio::test]
async fn one_interrupt_cancels_and_stays_for_the_last_words() {
    let server = Server::signed_in().await;
    let (mut run, job, attempt) = at_work(&server).await;

    run.interrupt();
    let request = server.asked_cancel(job).await;
    assert_eq!(request.why.as_deref(), Some("Ctrl-C"));
    run.stderr
        .until("cancelling; Ctrl-C again leaves the job alone")
        .await;
    run.stderr.until("cancel asked for").await;
    assert_eq!(
        server.row(job).await.state.name(),
        StateName::Running,
        "it has its grace"
    );

    server.log(attempt, Stream::Stdout, 1, "last words\n").await;
    run.stdout.until("last words").await;
    let outcome = Outcome::Cancelled {
        by: request.by,
        why: request.why,
    };
    server.finish_job(job, attempt, outcome).await;

    assert_eq!(run.exit_code().await, Some(130), "{:?}", run.stderr.so_far);
    assert_eq!(run.stdout.so_far, ["at work", "last words"]);
    let told = format!("{job}: cancelled: ");
    assert!(
        run.stderr.so_far.iter().any(|line| line.starts_with(&told)),
        "{:?}",
        run.stderr.so_far
    );
    assert_eq!(server.row(job).await.state.name(), StateName::Cancelled);
    server.stop().await;
}

#[tokio::test]
async fn a_second_interrupt_leaves_the_job_alone() {
    let server = Server::signed_in().await;
    let (mut run, job, attempt) = at_work(&server).await;

    run.interrupt();
    // two at once would be heard as one
    let first = server.asked_cancel(job).await;
    run.interrupt();

    assert_eq!(run.exit_code().await, Some(130), "{:?}", run.stderr.so_far);
    let told = format!("{job} is left alone; follow it with `jobworker logs -f {job}`");
    assert!(run.stderr.so_far.contains(&told), "{:?}", run.stderr.so_far);
    let row = server.row(job).await;
    assert_eq!(row.state.name(), StateName::Running, "nobody has ended it");
    assert_eq!(row.cancel.as_ref(), Some(&first));

    // what it says may be followed: its words come, and its end
    let id = job.to_string();
    let follow = ["logs", "-f", id.as_str()];
    let following = server.shell(&follow);
    let rest = async {
        server.log(attempt, Stream::Stdout, 1, "last words\n").await;
        server
            .finish_job(job, attempt, Outcome::Signaled { signal: 15 })
            .await;
    };
    let (followed, ()) = tokio::join!(following, rest);
    assert_eq!(stdout(&followed), "at work\nlast words\n");
    assert_eq!(server.row(job).await.state.name(), StateName::Cancelled);
    server.stop().await;
}
