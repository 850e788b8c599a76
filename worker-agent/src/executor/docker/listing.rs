//! What the engine has of ours.

use std::collections::HashMap;

use bollard::query_parameters::ListContainersOptions;
use common::time::Timestamp;

use super::container::{LABEL_CREATED, LABEL_LIFE, LABEL_OWNER, LABEL_UID};
use super::engine::words;
use super::handle::Handle;
use super::shared::Shared;
use crate::executor::{ContainerRef, ExecutorError};

pub struct Listed {
    pub handle: Handle,
    /// The host user in it.
    pub user: Option<u32>,
    pub created_at: Timestamp,
    pub of_this_life: bool,
}

impl Shared {
    /// Every container of this agent and state folder, running or not.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn list(&self) -> Result<Vec<Listed>, ExecutorError> {
        let options = ListContainersOptions {
            all: true,
            filters: Some(HashMap::from([(
                "label".to_owned(),
                vec![format!("{LABEL_OWNER}={}", self.owner)],
            )])),
            ..ListContainersOptions::default()
        };
        let client = self
            .engine
            .client()
            .map_err(|error| ExecutorError::new(words(&error)))?;
        let listed = client
            .list_containers(Some(options))
            .await
            .map_err(|error| ExecutorError::new(words(&error)))?;
        Ok(listed
            .into_iter()
            .filter_map(|summary| {
                let (id, labels) = (summary.id?, summary.labels.unwrap_or_default());
                let number = |label: &str| labels.get(label).and_then(|text| text.parse::<i64>().ok());
                // One that is half removed may have none.
                let name = summary.names.unwrap_or_default().into_iter().next();
                let name = name.unwrap_or_else(|| id.clone());
                Some(Listed {
                    handle: Handle::of(ContainerRef(id), &name),
                    user: number(LABEL_UID).and_then(|user| u32::try_from(user).ok()),
                    created_at: Timestamp::from_millis(number(LABEL_CREATED).unwrap_or(0)),
                    of_this_life: labels.get(LABEL_LIFE) == Some(&self.life),
                })
            })
            .collect())
    }
}
