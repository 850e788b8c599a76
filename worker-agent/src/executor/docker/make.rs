//! Makes a container with its workspace, up to init's `ready`.

use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error as EngineError;
use bollard::query_parameters::CreateContainerOptions;
use common::job::Resources;
use jobworker_init::protocol::{Frame, PROTOCOL_VERSION};

use super::attach::Attachment;
use super::container::{ContainerPlan, JobUser, configuration};
use super::engine::{may_be_done, words};
use super::handle::Handle;
use super::image::ImageRules;
use super::init_binary;
use super::shared::{Shared, blocking};
use crate::executor::{ContainerRef, ExecutorError, StartFailure};

/// From the engine's word that it runs to init's `ready`; a few milliseconds unless the machine is overloaded.
const READY_MAX: Duration = Duration::from_secs(20);

/// A container whose init waits.
pub struct Built {
    pub handle: Handle,
    pub attachment: Attachment,
    /// Init's clock less the host's, in ms.
    pub skew: i64,
    pub user: JobUser,
    pub create_ms: u64,
}

/// Makes one. What it made is removed when it fails; runs to its end once begun, so call it from a task of
/// its own where the caller may go away.
///
/// # Errors
/// [`StartFailure::Infra`] with the engine's words.
pub async fn make(
    shared: &Arc<Shared>,
    image: &ImageRules,
    resources: Resources,
) -> Result<Built, StartFailure> {
    shared.removals.room().await;
    shared.look_at_leftovers().await.map_err(infra)?;
    let began = shared.clock.mono();
    let mut handle = Handle::of_none(&shared.new_name());
    let user = shared.user_for(&handle.name)?;
    match build(shared, image, resources, user, &mut handle).await {
        Ok((attachment, skew)) => Ok(Built {
            handle,
            attachment,
            skew,
            user,
            create_ms: u64::try_from(shared.clock.mono().since(began).as_millis()).unwrap_or(u64::MAX),
        }),
        Err(failure) => {
            shared.reap(handle).await;
            Err(failure)
        }
    }
}

async fn build(
    shared: &Arc<Shared>,
    image: &ImageRules,
    resources: Resources,
    user: JobUser,
    handle: &mut Handle,
) -> Result<(Attachment, i64), StartFailure> {
    let (setting, state) = (shared.init_setting.clone(), shared.state.clone());
    let init = blocking(move || init_binary::install(setting.as_deref(), &state))
        .await
        .map_err(infra)?
        .map_err(|message| StartFailure::Rejected { message })?;
    let (workspaces, name) = (Arc::clone(&shared.workspaces), handle.name.clone());
    let workspace = blocking(move || workspaces.create(&name, resources.disk_mib, user))
        .await
        .map_err(infra)?
        .map_err(|error| StartFailure::Infra {
            message: format!("{error}: {}", cause(&error)),
        })?;
    let plan = ContainerPlan {
        image_id: &image.id,
        volumes: &image.volumes,
        resources,
        user,
        init: &init.to_string_lossy(),
        workspace: &workspace.to_string_lossy(),
        owner: &shared.owner,
        life: &shared.life,
        created_ms: shared.clock.now().as_millis(),
    };
    let client = shared.engine.client().map_err(engine)?;
    let options = CreateContainerOptions {
        name: Some(handle.name.clone()),
        ..CreateContainerOptions::default()
    };
    // by its name until the engine has said the id: a lost answer does not mean that nothing was made
    handle.container = ContainerRef(handle.name.clone());
    let created = client
        .create_container(Some(options), configuration(&plan, &shared.policy))
        .await
        .inspect_err(|error| {
            if may_be_done(error) {
                handle.lost();
            }
        })
        .map_err(engine)?;
    handle.container = ContainerRef(created.id);
    // before the start: what init says first must not be lost
    let generation = shared.clock.mono().as_millis();
    let mut attachment = Attachment::open(client, &handle.container.0, generation)
        .await
        .map_err(engine)?;
    client
        .start_container(&handle.container.0, None)
        .await
        .map_err(engine)?;
    let ready = tokio::time::timeout(READY_MAX, attachment.frame()).await;
    match ready {
        Ok(Some(Frame::Ready(ready))) if ready.protocol <= PROTOCOL_VERSION => {
            let here = i64::try_from(shared.clock.mono().as_millis()).unwrap_or(i64::MAX);
            let skew = i64::try_from(ready.boot_clock_ms)
                .unwrap_or(i64::MAX)
                .saturating_sub(here);
            Ok((attachment, skew))
        }
        Ok(Some(_)) => Err(StartFailure::Infra {
            message: "init speaks another protocol".to_owned(),
        }),
        Ok(None) => Err(StartFailure::Infra {
            message: format!(
                "the container ended before init was ready: {}",
                attachment.complaint()
            ),
        }),
        Err(_) => Err(StartFailure::Infra {
            message: "init was not ready in time".to_owned(),
        }),
    }
}

fn engine(error: EngineError) -> StartFailure {
    StartFailure::Infra {
        message: words(&error),
    }
}

fn infra(error: ExecutorError) -> StartFailure {
    StartFailure::Infra {
        message: error.message,
    }
}

fn cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(String::new, ToString::to_string)
}
