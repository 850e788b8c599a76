//! Output that is not there is told, at its place and on the job's page: nobody takes a part for the whole.

use common::attempt::{AttemptReport, Outcome};
use common::log::{DroppedRange, LogEnd, MissingLogs, Stream, StreamEnd};

use crate::support::{Server, stderr, stdout};

#[tokio::test]
async fn pieces_that_a_log_lacks_are_told_at_their_place() {
    let server = Server::signed_in().await;
    let job = server.submitted().await;
    let attempt = server.start_job(job).await;
    server.log(attempt, Stream::Stdout, 0, "first\n").await;
    server.log(attempt, Stream::Stdout, 5, "sixth\n").await;
    server.log(attempt, Stream::Stderr, 2, "third\n").await;
    let id = job.to_string();
    let told = "[4 pieces of stdout are missing here]\n[2 pieces of stderr are missing here]\nthird\n";

    let stored = server.shell(&["logs", &id]).await;
    assert_eq!(
        (stdout(&stored).as_str(), stderr(&stored).as_str()),
        ("first\nsixth\n", told)
    );
    server.finish_job(job, attempt, Outcome::Exited { code: 0 }).await;
    let followed = server.shell(&["logs", "-f", &id]).await;
    assert_eq!(
        (stdout(&followed).as_str(), stderr(&followed).as_str()),
        ("first\nsixth\n", told)
    );
    server.stop().await;
}

#[tokio::test]
async fn the_page_of_a_job_tells_what_of_its_output_is_not_there() {
    let server = Server::signed_in().await;
    let logs = LogEnd {
        stdout: StreamEnd {
            chunks: 6,
            bytes: 6 * 1_024,
            dropped: Some(DroppedRange {
                from: 1,
                until: 5,
                bytes: 4 * 1_024,
            }),
        },
        stderr: StreamEnd::default(),
    };
    let lost = MissingLogs {
        stdout: vec![(1, 5)],
        stderr: Vec::new(),
    };
    let dropped_words = "6.0 KiB of stdout, 0 B of stderr; 4.0 KiB in the middle were not kept";
    let lost_words = "incomplete: some of it was lost on the way";
    for (logs, missing, dropped_told, lost_told) in [
        (logs, MissingLogs::default(), true, false),
        (LogEnd::default(), lost, false, true),
        (LogEnd::default(), MissingLogs::default(), false, false),
    ] {
        let job = server.submitted().await;
        let attempt = server.start_job(job).await;
        let report = AttemptReport {
            logs,
            ..AttemptReport::bare(Outcome::Exited { code: 0 })
        };
        server.report(job, attempt, report, missing).await;
        let page = stdout(&server.shell(&["get", &job.to_string()]).await);
        assert_eq!(page.contains(dropped_words), dropped_told, "{page}");
        assert_eq!(page.contains(lost_words), lost_told, "{page}");
    }
    server.stop().await;
}
