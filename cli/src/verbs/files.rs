//! `files`: upload, download, list, delete.

use std::path::PathBuf;

use common::api_types::{FileList, paths};
use common::ids::FileId;

use super::{Session, now};
use crate::args::FilesVerb;
use crate::client::{Call, Client, Download, Target, Upload, upload};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::progress::Progress;
use crate::output::sanitise::line;
use crate::output::table::{show_age, table};
use crate::output::{note, print_json, print_line};
use crate::quantity::show_bytes;

pub async fn perform(session: &Session, verb: FilesVerb) -> Result<Exit, Failure> {
    let client = session.client()?;
    match verb {
        FilesVerb::Upload { paths } => upload_all(session, &client, paths).await,
        FilesVerb::Download { id, to, force } => download_one(&client, id, to, force).await,
        FilesVerb::List { limit } => list(session, &client, limit).await,
        FilesVerb::Delete { ids } => delete(&client, &ids).await,
    }
}

async fn upload_all(session: &Session, client: &Client, paths: Vec<PathBuf>) -> Result<Exit, Failure> {
    // every path is looked at before anything is sent
    let uploads = paths
        .iter()
        .map(|path| Upload::of(path))
        .collect::<Result<Vec<_>, _>>()?;
    for what in uploads {
        let file = upload(client, what, false).await?;
        if session.json() {
            print_json(&serde_json::to_vec(&file).unwrap_or_default())?;
        } else {
            print_line(&file.id.to_string())?;
        }
    }
    Ok(Exit::SUCCESS)
}

async fn download_one(
    client: &Client,
    id: FileId,
    to: Option<PathBuf>,
    force: bool,
) -> Result<Exit, Failure> {
    let file = Download::begin(client, id).await?;
    let own_name = safe_name(file.name.as_deref().unwrap_or_default(), id);
    let target = match to {
        Some(path) if path.as_os_str() == "-" => Target::Stdout,
        Some(path) if path.is_dir() => Target::File {
            path: path.join(own_name),
            replace: force,
        },
        Some(path) => Target::File { path, replace: force },
        None => Target::File {
            path: own_name.into(),
            replace: force,
        },
    };
    let progress = Progress::new(&format!("downloading {id}"), file.bytes, false);
    file.save(client, &target, &progress).await?;
    progress.finish();
    if let Target::File { path, .. } = &target {
        print_line(&line(&path.display().to_string()))?;
    }
    Ok(Exit::SUCCESS)
}

async fn list(session: &Session, client: &Client, limit: u32) -> Result<Exit, Failure> {
    let answer = client
        .call(&Call::get(paths::FILES).query("limit", limit))
        .await?;
    if session.json() {
        print_json(&answer.0)?;
        return Ok(Exit::SUCCESS);
    }
    let list: FileList = answer.parse()?;
    if list.files.is_empty() {
        note("there are no files");
        return Ok(Exit::SUCCESS);
    }
    let now = now();
    print_line(&table(
        ["id", "name", "size", "kind", "stored"],
        list.files.iter().map(|file| {
            [
                file.id.to_string(),
                file.name.clone(),
                show_bytes(file.bytes),
                if file.artifact { "artifact" } else { "upload" }.to_owned(),
                show_age(file.created_at, now),
            ]
        }),
    ))?;
    Ok(Exit::SUCCESS)
}

async fn delete(client: &Client, ids: &[FileId]) -> Result<Exit, Failure> {
    for id in ids {
        client.call(&Call::delete(&paths::file(*id))).await?;
        note(&format!("deleted {id}"));
    }
    Ok(Exit::SUCCESS)
}

/// The file's own name, where it is a plain name; the server's word is no path on this machine.
fn safe_name(name: &str, id: FileId) -> String {
    let plain = !name.is_empty()
        && name.len() <= 200
        && !name.starts_with('.')
        && !name.contains(['/', '\\'])
        && !name.chars().any(char::is_control);
    if plain { name.to_owned() } else { id.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_from_outside_is_never_a_path() {
        let id = FileId::from_u128(1);
        assert_eq!(safe_name("data.csv", id), "data.csv");
        for bad in ["", "../x", "/etc/passwd", ".bashrc", "a\nb", "a/b"] {
            assert_eq!(safe_name(bad, id), id.to_string(), "{bad:?}");
        }
    }
}
