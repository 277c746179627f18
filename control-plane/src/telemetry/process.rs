//! What this process takes of its machine, as the kernel says.

use std::fs;

/// Memory that is not swapped out, in bytes.
pub(super) fn resident_memory_bytes() -> Option<u64> {
    kibibytes(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:").map(|it| it * 1024)
}

/// Descriptors that are open.
pub(super) fn descriptors() -> Option<u64> {
    let open = fs::read_dir("/proc/self/fd").ok()?.count();
    // One of them is the folder's own.
    u64::try_from(open).ok()?.checked_sub(1)
}

/// Descriptors that may be open.
pub(super) fn descriptors_max() -> Option<u64> {
    soft_limit(
        &fs::read_to_string("/proc/self/limits").ok()?,
        "Max open files",
    )
}

fn kibibytes(status: &str, name: &str) -> Option<u64> {
    let rest = status.lines().find_map(|it| it.strip_prefix(name))?;
    rest.trim().strip_suffix(" kB")?.parse().ok()
}

fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    let rest = limits.lines().find_map(|it| it.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let status = "Name:\tbrowserfleet\nVmRSS:\t   61440 kB\n";
        assert_eq!(kibibytes(status, "VmRSS:"), Some(61_440));
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
            Max open files            1024                 524288               files\n";
        assert_eq!(soft_limit(limits, "Max open files"), Some(1024));
        let unlimited =
            "Max open files            unlimited            unlimited            files\n";
        assert_eq!(soft_limit(unlimited, "Max open files"), None);
    }

    #[test]
    fn this_process_has_some_of_each() {
        assert!(resident_memory_bytes().is_some_and(|it| it > 100_000));
        let (open, most) = (descriptors(), descriptors_max());
        assert!(open.is_some_and(|it| it >= 3), "{open:?}");
        assert!(most >= open);
    }
}
