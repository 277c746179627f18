//! A wall clock that jumps when its test says so; the monotonic clock goes on as it is.
//! It is Debian's `libfaketime`, preloaded.

use std::path::PathBuf;

use anyhow::Context;
use tempfile::TempDir;

/// What some processes take for the time of day.
#[derive(Debug)]
pub struct WallClock {
    folder: TempDir,
    library: PathBuf,
}

impl WallClock {
    /// A clock that is right so far.
    ///
    /// # Errors
    /// Where the library is not installed.
    pub fn new() -> anyhow::Result<Self> {
        let library = std::fs::read_dir("/usr/lib")?
            .flatten()
            .map(|entry| entry.path().join("faketime/libfaketime.so.1"))
            .find(|path| path.exists())
            .context("libfaketime is missing; run: apt-get install libfaketime")?;
        let clock = Self {
            folder: TempDir::new()?,
            library,
        };
        clock.set(0)?;
        Ok(clock)
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("offset")
    }

    /// Makes it this many seconds fast, or slow.
    ///
    /// # Errors
    /// Where its file cannot be written.
    pub fn set(&self, seconds_fast: i64) -> anyhow::Result<()> {
        // Moved into place: a reader sees the old or the new one.
        let new = self.folder.path().join("new");
        std::fs::write(&new, format!("{seconds_fast:+}s\n"))?;
        Ok(std::fs::rename(new, self.file())?)
    }

    /// What a process that goes by it has in its environment.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file().display().to_string()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }
}
