//! The client's verbs, one file each. A verb asks the API and shows the answer; it decides nothing itself.

mod artifacts;
mod cancel;
mod files;
mod get;
mod list;
mod login;
mod logout;
mod logs;
mod run;
mod submit;
mod why;
mod workers;

use std::path::PathBuf;

use common::time::{Clock, SystemClock, Timestamp};

use crate::args::{Global, Verb};
use crate::client::Client;
use crate::credentials::{self, Credentials, SERVER_DEFAULT};
use crate::exit::Exit;
use crate::failure::Failure;

/// Does what the command line asks of the client. `up` is not of the client.
///
/// # Errors
/// A sentence for the user, and the status to end with.
pub async fn perform(global: Global, verb: Verb) -> Result<Exit, Failure> {
    let session = Session { global };
    match verb {
        Verb::Up(args) => crate::up::perform(*args).await,
        Verb::Login(args) => login::perform(&session, args).await,
        Verb::Logout => logout::perform(&session).await,
        Verb::Run(args) => run::perform(&session, *args).await,
        Verb::Submit(args) => submit::perform(&session, *args).await,
        Verb::Get(args) => get::perform(&session, args).await,
        Verb::Why(args) => why::perform(&session, args).await,
        Verb::Logs(args) => logs::perform(&session, args).await,
        Verb::Cancel(args) => cancel::perform(&session, args).await,
        Verb::List(args) => list::perform(&session, args).await,
        Verb::Workers => workers::perform(&session).await,
        Verb::Files(verb) => files::perform(&session, verb).await,
        Verb::Artifacts(args) => artifacts::perform(&session, args).await,
    }
}

/// What each verb needs to know of its surroundings.
struct Session {
    global: Global,
}

impl Session {
    /// A client for the server that is meant: the flag's or variable's, else that of the last login, else our default.
    fn client(&self) -> Result<Client, Failure> {
        let saved = match self.saved() {
            Ok((_, saved)) => saved,
            // with server and token given, nothing of the file is needed
            Err(_) if self.global.token.is_some() => Credentials::default(),
            Err(failure) => return Err(failure),
        };
        let server = self.server(&saved);
        let token = self.given_token().or_else(|| {
            let sign_in = saved.servers.get(&server);
            sign_in.map(|sign_in| sign_in.token.clone())
        });
        Client::new(&server, token)
    }

    fn given_token(&self) -> Option<String> {
        self.global.token.clone().filter(|token| !token.is_empty())
    }

    fn server(&self, saved: &Credentials) -> String {
        let given = self.global.server.clone().filter(|server| !server.is_empty());
        given
            .or_else(|| saved.current.clone())
            .unwrap_or_else(|| SERVER_DEFAULT.to_owned())
            .trim_end_matches('/')
            .to_owned()
    }

    fn saved(&self) -> Result<(PathBuf, Credentials), Failure> {
        let path = credentials::path()?;
        let saved = Credentials::load(&path)?;
        Ok((path, saved))
    }

    const fn json(&self) -> bool {
        self.global.json
    }
}

fn now() -> Timestamp {
    SystemClock.now()
}
