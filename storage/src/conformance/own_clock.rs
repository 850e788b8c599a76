//! A clock for a server of a test's own, that the test turns.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = include_str!("own_clock.c");

pub struct OwnClock {
    library: PathBuf,
    offset: PathBuf,
    file: File,
}

impl OwnClock {
    /// Right for now. Needs a C compiler, as the build of this project does.
    pub fn new(folder: &Path) -> Self {
        let (source, library) = (folder.join("own_clock.c"), folder.join("own_clock.so"));
        std::fs::write(&source, SOURCE).unwrap();
        let made = Command::new("cc")
            .args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .output()
            .expect("a C compiler is here");
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "the clock does not compile: {said}");
        let offset = folder.join("own_clock");
        let file = File::create(&offset).unwrap();
        let clock = Self {
            library,
            offset,
            file,
        };
        clock.turn(0);
        clock
    }

    /// So many seconds ahead of the machine's clock from now on, or behind it.
    pub fn turn(&self, seconds: i64) {
        self.file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    /// Has what `command` starts live by it.
    pub fn give_to(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("OWN_CLOCK", &self.offset);
    }
}
