//! `why`: why a job waits, where it runs, how it ended.

use common::api_types::{ExplainView, JobView, paths};
use common::ids::JobId;

use super::{Session, now};
use crate::args::WhyArgs;
use crate::client::{Call, Client};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::sanitise::line;
use crate::output::{print_json, print_line, why_page};

pub async fn perform(session: &Session, args: WhyArgs) -> Result<Exit, Failure> {
    let client = session.client()?;
    let answer = client.call(&Call::get(&paths::job_explain(args.id))).await?;
    if session.json() {
        print_json(&answer.0)?;
        return Ok(Exit::SUCCESS);
    }
    print_line(&why_page::page(&answer.parse()?, now()))?;
    Ok(Exit::SUCCESS)
}

/// Why a job waits, for verbs that show more of it; none where it does not. Never fails: it only explains.
pub async fn waiting(client: &Client, job: &JobView) -> Option<String> {
    if job.state.is_terminal() {
        return None;
    }
    waiting_now(client, job.id).await
}

/// As [`waiting`], of the job as it stands by now.
pub async fn waiting_now(client: &Client, job: JobId) -> Option<String> {
    let explained: ExplainView = client.ask(&Call::get(&paths::job_explain(job))).await.ok()?;
    explained.waiting.is_some().then(|| line(&explained.sentence))
}
