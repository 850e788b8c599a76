//! `artifacts`: what a job left, listed or downloaded.

use std::path::Path;

use common::api_types::{ArtifactView, ArtifactsView, paths};
use common::ids::JobId;
use common::job::validate_path;

use super::Session;
use crate::args::ArtifactsArgs;
use crate::client::{Call, Client, Download, Target};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::progress::Progress;
use crate::output::sanitise::line;
use crate::output::table::table;
use crate::output::{note, print_json, print_line};
use crate::quantity::show_bytes;

pub async fn perform(session: &Session, args: ArtifactsArgs) -> Result<Exit, Failure> {
    let client = session.client()?;
    let answer = client.call(&Call::get(&paths::job_artifacts(args.id))).await?;
    let left: ArtifactsView = answer.parse()?;
    if let Some(folder) = &args.download {
        save(&client, &left, folder, args.force, false).await?;
    }
    if session.json() {
        print_json(&answer.0)?;
        return Ok(Exit::SUCCESS);
    }
    if args.download.is_none() {
        show(&left)?;
    }
    Ok(Exit::SUCCESS)
}

/// Downloads what a job left into `folder`; returns how many files that were.
pub async fn fetch(client: &Client, job: JobId, folder: &Path, quiet: bool) -> Result<usize, Failure> {
    let left: ArtifactsView = client.ask(&Call::get(&paths::job_artifacts(job))).await?;
    save(client, &left, folder, true, quiet).await
}

fn show(left: &ArtifactsView) -> Result<(), Failure> {
    if left.artifacts.is_empty() {
        note("the job left no files; `--artifact GLOB` at submission keeps some");
    } else {
        print_line(&table(
            ["path", "size", "file"],
            left.artifacts
                .iter()
                .map(|a| [a.path.clone(), show_bytes(a.bytes), a.file.to_string()]),
        ))?;
    }
    for refused in &left.refused {
        note(&line(&format!("not kept: {}: {}", refused.path, refused.reason)));
    }
    Ok(())
}

async fn save(
    client: &Client,
    left: &ArtifactsView,
    folder: &Path,
    replace: bool,
    quiet: bool,
) -> Result<usize, Failure> {
    for artifact in &left.artifacts {
        check(artifact)?;
    }
    let total = left.artifacts.iter().map(|artifact| artifact.bytes).sum();
    let progress = Progress::new("downloading artifacts", Some(total), quiet);
    for artifact in &left.artifacts {
        let target = Target::File {
            path: folder.join(&artifact.path),
            replace,
        };
        let file = Download::begin(client, artifact.file).await?;
        file.save(client, &target, &progress).await?;
    }
    progress.finish();
    for refused in &left.refused {
        note(&line(&format!("not kept: {}: {}", refused.path, refused.reason)));
    }
    if !quiet {
        note(&format!(
            "{} files in {}",
            left.artifacts.len(),
            line(&folder.display().to_string())
        ));
    }
    Ok(left.artifacts.len())
}

/// A path that leads out of the folder is nobody's artifact.
fn check(artifact: &ArtifactView) -> Result<(), Failure> {
    let names_a_file = artifact
        .path
        .rsplit('/')
        .next()
        .is_some_and(|name| !matches!(name, "" | "."));
    match validate_path(&artifact.path) {
        Ok(()) if names_a_file => Ok(()),
        Ok(()) => Err("it names no file"),
        Err(why) => Err(why),
    }
    .map_err(|why| {
        Failure::new(line(&format!(
            "the server names an artifact `{}`: {why}",
            artifact.path
        )))
        .expected("a path below the folder")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::ids::FileId;

    #[test]
    fn an_artifact_that_points_out_of_the_folder_is_refused() {
        let at = |path: &str| ArtifactView {
            path: path.into(),
            file: FileId::from_u128(1),
            bytes: 0,
            sha256: String::new(),
        };
        assert!(check(&at("out/a.txt")).is_ok());
        for bad in ["../a", "/etc/passwd", "a/../../b", "", "a/", "."] {
            assert!(check(&at(bad)).is_err(), "{bad}");
        }
    }
}
