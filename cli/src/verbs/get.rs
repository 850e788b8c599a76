//! `get`: all that is known of a job.

use common::api_types::{JobView, paths};

use super::{Session, now, why};
use crate::args::GetArgs;
use crate::client::Call;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{job_page, print_json, print_line};

pub async fn perform(session: &Session, args: GetArgs) -> Result<Exit, Failure> {
    let client = session.client()?;
    let answer = client.call(&Call::get(&paths::job(args.id))).await?;
    if session.json() {
        print_json(&answer.0)?;
        return Ok(Exit::SUCCESS);
    }
    let job: JobView = answer.parse()?;
    print_line(&job_page::page(&job, now()))?;
    if let Some(why) = why::waiting(&client, &job).await {
        print_line(&format!("\nwaits: {why}"))?;
    }
    Ok(Exit::SUCCESS)
}
