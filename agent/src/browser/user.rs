//! The user that browsers run as: one without login, without a share in what the
//! agent may do, and without a way to what the agent keeps. It is theirs alone: when
//! an instance is recycled, all of its processes are killed.
//!
//! Whoever starts browsers as another user needs the right to (CAP_SETUID,
//! CAP_SETGID), to kill them (CAP_KILL), and to give them folders and take these away
//! (CAP_CHOWN, CAP_DAC_OVERRIDE). None of it reaches the browser: `setpriv` empties
//! what a program could inherit.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use nix::unistd::{Gid, Uid};

/// A user of this machine, found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: Uid,
    gid: Gid,
}

impl User {
    /// The user of this name.
    ///
    /// # Errors
    /// Where there is none, or it is root or the agent's own: then it would keep
    /// nothing from nothing.
    pub fn find(name: &str) -> anyhow::Result<Self> {
        let found = nix::unistd::User::from_name(name)
            .with_context(|| format!("could not look for the user {name}"))?;
        let Some(found) = found else {
            bail!("there is no user {name}");
        };
        ensure!(
            !found.uid.is_root(),
            "{name} is root, which no browser runs as"
        );
        ensure!(
            found.uid != Uid::effective(),
            "{name} is the agent's own user"
        );
        Ok(Self {
            name: found.name,
            uid: found.uid,
            gid: found.gid,
        })
    }

    /// What `setpriv` is told, so that the program it turns into runs as this user
    /// and may do nothing else.
    #[must_use]
    pub fn privileges(&self) -> [String; 5] {
        [
            format!("--reuid={}", self.uid),
            format!("--regid={}", self.gid),
            "--clear-groups".into(),
            // The rights of an agent that is not root do not end with its user's number.
            "--inh-caps=-all".into(),
            "--ambient-caps=-all".into(),
        ]
    }

    /// Gives it a file or folder.
    pub(super) fn give(&self, path: &Path) -> std::io::Result<()> {
        chown(path, Some(self.uid.as_raw()), Some(self.gid.as_raw()))
    }

    /// The first folder on the way to this one, itself included, that it cannot enter.
    pub(super) fn kept_out_of(&self, folder: &Path) -> Option<PathBuf> {
        let enters = |path: &&Path| {
            std::fs::metadata(path).is_ok_and(|it| {
                let mode = it.permissions().mode();
                let bit = if it.uid() == self.uid.as_raw() {
                    0o100
                } else if it.gid() == self.gid.as_raw() {
                    0o010
                } else {
                    0o001
                };
                mode & bit != 0
            })
        };
        let mut way: Vec<&Path> = folder
            .ancestors()
            .filter(|it| !it.as_os_str().is_empty())
            .collect();
        way.reverse();
        way.into_iter().find(|it| !enters(it)).map(Path::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn root_and_nobody_at_all_run_no_browser() {
        for name in ["root", "no-such-user", "a\0b"] {
            assert!(User::find(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_folder_in_the_way_is_named() {
        let user = User {
            name: "other".into(),
            uid: Uid::from_raw(65_533),
            gid: Gid::from_raw(65_533),
        };
        let temporary = TempDir::new().unwrap();
        let folder = temporary.path().join("browsers");
        fs::create_dir(&folder).unwrap();
        let mode = |path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        mode(temporary.path(), 0o700);
        assert_eq!(user.kept_out_of(&folder), Some(temporary.path().to_owned()));
        mode(temporary.path(), 0o711);
        mode(&folder, 0o710);
        assert_eq!(user.kept_out_of(&folder), Some(folder.clone()));
        mode(&folder, 0o711);
        assert_eq!(user.kept_out_of(&folder), None);
    }
}
