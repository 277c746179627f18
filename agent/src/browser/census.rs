//! The processes of this machine, as the kernel lists them. What it says here is the
//! kernel's word: a process can change its name, and not its user, parent or group.

use std::fs;
use std::path::PathBuf;

use nix::unistd::Uid;

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) process: i32,
    pub(super) parent: i32,
    pub(super) group: i32,
    /// It has ended, and nobody has asked how.
    pub(super) ended: bool,
    pub(super) name: String,
    /// Real, effective, saved, and for files.
    users: [u32; 4],
}

impl Entry {
    /// The folder that it is in; `None` where that is not ours to know.
    pub(super) fn lives_in(&self) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/cwd", self.process)).ok()
    }

    /// Whether it acts, or could act, as this user.
    pub(super) fn is_of(&self, user: Uid) -> bool {
        self.users.contains(&user.as_raw())
    }
}

/// All processes. Takes a millisecond or two: it reads two files for each.
pub(super) fn all() -> Vec<Entry> {
    let Ok(listed) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    // One that ends meanwhile is not there any more.
    listed
        .flatten()
        .filter_map(|it| it.file_name().to_str()?.parse().ok())
        .filter_map(entry)
        .collect()
}

fn entry(process: i32) -> Option<Entry> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    parse(process, &stat, &status)
}

fn parse(process: i32, stat: &str, status: &str) -> Option<Entry> {
    // The name is in parentheses, and may have parentheses and blanks in it.
    let (head, tail) = stat.rsplit_once(") ")?;
    let (_, name) = head.split_once(" (")?;
    let mut fields = tail.split(' ');
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let users = status.lines().find_map(|it| it.strip_prefix("Uid:"))?;
    let users: Vec<u32> = users
        .split_whitespace()
        .map_while(|it| it.parse().ok())
        .collect();
    Some(Entry {
        process,
        parent,
        group,
        ended: matches!(state, "Z" | "X"),
        name: name.to_owned(),
        users: users.try_into().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_pretend_to_be_another_process() {
        let stat = "42 (x) S 1 1 (y) Z 7 8 9 0";
        let status = "Name:\tx\nUid:\t1000\t1000\t0\t1000\nGid:\t1\t1\t1\t1\n";
        let entry = parse(42, stat, status).unwrap();
        assert_eq!(entry.name, "x) S 1 1 (y");
        assert_eq!((entry.parent, entry.group), (7, 8));
        assert!(entry.ended);
        assert!(entry.is_of(Uid::from_raw(0)) && entry.is_of(Uid::from_raw(1000)));
        assert!(!entry.is_of(Uid::from_raw(1)));
    }

    #[test]
    fn this_process_is_among_all() {
        let own = i32::try_from(std::process::id()).unwrap();
        let all = all();
        let found = all.iter().find(|it| it.process == own).unwrap();
        assert!(!found.ended && found.is_of(Uid::effective()));
    }
}
