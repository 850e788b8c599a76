//! `cancel`: each job by itself; one that cannot be cancelled does not keep the others from it.

use common::api_types::{CancelRequestBody, JobView, paths};

use super::Session;
use crate::args::CancelArgs;
use crate::client::Call;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{note, print_json, print_line};

pub async fn perform(session: &Session, args: CancelArgs) -> Result<Exit, Failure> {
    let client = session.client()?;
    let body = CancelRequestBody { why: args.why };
    let mut failed = 0;
    for id in &args.ids {
        match client
            .call(&Call::post(&paths::job_cancel(*id)).json(&body))
            .await
        {
            Ok(answer) if session.json() => print_json(&answer.0)?,
            Ok(answer) => {
                let job: JobView = answer.parse()?;
                let told = if job.state.is_terminal() {
                    job.state.as_str()
                } else {
                    "cancel asked for, its worker stops it"
                };
                print_line(&format!("{id}  {told}"))?;
            }
            Err(failure) if args.ids.len() == 1 => return Err(failure),
            Err(failure) => {
                failed += 1;
                note(&format!("{id}: {failure}"));
            }
        }
    }
    if failed == 0 {
        Ok(Exit::SUCCESS)
    } else {
        Err(Failure::new(format!(
            "{failed} of {} jobs could not be cancelled",
            args.ids.len()
        )))
    }
}
