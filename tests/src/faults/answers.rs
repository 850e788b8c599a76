//! An acknowledgement that nobody hears: the API is killed when the job is stored and before the client is told.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use common::api_types::SubmitJob;
use common::ids::JobId;
use common::store::JobQuery;

use super::stage::Stage;
use crate::client::{Client, Refused};
use crate::marked::patient;
use crate::proxy::Weather;
use crate::sim;
use crate::wait::{LONG, wait_for};

/// A variable of such a job: it stands in the write that stores it, and in no question before that.
const UNHEARD: &str = "stored-and-not-told";
/// More than are submitted beside it meanwhile.
const NEWEST: usize = 200;
/// What another request under a used key is answered.
const KEY_REUSED: u16 = 422;

/// The database's answers are held on the way to the API, so what it asks to be stored is stored and it cannot know: so
/// the instant is the one between the two, and not by lot. The client asks again, at whatever API there is.
pub async fn api_killed(stage: &mut Stage) -> Result<()> {
    let number = usize::try_from(stage.chaos.number(stage.fleet.apis.len() as u64 - 1))?;
    stage.lasts(20, 400).await;
    let api = stage.fleet.apis.get(number).context("there are fewer")?;
    let way = api.ways()?.mongo.clone();
    let client = Client::new(&format!("http://{}", api.address))?.with_token(stage.hands.client.token());
    let key = format!("stored-{:08x}", stage.chaos.number(u64::from(u32::MAX)));
    let job = patient(sim::job());
    let job = SubmitJob {
        env: [("WHY".to_owned(), UNHEARD.to_owned())].into(),
        ..job
    };
    let (recorder, told) = (stage.recorder.clone(), AtomicBool::new(false));
    way.turns(Weather::HoldsAnswersTo(UNHEARD.as_bytes()));
    let submit = async {
        let id = recorder.submit(&client, &key, &job).await;
        told.store(true, Ordering::SeqCst);
        id
    };
    let kill = async {
        let stored = stored(stage, &key).await;
        let before_it_was_told = !told.load(Ordering::SeqCst);
        stage.fault("an API is killed between a job's storing and its answer");
        let api = stage.fleet.apis.get_mut(number).context("there are fewer")?;
        api.kill()?;
        // what was held reaches nobody now
        way.clears();
        client.moved_to(&format!("http://{}", stage.front.address()));
        stage.lasts(0, 300).await;
        let api = stage.fleet.apis.get_mut(number).context("there are fewer")?;
        api.start()?;
        api.listens().await?;
        if before_it_was_told {
            stage.unheard += 1;
        }
        stored
    };
    let (acknowledged, stored) = tokio::join!(submit, kill);
    let (acknowledged, stored) = (acknowledged?, stored?);
    ensure!(
        acknowledged == stored,
        "{key} was stored as {stored}, and asked for again it is {acknowledged}"
    );
    another_is_refused(&client, &key).await
}

/// The job of this name, once it is in the database.
async fn stored(stage: &Stage, name: &str) -> Result<JobId> {
    let newest = JobQuery {
        limit: NEWEST,
        ..JobQuery::default()
    };
    wait_for(LONG, "a job to be stored whose API is not told", async || {
        let jobs = stage.opened.stores.jobs.list(&newest).await;
        let jobs = jobs.map_err(|error| error.to_string())?.items;
        let found = jobs.iter().find(|job| job.spec.name.as_deref() == Some(name));
        found.map(|job| job.id).ok_or_else(|| "it is not".to_owned())
    })
    .await
}

/// The key stands for that request alone.
async fn another_is_refused(client: &Client, key: &str) -> Result<()> {
    let other = SubmitJob {
        name: Some("another".to_owned()),
        ..sim::job()
    };
    wait_for(
        LONG,
        "another request under its key to be refused",
        async || match client.submit_keyed(&other, key).await {
            Ok(job) => Ok(Err(anyhow::anyhow!("it was taken as {}", job.id))),
            Err(error) => match error.downcast_ref::<Refused>() {
                Some(refused) if refused.status == KEY_REUSED => Ok(Ok(())),
                _ => Err(format!("{error:#}")),
            },
        },
    )
    .await?
}
