//! What browsers leave behind. Looked for while no browser is to be there, so that
//! nothing has to be told apart: whatever is found is left over.
//!
//! ```text
//! kill what runs ─▶ remove what was written ─▶ look at both again ─▶ tell
//! ```

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use tokio::time::{Instant, sleep};

use super::census::{self, Entry};
use super::strays;
use super::user::User;

/// Where any user of a machine may write.
const SHARED_FOLDERS: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];
/// There is always one, and it is another user's: whoever does not see it sees only
/// some.
const FIRST_PROCESS: i32 = 1;
/// How many files in shared folders are looked at; it takes well under a second.
const FILES_LOOKED_AT_MAX: usize = 100_000;
/// How long what is killed may take to end.
const KILL_TAKES: Duration = Duration::from_secs(5);
/// How often the kernel's table is read meanwhile; there is no event for the end of
/// a process that is not our child.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How many things are told one by one.
const TOLD_MAX: usize = 20;

/// Where browsers live, and as whom.
#[derive(Debug, Clone)]
pub(super) struct Realm {
    pub(super) folder: PathBuf,
    pub(super) user: Option<User>,
}

impl Realm {
    /// Removes all that browsers left, and says what is left nevertheless.
    pub(super) async fn clear(&self) -> Vec<String> {
        let latest = Instant::now() + KILL_TAKES;
        while self.kill_all() > 0 && Instant::now() < latest {
            sleep(LOOK_EVERY).await;
        }
        let realm = self.clone();
        let looked = tokio::task::spawn_blocking(move || {
            realm.remove_all();
            realm.left()
        });
        match looked.await {
            Ok(left) => left,
            Err(error) => vec![format!("nobody could look: {error}")],
        }
    }

    /// How many were there to kill.
    fn kill_all(&self) -> usize {
        strays::collect_now();
        let left = self.processes();
        for entry in &left {
            match kill(Pid::from_raw(entry.process), Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => {
                    tracing::warn!(process = entry.process, %error, "could not kill a process");
                }
            }
        }
        left.len()
    }

    /// Those of the browsers' user; and those that live in the browsers' folder, which
    /// is all that tells them from others where they have no user of their own.
    fn processes(&self) -> Vec<Entry> {
        self.theirs(census::all())
    }

    fn theirs(&self, all: Vec<Entry>) -> Vec<Entry> {
        let theirs = |entry: &Entry| {
            let of_user = self.user.as_ref().is_some_and(|it| entry.is_of(it.uid));
            of_user
                || entry
                    .lives_in()
                    .is_some_and(|it| it.starts_with(&self.folder))
        };
        let all = all.into_iter();
        all.filter(|it| !it.ended && theirs(it)).collect()
    }

    fn remove_all(&self) {
        for path in self.files() {
            let removed = match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path),
                Ok(_) => fs::remove_file(&path),
                Err(_) => Ok(()),
            };
            if let Err(error) = removed {
                tracing::warn!(path = %path.display(), %error, "could not remove what a browser left");
            }
        }
    }

    /// What is in the browsers' folder, and what is their user's elsewhere.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = entries(&self.folder);
        if let Some(user) = &self.user {
            for shared in SHARED_FOLDERS {
                files.extend(files_of(user.uid, Path::new(shared)));
            }
        }
        files
    }

    /// What could not be looked at counts as left.
    fn left(&self) -> Vec<String> {
        let all = census::all();
        let whole = all.iter().any(|it| it.process == FIRST_PROCESS);
        let hidden = (!whole).then(|| "processes that the kernel does not show".to_owned());
        let closed = fs::read_dir(&self.folder)
            .err()
            .map(|error| format!("whatever is in {}: {error}", self.folder.display()));
        let processes = self.theirs(all);
        let processes = processes
            .iter()
            .map(|it| format!("process {} ({})", it.process, it.name));
        let files = self.files();
        let files = files.iter().map(|it| format!("file {}", it.display()));
        let unseen = hidden.into_iter().chain(closed);
        told(unseen.chain(processes).chain(files).collect())
    }
}

