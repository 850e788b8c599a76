//! `login`: signs in and saves the token for this user alone.

use std::io::BufRead;

use common::api_types::{LoginAnswer, LoginRequest, paths};

use super::Session;
use crate::args::LoginArgs;
use crate::client::{Call, Client};
use crate::credentials::SignIn;
use crate::exit::Exit;
use crate::failure::{Failure, io};
use crate::output::sanitise::line;
use crate::output::table::show_time;
use crate::output::{note, print_json};

/// Longest password that is read; the server's own limit is 1,024 characters.
const PASSWORD_BYTES_MAX: usize = 4_096;

pub async fn perform(session: &Session, args: LoginArgs) -> Result<Exit, Failure> {
    let (path, mut saved) = session.saved()?;
    let server = session.server(&saved);
    let client = Client::new(&server, None)?;
    let password = password(&args, &server)?;
    let request = LoginRequest {
        username: args.user.clone(),
        password,
    };
    let answer: LoginAnswer = client.ask(&Call::post(paths::LOGIN).json(&request)).await?;
    if session.json() {
        // the token is saved, and not shown on a screen
        let shown =
            serde_json::json!({ "user": answer.user, "expires_at": answer.expires_at, "server": server });
        print_json(shown.to_string().as_bytes())?;
    }
    note(&format!(
        "signed in to {server} as {} ({:?}), until {}",
        line(&answer.user.name),
        answer.user.role,
        show_time(answer.expires_at)
    ));
    saved.servers.insert(
        server.clone(),
        SignIn {
            user: answer.user.name,
            token: answer.token,
        },
    );
    saved.current = Some(server);
    saved.save(&path)?;
    Ok(Exit::SUCCESS)
}

fn password(args: &LoginArgs, server: &str) -> Result<String, Failure> {
    let text = if args.password_stdin {
        first_line()?
    } else {
        rpassword::prompt_password(format!("password of {} at {server}: ", args.user)).map_err(|error| {
            io("ask for the password", error).next("give it on standard input with `--password-stdin`")
        })?
    };
    if text.is_empty() {
        return Err(Failure::new("there is no password")
            .expected("the password, or its first line on standard input with `--password-stdin`"));
    }
    Ok(text)
}

fn first_line() -> Result<String, Failure> {
    let mut text = String::new();
    let mut input = std::io::Read::take(std::io::stdin().lock(), PASSWORD_BYTES_MAX as u64);
    input
        .read_line(&mut text)
        .map_err(|error| io("read the password from standard input", error))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}
