//! `logout`: ends the sign-in on the server and removes the token here, whatever the server says.

use common::api_types::paths;

use super::Session;
use crate::client::{Call, Client};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::note;

pub async fn perform(session: &Session) -> Result<Exit, Failure> {
    let (path, mut saved) = session.saved()?;
    let server = session.server(&saved);
    let Some(sign_in) = saved.servers.remove(&server) else {
        note(&format!("not signed in to {server}"));
        return Ok(Exit::SUCCESS);
    };
    if saved.current.as_deref() == Some(server.as_str()) {
        saved.current = None;
    }
    saved.save(&path)?;
    let client = Client::new(&server, Some(sign_in.token))?;
    match client.call(&Call::post(paths::LOGOUT)).await {
        Ok(_) => note(&format!("signed out of {server}")),
        Err(failure) => note(&format!(
            "the token is removed here, but the server was not told: {failure}"
        )),
    }
    Ok(Exit::SUCCESS)
}
