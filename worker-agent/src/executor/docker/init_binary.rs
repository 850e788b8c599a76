//! Finds `jobworker-init` and keeps a copy of it that is never overwritten: containers of older agents still use theirs.

use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Names the binary where it does not lie beside the agent.
pub const INIT_VARIABLE: &str = "JOBWORKER_INIT";
const FILE_NAME: &str = "jobworker-init";
/// Digits of the hash in the folder's name: no two versions of ours collide.
const HASH_DIGITS: usize = 16;

/// Copies the binary into `state` unless the same one is there, and answers with the copy's path. Blocking.
///
/// # Errors
/// A sentence that says what to do.
pub fn install(setting: Option<&Path>, state: &Path) -> Result<PathBuf, String> {
    let source = find(setting)?;
    copy(&source, state).map_err(|error| {
        format!(
            "{} cannot be copied to {}: {error}",
            source.display(),
            state.display()
        )
    })
}

fn find(setting: Option<&Path>) -> Result<PathBuf, String> {
    if let Some(path) = setting
        .map(Path::to_path_buf)
        .or_else(|| std::env::var_os(INIT_VARIABLE).map(PathBuf::from))
    {
        return if path.is_file() {
            Ok(path)
        } else {
            Err(format!(
                "{INIT_VARIABLE} names {}, which is no file",
                path.display()
            ))
        };
    }
    let program =
        std::env::current_exe().map_err(|error| format!("the agent cannot find itself: {error}"))?;
    // the folder above is where cargo puts programs, tests being one deeper
    program
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(FILE_NAME))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            format!(
                "{FILE_NAME} is not beside {}: install it there or set {INIT_VARIABLE} to its path",
                program.display()
            )
        })
}

fn copy(source: &Path, state: &Path) -> io::Result<PathBuf> {
    let bytes = std::fs::read(source)?;
    let hash: String = Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let folder = state.join("init").join(&hash[..HASH_DIGITS]);
    let target = folder.join(FILE_NAME);
    if target.is_file() {
        return Ok(target);
    }
    std::fs::create_dir_all(&folder)?;
    // the job's user has to reach it through the mount alone; the folders' own permissions do not matter there
    let temporary = folder.join(format!(".{FILE_NAME}.{}", rand::random::<u64>()));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o555)
        .open(&temporary)?;
    file.write_all(&bytes)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o555))?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&temporary, &target)?;
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_another_file_and_the_first_stays() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("built");
        std::fs::write(&source, "one").unwrap();
        let first = install(Some(&source), folder.path()).unwrap();
        std::fs::write(&source, "two").unwrap();
        let second = install(Some(&source), folder.path()).unwrap();
        assert_ne!(first, second);
        assert_eq!(std::fs::read_to_string(&first).unwrap(), "one");
        assert_eq!(install(Some(&source), folder.path()).unwrap(), second);
        assert_eq!(
            std::fs::metadata(&second).unwrap().permissions().mode() & 0o777,
            0o555
        );
    }

    #[test]
    fn a_missing_binary_is_a_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let problem = install(Some(&folder.path().join("none")), folder.path()).unwrap_err();
        assert!(problem.contains(INIT_VARIABLE), "{problem}");
    }
}
