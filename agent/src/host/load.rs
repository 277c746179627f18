//! How busy the machine is, for the heartbeat.

use std::fs;

use nix::sys::statvfs::statvfs;

/// What a heartbeat says of the machine; 0 where it cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// The 1-minute load average, times 100.
    pub load_percent: u32,
    /// Memory that new work could have.
    pub memory_available_bytes: u64,
    /// Space where profiles are.
    pub disk_available_bytes: u64,
    /// Processors that work is spread over.
    pub processors: u32,
}

/// Reads it. Takes microseconds: these files are not on a disk.
#[must_use]
pub fn now() -> Load {
    Load {
        load_percent: fs::read_to_string("/proc/loadavg")
            .ok()
            .and_then(|text| load_percent(&text))
            .unwrap_or(0),
        memory_available_bytes: fs::read_to_string("/proc/meminfo")
            .ok()
            .and_then(|text| memory_available(&text))
            .unwrap_or(0),
        disk_available_bytes: statvfs("/tmp")
            .map_or(0, |it| it.blocks_available() * it.fragment_size()),
        processors: std::thread::available_parallelism()
            .map_or(0, |it| u32::try_from(it.get()).unwrap_or(u32::MAX)),
    }
}

fn load_percent(text: &str) -> Option<u32> {
    let first = text.split(' ').next()?;
    let (whole, fraction) = first.split_once('.')?;
    Some(whole.parse::<u32>().ok()? * 100 + fraction.parse::<u32>().ok()?)
}

fn memory_available(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|it| it.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read() {
        assert_eq!(load_percent("1.25 0.50 0.10 1/234 5678"), Some(125));
        let text = "MemTotal: 10 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(memory_available(text), Some(2048 * 1024));
    }
}