fn told(mut left: Vec<String>) -> Vec<String> {
    if left.len() > TOLD_MAX {
        let more = left.len() - TOLD_MAX;
        left.truncate(TOLD_MAX);
        left.push(format!("and {more} more"));
    }
    left
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.flatten().map(|it| it.path()).collect(),
        Err(_) => Vec::new(),
    }
}

/// The topmost files and folders of a user below this one. Links are not followed.
fn files_of(user: Uid, shared: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut looked_at = 0;
    let mut to_look_at = entries(shared);
    while let Some(path) = to_look_at.pop() {
        looked_at += 1;
        if looked_at > FILES_LOOKED_AT_MAX {
            // What was not looked at counts as left.
            found.push(shared.join("… (too many files to look at)"));
            break;
        }
        match fs::symlink_metadata(&path) {
            Ok(it) if it.uid() == user.as_raw() => found.push(path),
            Ok(it) if it.is_dir() => to_look_at.extend(entries(&path)),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::{Command, Stdio};

    use tempfile::TempDir;

    use super::*;

    fn realm() -> (TempDir, Realm) {
        let folder = TempDir::new().unwrap();
        let realm = Realm {
            folder: folder.path().canonicalize().unwrap(),
            user: None,
        };
        (folder, realm)
    }

    #[tokio::test]
    async fn profiles_files_and_links_go_and_what_a_link_leads_to_stays() {
        let (folder, realm) = realm();
        let elsewhere = TempDir::new().unwrap();
        fs::create_dir_all(folder.path().join("a/profile")).unwrap();
        fs::write(folder.path().join("a/profile/cookies"), "secret").unwrap();
        fs::write(folder.path().join("download"), "secret").unwrap();
        symlink(elsewhere.path(), folder.path().join("link")).unwrap();
        assert_eq!(realm.left().len(), 3);
        assert_eq!(realm.clear().await, [] as [String; 0]);
        assert_eq!(entries(folder.path()), [] as [PathBuf; 0]);
        assert!(elsewhere.path().exists());
    }

    #[tokio::test]
    async fn a_process_that_lives_in_the_folder_is_found_and_killed() {
        let (folder, realm) = realm();
        let mut child = Command::new("sleep")
            .arg("60")
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let named = format!("process {} (sleep)", child.id());
        assert!(realm.left().contains(&named), "{:?}", realm.left());
        let cleared = realm.clear();
        let (left, _) = tokio::join!(cleared, tokio::task::spawn_blocking(move || child.wait()));
        assert_eq!(left, [] as [String; 0]);
    }

    #[tokio::test]
    async fn what_cannot_be_removed_or_looked_at_is_told() {
        // A disk that fails is as stubborn; these are to everybody.
        for folder in ["/proc/self/fdinfo", "/proc/self/cmdline"] {
            let realm = Realm {
                folder: folder.into(),
                user: None,
            };
            assert!(!realm.clear().await.is_empty(), "{folder}");
        }
    }

    #[test]
    fn files_of_a_user_are_found_wherever_they_are_and_whole() {
        let folder = TempDir::new().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/b/c"), "").unwrap();
        let own = Uid::effective();
        assert_eq!(files_of(own, folder.path()), [folder.path().join("a")]);
        let other = Uid::from_raw(own.as_raw() + 1);
        assert_eq!(files_of(other, folder.path()), [] as [PathBuf; 0]);
    }

    #[test]
    fn much_that_is_left_is_counted() {
        let many = (0..TOLD_MAX + 5).map(|it| it.to_string()).collect();
        let told = told(many);
        assert_eq!(told.len(), TOLD_MAX + 1);
        assert_eq!(told[TOLD_MAX], "and 5 more");
    }
}
