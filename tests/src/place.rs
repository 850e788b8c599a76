//! Folders of the tests' own in the temporary one, which go with them; and with the next test where they could not,
//! because their process was killed.

use std::io;
use std::path::Path;

use tempfile::TempDir;

/// A folder that goes when it is dropped. What earlier processes left of this kind goes now.
///
/// # Errors
/// No folder can be made.
pub fn folder(kind: &str) -> io::Result<TempDir> {
    folder_in(&std::env::temp_dir(), kind)
}

/// As [`folder`], elsewhere.
///
/// # Errors
/// No folder can be made.
pub fn folder_in(place: &Path, kind: &str) -> io::Result<TempDir> {
    let prefix = format!("jw-{kind}-");
    sweep(place, &prefix)?;
    tempfile::Builder::new()
        .prefix(&format!("{prefix}{}-", std::process::id()))
        .tempdir_in(place)
}

/// Removes what belongs to processes that are gone. Another test may do the same at the same time.
fn sweep(place: &Path, prefix: &str) -> io::Result<()> {
    for entry in std::fs::read_dir(place)? {
        let Ok(entry) = entry else { continue };
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(prefix)?.split_once('-')?.0.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_goes_with_the_next_and_nothing_else_does() {
        let place = tempfile::tempdir().unwrap();
        // above what any kernel gives out
        let dead = place.path().join("jw-kind-4194305-x");
        let others =
            ["jw-kind-1-x", "jw-other-4194305-x", "jw-kind-without"].map(|name| place.path().join(name));
        for folder in others.iter().chain([&dead]) {
            std::fs::create_dir_all(folder.join("within")).unwrap();
        }
        let ours = folder_in(place.path(), "kind").unwrap();
        let next = folder_in(place.path(), "kind").unwrap();
        assert!(!dead.exists() && others.iter().all(|folder| folder.exists()));
        let path = ours.path().to_owned();
        drop(ours);
        assert!(!path.exists() && next.path().exists());
    }
}
