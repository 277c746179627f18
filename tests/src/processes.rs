//! The processes of this machine, as `/proc` has them.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// One process.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its id.
    pub id: i32,
    /// Its group.
    pub group: i32,
    /// Its command line, arguments apart by a NUL.
    pub command: String,
}

/// All of them.
#[must_use]
pub fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name is in parentheses; then come state, parent and group.
            let group = stat.rsplit_once(") ")?.1.split(' ').nth(2)?.parse().ok()?;
            let command = fs::read(entry.path().join("cmdline")).ok()?;
            Some(Process {
                id,
                group,
                command: String::from_utf8_lossy(&command).into_owned(),
            })
        })
        .collect()
}

/// The main processes of the browsers that have their folders below this one.
#[must_use]
pub fn browsers_below(folder: &Path) -> Vec<Process> {
    let folder = folder.to_string_lossy();
    let mut found = all();
    found.retain(|it| it.command.contains(&*folder) && !it.command.contains("--type="));
    found.retain(|it| {
        it.command.contains("--remote-debugging-pipe") && !it.command.starts_with("/bin/sh")
    });
    found
}

/// Sends a signal; a process that is gone already is none of ours.
pub fn signal(id: i32, signal: Signal) {
    if let Err(error) = kill(Pid::from_raw(id), signal) {
        eprintln!("process {id} could not be signalled: {error}");
    }
}

/// Open file descriptors of a process.
#[must_use]
pub fn descriptors(id: i32) -> usize {
    fs::read_dir(format!("/proc/{id}/fd")).map_or(0, Iterator::count)
}

/// Resident memory of a process, in bytes.
#[must_use]
pub fn memory(id: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|it| it.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}
